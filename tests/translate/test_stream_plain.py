"""Plain events are taken without decoding them: what comes out must be what decoding each of them gives."""

from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.translate import stream
from proxy.translate.stream import StreamTranslator
from tests.translate.answers import DONE, HEAD, ROLE, call, calls, chunk, event, expect, play, usage
from tests.translate.test_stream import CASES, INPUTS

BEGUN = calls(call(0, "get_weather", '{"a": "', "abcDEF123"))


class Seen(NamedTuple):
    """All that is known of a stream from outside."""

    out: bytes
    state: stream.State
    error: str | None
    rest: tuple


def seen(pieces, expectation, limit=1 << 20):
    translator = StreamTranslator(expectation, max_event_bytes=limit)
    out = b"".join(map(translator.receive, pieces)) + translator.receive_eof()
    error = translator.error and f"{translator.error!r}: {translator.error.message}"
    rest = (translator.usage, translator.finish_reasons, translator.rules_applied, translator.events, translator.begun)
    return Seen(out, translator.state, error, (*rest, translator.wants_whole))


def decoded(pieces, expectation, limit=1 << 20):
    """The same with every event decoded."""
    with mock.patch.object(stream, "learned", return_value=None):
        return seen(pieces, expectation, limit)


def cut(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


#: What a string of an event may be, as it is written: plain, escaped, of meaning to a rule, and broken out of.
STRINGS = (
    *(b"a", b" word", b"x y", b"def f(x):", b"\xc3\xa9", b"\xf0\x9f\x91\x8b", b"\xc2\xa0", b"\xe2\x80\xa8", b"\x7f"),
    *(b"\\n", b"a\\n", b"\\\\n", b"a ", b" ", b"\\t", b"\\\\", b'\\"', b"\\/", b"\\b\\f", b"\\u0041", b"\\u005bTOOL"),
    *(b"\\ud83d\\udc4b", b"\\ud83d", b"\\udc4b", b"\\u0020", b"[", b"[TOOL_CALLS]", b"[TOOL", b"_CALLS]", b"get_time"),
    *(b"{", b"}", b"{}", b"]", b'{\\"a\\": ', b'\\"}', b"}\\", b"[THINK]", b"[/THINK]", b"<think>", b"</think>", b""),
    *(b"\xff", b"\xc3", b"\xa9", b"\x00", b"\t", b"a\\", b',"b', b'"', b'","content":"b', b'"},"x":{"content":"', b"~"),
    *(b'"},"finish_reason":"stop","x":{"y":"', b"\r", b"\n\n", b"\n", b"a\n\ndata: b", b"a."),
)


def around(delta, **more):
    """The bytes around the mark in the event of `delta`."""
    return chunk(delta, **more).split(b"~~")


KINDS = (
    around({"content": "~~"}),
    around({"content": "~~"}, token_ids=None, prompt_logprobs=None),
    [part.replace(b',"logprobs":null', b',"logprobs":null,"token_ids":null') for part in around({"content": "~~"})],
    around({"content": "~~"}, index=1),
    around({"content": "~~"}, usage={"prompt_tokens": 1, "completion_tokens": 2}),
    around({"content": "~~"}, x={"content": "a"}),
    around({"content": "~~", "refusal": None}),
    around({"content": "~~", "refusal": "no"}),
    around({"content": "~~", "tool_calls": []}),
    around({"content": "~~"}, finish="length"),
    around({"reasoning": "~~"}),
    around({"reasoning": "~~"}, metrics=1),
    around({"reasoning_content": "~~"}),
    around(calls(call(0, None, "~~"))),
    around(calls(call(1, None, "~~"))),
    around(calls({**call(0, None, "~~"), "type": "function"})),
    around(calls(call(0, "get_time", "~~", "zyxWVU987"))),
    around(calls(call(1, "get_time", "~~", "123456789"))),
    [event({**HEAD, "id": "other", "choices": []})[:-4] + b'{"delta":{"content":"', b'"}}]}\n\n'],
    [b'data: {"choices":[{"index":0,"delta":{"content":"a","content":"', b'"}}]}\n\n'],
    [chunk({"content": "a"})[:-5] + b',"content":"', b'"}]}\n\n'],
)
_ODD = st.sampled_from(
    (b": ping\n\n", b"\n", b"data:\n\n", b"event: x\n\n", chunk({}), chunk({}, "stop"), DONE, chunk({"content": None}))
)
_PLAIN = st.builds(lambda kind, text: text.join(kind), st.sampled_from(KINDS), st.sampled_from(STRINGS))
#: Many events of one kind, whose strings a rule wants now and then: these are the ones that are taken together.
_RUNS = st.builds(
    lambda kind, texts: b"".join(text.join(kind) for text in texts),
    st.sampled_from(KINDS),
    st.lists(st.sampled_from(STRINGS[:4] * 12 + STRINGS), min_size=2, max_size=30),
)
_STARTS = st.sampled_from(
    (ROLE, ROLE + chunk({"content": "a"}), ROLE + chunk(BEGUN), ROLE + chunk({}, index=1), chunk({"reasoning": "a"}))
)
_STREAMS = st.builds(
    lambda start, events, end: start + b"".join(events) + b"".join(end),
    _STARTS,
    st.lists(st.one_of(_RUNS, _RUNS, _PLAIN, _ODD), max_size=8),
    st.sampled_from(((), (chunk({}, "stop"), usage(9), DONE), (chunk({}, "tool_calls"), DONE))),
)
_EXPECTATIONS = st.sampled_from(
    (
        expect(),
        expect(tool_names={}),
        expect({"recover_tool_calls": "all"}),
        expect({"recover_tool_calls": "off", "extract_think": False}),
        expect({"tool_stream": "whole"}),
        expect({"bad_args": "repair", "strip_vendor_fields": False}),
        expect({"reasoning_field": "content"}),
        expect({"reasoning_field": "reasoning_content", "trailing_text": "drop"}),
        expect({"reasoning_field": "drop"}),
        expect({"reasoning_field": "untouched", "reasoning_fallback": False}),
        expect(tool_choice="required", custom_tools=frozenset({"get_time"})),
        expect(legacy_functions=True, echoed_prefix="a a"),
    )
)


@given(_STREAMS, _EXPECTATIONS, st.integers(1, 3000), st.sampled_from((300, 1 << 20)))
@example(ROLE + b"".join(b"a".join(KINDS[0]) for _ in range(60)), expect(), 1 << 20, 1 << 20)
@settings(max_examples=1500, deadline=None)
def test_plain_events_become_what_decoding_them_gives(data, expectation, size, limit):
    whole = decoded([data], expectation, limit)

    assert seen(cut(data, size), expectation, limit) == decoded(cut(data, size), expectation, limit)
    assert seen([data], expectation, limit) == whole
    assert seen([part + b"\n\n" for part in data.split(b"\n\n")], expectation, limit) == decoded(
        [part + b"\n\n" for part in data.split(b"\n\n")], expectation, limit
    )


TEXT, STRIPPED, THOUGHT, PIECE = KINDS[0], KINDS[2], KINDS[10], KINDS[13]
ELSEWHERE = [b'data: {"x":{"content":"', b'"},' + chunk({"content": "a"})[7:]]
SPOKEN = ROLE + chunk({"content": "a"})


def assert_same(data, expectation, limit=1 << 20):
    """What comes out does not depend on plain events, whether the stream comes at once, in events, or cut anywhere."""
    events = [part + b"\n\n" for part in data.split(b"\n\n") if part]
    for pieces in ([data], events, cut(data, 1500), cut(data, 7)):
        assert seen(pieces, expectation, limit) == decoded(pieces, expectation, limit)


@pytest.mark.parametrize("string", STRINGS, ids=repr)
@pytest.mark.parametrize("kind", [TEXT, STRIPPED, THOUGHT, PIECE], ids=("text", "stripped", "thought", "piece"))
def test_a_string_in_a_run_becomes_what_decoding_it_gives(kind, string):
    run = [b"ab".join(kind)] * 12
    begun = ROLE + chunk(BEGUN) if kind is PIECE else ROLE
    data = b"".join([begun, *run, string.join(kind), *run, chunk({}, "stop"), usage(9), DONE])

    assert_same(data, expect())
    assert_same(data, expect(tool_names={}))


@pytest.mark.parametrize(
    "data",
    [
        ROLE + b"".join(text.join(ELSEWHERE) for text in (b"a", b"b", b"[TOOL_CALLS]get_time{}", b"c ", b"a")),
        ROLE + chunk(BEGUN) + b"x".join(PIECE) * 3 + b"<th".join(TEXT) + b"y".join(PIECE) + b"z".join(PIECE),
        ROLE + chunk(BEGUN) + b"x".join(PIECE) * 3 + b"[TOOL".join(TEXT) + b"y".join(PIECE) + b"_CALLS]".join(TEXT),
        SPOKEN + b" ".join(STRIPPED) + b"b".join(TEXT) + b"c".join(STRIPPED) * 2,
        SPOKEN + b"b".join(THOUGHT) + b"c".join(TEXT) + b"[TOOL_CALLS]get_time{".join(TEXT) + b"d".join(THOUGHT),
    ],
    ids=(
        "the key stands elsewhere too",
        "half a tag between pieces",
        "half a mark",
        "stripped late",
        "thought in a call",
    ),
)
@pytest.mark.parametrize("end", [b"", chunk({}, "stop") + DONE])
def test_what_looks_plain_and_is_not_becomes_what_decoding_it_gives(data, end):
    assert_same(data + end, expect())


def test_a_plain_event_over_the_limit_is_refused_like_any_other():
    data = SPOKEN + b"a".join(TEXT) * 3 + (b"a" * 300).join(TEXT)

    assert_same(data, expect(), 300)
    assert "more than 300 bytes" in seen([data], expect(), 300).error


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("size", [1 << 20, 700, 64])
def test_recorded_streams_become_what_decoding_them_gives(name, size):
    pieces = cut((CASES / f"{name}.sse").read_bytes(), size)

    assert seen(pieces, expect()) == decoded(pieces, expect())


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2], KINDS[10], KINDS[13]])
@pytest.mark.parametrize("size", [1 << 20, 0])
def test_of_many_events_alike_only_the_first_are_decoded(kind, size, monkeypatch):
    begun = [ROLE, chunk(BEGUN)] if kind is KINDS[13] else [ROLE, chunk({"reasoning": "a"})]
    events = [*begun, *([b"ab".join(kind)] * 100)]
    decodings = []
    monkeypatch.setattr(stream, "decode_chunk", lambda payload: decodings.append(1) or real(payload))

    translator = StreamTranslator(expect())
    for piece in cut(b"".join(events), size) if size else events:
        translator.receive(piece)

    assert translator.events == 102
    assert len(decodings) <= 4


real = stream.decode_chunk


def test_a_call_in_text_is_found_where_its_mark_is_cut_by_plain_events():
    texts = ["a", "b", "[TOOL", "_CALLS]", "get", "_time", "{}"]

    result = play(ROLE, *(chunk({"content": text}) for text in texts), chunk({}, "stop"), DONE)

    assert result.translator.finish_reasons == ("tool_calls",)
    assert b"TOOL" not in result.out
