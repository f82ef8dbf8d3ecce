"""W3C Trace Context: what is taken, what is ignored, and what is said on."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.trace_context import TraceContext, new_span_id, new_trace_id, trace_context, traceparent

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
VALID = f"00-{TRACE_ID}-{PARENT_ID}-01"

TAKEN = {
    VALID: 1,
    f"00-{TRACE_ID}-{PARENT_ID}-00": 0,
    f"00-{TRACE_ID}-{PARENT_ID}-03": 3,
    # flags without a meaning are sent on as zero
    f"00-{TRACE_ID}-{PARENT_ID}-ff": 3,
    f"00-{TRACE_ID}-{PARENT_ID}-08": 0,
    # later versions, which may say more
    f"cc-{TRACE_ID}-{PARENT_ID}-01": 1,
    f"01-{TRACE_ID}-{PARENT_ID}-01-what-the-future-will-be-like": 1,
    f"fe-{TRACE_ID}-{PARENT_ID}-01-": 1,
}

IGNORED = [
    "",
    "canary",
    VALID.upper(),
    VALID[:-1],
    VALID + "1",
    VALID + "-",
    VALID + "-more",
    VALID + "\n",
    " " + VALID,
    VALID.replace("-", "_"),
    f"ff-{TRACE_ID}-{PARENT_ID}-01",
    f"0-{TRACE_ID}-{PARENT_ID}-01",
    f"000-{TRACE_ID}-{PARENT_ID}-01",
    f"xx-{TRACE_ID}-{PARENT_ID}-01",
    f"cc-{TRACE_ID}-{PARENT_ID}-01.more",
    f"00-{'0' * 32}-{PARENT_ID}-01",
    f"00-{TRACE_ID}-{'0' * 16}-01",
    f"00-{TRACE_ID[:-1]}-{PARENT_ID}-01",
    f"00-{TRACE_ID}-{PARENT_ID}0-01",
    f"00-{TRACE_ID}-{PARENT_ID}-0g",
    f"00-{TRACE_ID}-{PARENT_ID}-1",
    f"00-{TRACE_ID}-{PARENT_ID}",
    VALID + "\r\nx-injected: 1",
    # digits, but none of ASCII's
    VALID.replace("0", "٠"),
]


@pytest.mark.parametrize("text", TAKEN)
def test_a_valid_traceparent_is_taken(text):
    assert trace_context([text], []) == TraceContext(TRACE_ID, PARENT_ID, TAKEN[text])


@pytest.mark.parametrize("text", IGNORED)
def test_one_that_is_not_valid_is_ignored_and_so_is_its_tracestate(text):
    assert trace_context([text], ["a=1"]) is None


def test_two_of_them_are_none():
    assert trace_context([VALID, VALID], []) is None
    assert trace_context([], ["a=1"]) is None


def members(count, length=40):
    return ",".join(f"k{number:02}={'v' * length}" for number in range(count))


STATES = {
    "one member": (["a=1"], "a=1"),
    "several, over several headers": (["a=1,b=2", "c=3"], "a=1,b=2,c=3"),
    "spaces and empty members": (["a=1 ,\t b=2", "", " , "], "a=1,b=2"),
    "a space inside a value": (["a=1 2"], "a=1 2"),
    "a tenant": (["fw529a3039@dt=FfffffeIp4"], "fw529a3039@dt=FfffffeIp4"),
    "a key that begins with a digit": (["0a=1"], "0a=1"),
    "all signs of keys and values": (["a-_*/@9=!#$%&'()*+-./:;<>?@[]^_`{|}~"], "a-_*/@9=!#$%&'()*+-./:;<>?@[]^_`{|}~"),
    "as many members as there may be": ([members(32, 1)], members(32, 1)),
    "one member more": ([members(33, 1)], None),
    "the longest key": ([f"{'k' * 256}=1"], f"{'k' * 256}=1"),
    "a key that is too long": ([f"{'k' * 257}=1"], None),
    "a value that is too long": ([f"k={'v' * 257}"], None),
    "nothing": ([""], None),
    "no value": (["a="], None),
    "no key": (["=1"], None),
    "no sign between them": (["a"], None),
    "two signs": (["a=1=2"], None),
    "a capital letter": (["A=1"], None),
    "a control character": (["a=\x01"], None),
    "a new line": (["a=1\nb=2"], None),
    "a letter outside ASCII": (["a=é"], None),
    "one bad member among good ones": (["a=1,B=2"], None),
    "a long member goes first": ([f"long={'v' * 200},{members(9)}"], members(9)),
    "then the last ones": ([members(20)], members(11)),
    "long ones alone": ([",".join(f"{c}={'v' * 256}" for c in "abc")], "a=" + "v" * 256),
}


@pytest.mark.parametrize("name", STATES)
def test_a_tracestate_is_passed_on_or_left_out(name):
    lines, expected = STATES[name]
    context = trace_context([VALID], lines)

    assert context is not None
    assert context.state == expected


def test_ids_that_are_made_are_valid_and_differ():
    made = [traceparent(new_trace_id(), new_span_id(), 1) for _ in range(1000)]

    assert len(set(made)) == 1000
    assert all(trace_context([text], []) is not None for text in made)


WORDS = st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True)


@given(st.lists(WORDS, max_size=2), st.lists(st.text(max_size=700) | st.just("a=1,b=2"), max_size=3))
def test_whatever_is_offered_what_is_said_on_is_valid(parents, states):
    context = trace_context(parents, states)

    if context is not None:
        said = traceparent(context.trace_id, context.parent_id, context.flags)
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]", said)
        if context.state is not None:
            assert re.fullmatch(r"[\x20-\x7e]{1,512}", context.state)
        assert trace_context([said], [context.state or ""]) == context
