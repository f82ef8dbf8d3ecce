"""What a body says about where it should go: the next turn must be recognised, whatever the client writes."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bodies import all_bodies
from proxy.upstream.choice import Ask
from proxy.upstream.prefix import Aim, aim_of

SYSTEM = {"role": "system", "content": "You are an agent."}
DEVELOPER = {"role": "developer", "content": "Be brief."}
USER = {"role": "user", "content": "What is in the file?"}
MORE = {"role": "user", "content": "Go on."}
GREETING = {"role": "assistant", "content": "How can I help?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function"}]}
SAID = {"content": "I look.", "role": "assistant"}  # as model_dump() of openai-python orders the keys
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "A line."}
SECOND = {"role": "tool", "tool_call_id": "call_2", "content": "Another."}
TOOLS = [{"type": "function", "function": {"name": "read_file"}}]

#: derandomize: a run of the suite draws what the last one drew. No deadline: a machine's load is no failure.
many = settings(max_examples=300, derandomize=True, deadline=None)


def body(*messages, **more):
    return json.dumps({"model": "devstral", **more, "messages": messages}).encode()


def ask_of(*messages, **more):
    return aim_of(body(*messages, **more), None).ask


# --- conversations: each row is a turn's prompt and what the next turn adds to it

TURNS = {
    "question": ((SYSTEM, USER), (SAID, MORE)),
    "call": ((SYSTEM, USER), (CALL, RESULT)),
    "parallel calls": ((SYSTEM, USER), (CALL, RESULT, SECOND)),
    "answer in two messages": ((SYSTEM, USER), (SAID, CALL, RESULT)),
    "no system prompt": ((USER,), (SAID, MORE)),
    "several first messages": ((SYSTEM, DEVELOPER, USER, MORE, USER), (CALL, RESULT)),
    "greeted first": ((SYSTEM, GREETING, USER), (SAID, MORE)),
    "later turn": ((SYSTEM, USER, CALL, RESULT, SAID, MORE), (CALL, RESULT)),
    "result and a word": ((SYSTEM, USER), (CALL, RESULT, MORE)),
}


@pytest.mark.parametrize(("before", "added"), TURNS.values(), ids=TURNS)
def test_the_next_turn_knows_the_prompt_of_the_turn_before(before, added):
    first = ask_of(*before, tools=TOOLS)
    following = ask_of(*before, *added, tools=TOOLS)

    assert following.chain[0] == first.chain[-1]
    assert following.chain[1] != first.chain[-1]


@pytest.mark.parametrize(("before", "added"), TURNS.values(), ids=TURNS)
def test_the_root_is_the_same_from_the_second_turn_on(before, added):
    second = (*before, *added)
    third = (*second, SAID, MORE)

    assert ask_of(*second).root == ask_of(*third).root == ask_of(*third, CALL, RESULT).root


def test_a_first_prompt_has_no_turn_before():
    assert len(ask_of(SYSTEM, USER).chain) == 1
    assert len(ask_of(SYSTEM, DEVELOPER, USER, MORE).chain) == 1
    assert len(ask_of(RESULT).chain) == 1


def test_openings_that_are_alike_have_one_root_until_they_are_answered():
    other = {**CALL, "tool_calls": [{"id": "call_9", "type": "function"}]}

    assert ask_of(SYSTEM, USER).root == ask_of(SYSTEM, USER).root
    assert ask_of(SYSTEM, USER, CALL, RESULT).root != ask_of(SYSTEM, USER, other, RESULT).root


def test_a_greeting_is_no_answer():
    for first in (SYSTEM, DEVELOPER):
        assert ask_of(first, GREETING, USER).root != ask_of(first, GREETING, MORE).root


@pytest.mark.parametrize(
    "changed",
    [
        ask_of({**SYSTEM, "content": "You are."}, USER, CALL, RESULT, tools=TOOLS),
        ask_of(SYSTEM, MORE, CALL, RESULT, tools=TOOLS),
        ask_of(SYSTEM, USER, SAID, RESULT, tools=TOOLS),
        ask_of(SYSTEM, USER, CALL, RESULT, tools=[]),
        ask_of(SYSTEM, USER, CALL, RESULT),
    ],
    ids=["system", "user", "answer", "other tools", "no tools"],
)
def test_another_beginning_has_another_root_and_another_chain(changed):
    same = ask_of(SYSTEM, USER, CALL, RESULT, tools=TOOLS)

    assert changed.root != same.root
    assert changed.chain[1] != same.chain[1]


def test_parameters_have_no_part_in_it():
    plain = aim_of(body(SYSTEM, USER, tools=TOOLS), None)

    assert aim_of(body(SYSTEM, USER, tools=TOOLS, temperature=0.5, stream=True), None) == plain


@many
@given(
    st.lists(st.sampled_from([SYSTEM, DEVELOPER, USER, GREETING, CALL, SAID, RESULT]), max_size=12),
    st.lists(st.sampled_from([CALL, SAID]), min_size=1, max_size=2),
    st.lists(st.sampled_from([USER, RESULT, SECOND]), min_size=1, max_size=3),
)
def test_any_prompt_that_does_not_end_in_an_answer_is_known_to_its_next_turn(before, answer, added):
    before = [*before, USER]

    assert ask_of(*before, *answer, *added).chain[0] == ask_of(*before).chain[-1]


def test_the_next_turn_of_the_benchmarks_agent_is_known():
    sent = json.loads(all_bodies()["agentic"])
    before = {**sent, "messages": sent["messages"][:-2]}
    first, following = (aim_of(json.dumps(each).encode(), None).ask for each in (before, sent))

    assert following.chain[0] == first.chain[1]
    assert following.root == first.root


def test_a_root_is_the_same_in_every_process():
    """Whatever seed the process has for hash()."""
    script = f"from proxy.upstream.prefix import aim_of; print(aim_of({body(SYSTEM, USER, CALL, RESULT)!r}, None).ask)"
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
        for seed in ("1", "2")
    }

    assert seen == {f"{ask_of(SYSTEM, USER, CALL, RESULT)}\n"}


def test_a_root_is_the_same_in_every_version():
    assert ask_of(SYSTEM, USER, CALL, RESULT, tools=TOOLS).root == 5229985856811287981


# --- model and session


@pytest.mark.parametrize(
    ("header", "user", "session"),
    [
        (None, None, b""),
        (None, "u-1", b"u-1"),
        ("s-1", None, b"s-1"),
        ("s-1", "u-1", b"s-1"),
        ("", "u-1", b"u-1"),
        (None, "é", "é".encode()),
        ("caf\udce9", None, b"caf\xe9"),
    ],
)
def test_the_session_is_the_header_or_else_the_user(header, user, session):
    assert aim_of(body(USER, user=user), header).ask.session == session


@pytest.mark.parametrize(("model", "read"), [("devstral", "devstral"), (None, "")])
def test_the_model_is_read(model, read):
    assert aim_of(body(USER, model=model), None).model == read


# --- bodies that translation will refuse

NOTHING = Aim("", Ask(session=b"s-1"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"messages": 1}',
        b'{"model": 1}',
        b'{"user": []}',
        b'{"model": "\xff"}',
        b'{"user": "\\ud800"}',
        b'{"messages": ' + b"[" * 100_000,
        b'{"messages": [' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"]}",
    ],
)
def test_what_cannot_be_read_says_nothing_but_its_header(text):
    assert aim_of(text, "s-1") == NOTHING


@pytest.mark.parametrize("messages", [[], None, [USER] * 4_001], ids=["none", "null", "too many"])
def test_no_messages_and_too_many_have_no_hashes(messages):
    aim = aim_of(json.dumps({"model": "devstral", "messages": messages}).encode(), None)

    assert (aim.ask.chain, aim.ask.root) == ((), 0)


def test_the_longest_conversation_has_hashes():
    assert len(ask_of(*[USER, SAID] * 1_999, CALL, RESULT).chain) == 2


@pytest.mark.parametrize("message", [1, "text", None, [], {}, {"role": None}, {"role": 1}])
def test_a_message_without_a_role_is_one_like_any_other(message):
    aim = aim_of(body(SYSTEM, message, USER), None)

    assert aim.model == "devstral"
    assert len(aim.ask.chain) == 1


@many
@given(st.binary(max_size=60))
def test_any_bytes_give_an_aim(text):
    assert isinstance(aim_of(text, None), Aim)


@many
@given(st.binary(max_size=30))
def test_any_messages_give_an_aim(text):
    assert isinstance(aim_of(b'{"messages":[{"role":"user"},' + text + b"]}", None), Aim)
