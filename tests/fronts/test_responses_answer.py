"""
An answer of the Responses API: whole and streamed, for whatever a chat says, in the shape of OpenAI's own types.

Every event is validated, and invariants hold for any answer, cut anywhere.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from proxy.errors import UpstreamProtocolError, UpstreamTimeout
from proxy.fronts.responses import Responses
from proxy.fronts.responses_items import FunctionItem

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
CHATS = Path(__file__).parents[1] / "cases" / "stream"
LAST = {"response.completed", "response.incomplete", "response.failed"}
TOOLS = [
    {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}},
    {"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "function", "name": "find"}]},
    {"type": "custom", "name": "patch"},
    {"type": "local_shell"},
]


def front(**asked):
    """Return the front of a request, which it has translated."""
    made = Responses("req_1")
    made.request(json.dumps({"model": "devstral", "input": "Hi", "tools": TOOLS} | asked).encode(), strict=False)
    return made


def chunk(finish=None, *, usage=None, logprobs=None, **delta):
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    made = {"id": "chatcmpl-a1", "object": "chat.completion.chunk", "created": 7, "model": "devstral"}
    return made | ({"choices": [], "usage": usage} if usage else {"choices": [choice]})


def call(index, name=None, arguments="", call_id=None):
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    return {"index": index, "function": function} | ({} if call_id is None else {"id": call_id, "type": "function"})


def stream(*chunks, end="[DONE]"):
    return b"".join(f"data: {json.dumps(c) if isinstance(c, dict) else c}\n\n".encode() for c in (*chunks, end) if c)


def events_of(data: bytes) -> list[dict[str, Any]]:
    """Return the events, each of which OpenAI's own type takes, with the type's name as the event's."""
    events = []
    for block in data.decode().split("\n\n")[:-1]:
        if block.startswith(":"):
            continue
        name, payload = block.split("\n")
        event = json.loads(payload.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event, strict=False)
        events.append(event)
    return events


def played(answer: Responses, data: bytes, *cuts: int) -> list[dict[str, Any]]:
    """Give a front a stream in pieces; return its events."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return events_of(b"".join(answer.piece(data[a:b]) for a, b in pairwise(edges)))


def types_of(events):
    return [event["type"].removeprefix("response.") for event in events]


def check_invariants(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Check what holds for every stream that came to its end; return the final response."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert types_of(events[:2]) == ["created", "in_progress"]
    assert [event["type"] for event in events if event["type"] in LAST] == [events[-1]["type"]]
    final = events[-1]["response"]
    added = {event["output_index"]: event["item"] for event in events if event["type"].endswith("item.added")}
    done = {event["output_index"]: event["item"] for event in events if event["type"].endswith("item.done")}
    assert list(added) == sorted(added)
    assert final["output"] == [done[index] for index in sorted(done)]
    assert added.keys() == done.keys()
    assert len({item["id"] for item in added.values()}) == len(added)
    for index, item in added.items():
        assert item["status"] == "in_progress"
        assert (item["id"], item["type"]) == (done[index]["id"], done[index]["type"])
    check_pieces(events)
    assert all(event["item_id"] == added[event["output_index"]]["id"] for event in events if "item_id" in event)
    return final


def check_pieces(events: list[dict[str, Any]]) -> None:
    """Pieces of a text join to what its end says, and every part and text has one end."""
    joined: dict[tuple[Any, ...], str] = {}
    ended: dict[tuple[Any, ...], str] = {}
    for event in events:
        kind, _, stage = event["type"].rpartition(".")
        place = (kind, event.get("output_index"), event.get("content_index"), event.get("summary_index"))
        if stage == "delta":
            joined[place] = joined.get(place, "") + event["delta"]
        elif stage == "done" and not kind.endswith(("_part", "_item")):
            assert place not in ended
            ended[place] = next(event[key] for key in ("text", "refusal", "arguments", "input") if key in event)
    assert joined == {place: text for place, text in ended.items() if text or place in joined}


SAID = chunk(role="assistant", content="")
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 1},
}


@contextmanager
def counted(owner: type, name: str) -> Iterator[list[int]]:
    """Count the calls of a method."""
    times, method = [0], getattr(owner, name)

    def counting(self: Any) -> Any:
        times[0] += 1
        return method(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counting)
        yield times


# --- whole sequences

TEXT_PART = ["content_part.added", "output_text.delta", "output_text.done", "content_part.done"]
CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
CUSTOM = ["output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done"]

#: Chunks between the role and `[DONE]`, the request's other members, the types of the events, and the output.
SEQUENCES = {
    "text": (
        [chunk(content="Hi"), chunk("stop"), chunk(usage=USAGE)],
        {},
        ["output_item.added", *TEXT_PART, "output_item.done", "completed"],
        [("message", "Hi")],
    ),
    "text in pieces": (
        [chunk(content="H"), chunk(content="i"), chunk("stop")],
        {},
        [
            *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
            *("output_text.done", "content_part.done", "output_item.done", "completed"),
        ],
        [("message", "Hi")],
    ),
    "nothing": (
        [chunk("stop")],
        {},
        [
            *("output_item.added", "content_part.added", "output_text.done", "content_part.done"),
            *("output_item.done", "completed"),
        ],
        [("message", "")],
    ),
    "a call": (
        [chunk(tool_calls=[call(0, "f", "{}", "Ab1Cd2Ef3")]), chunk("tool_calls")],
        {},
        [*CALL, "completed"],
        [("function_call", "Ab1Cd2Ef3", "f", "{}")],
    ),
    "text and two calls": (
        [
            chunk(content="Hi"),
            chunk(tool_calls=[call(0, "f", "{}", "a")]),
            chunk("tool_calls", tool_calls=[call(1, "crm__find", "[]", "b")]),
        ],
        {},
        ["output_item.added", *TEXT_PART, "output_item.done", *CALL, *CALL, "completed"],
        [("message", "Hi"), ("function_call", "a", "f", "{}"), ("function_call", "b", "find", "[]", "crm")],
    ),
    "calls that alternate": (
        [
            chunk(tool_calls=[call(0, "f", "{", "a")]),
            chunk(tool_calls=[call(1, "f", "{}", "b")]),
            chunk(tool_calls=[call(0, None, "}")]),
            chunk("tool_calls"),
        ],
        {},
        [
            *("output_item.added", "function_call_arguments.delta", "output_item.added"),
            *("function_call_arguments.delta", "function_call_arguments.delta"),
            *("function_call_arguments.done", "output_item.done", "function_call_arguments.done", "output_item.done"),
            "completed",
        ],
        [("function_call", "a", "f", "{}"), ("function_call", "b", "f", "{}")],
    ),
    "thoughts and text": (
        [chunk(reasoning="Hm"), chunk(content="Hi"), chunk("stop")],
        {},
        [
            *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
            *("content_part.done", "output_item.done"),
            *("output_item.added", *TEXT_PART, "output_item.done", "completed"),
        ],
        [("reasoning", "Hm"), ("message", "Hi")],
    ),
    "a summary and text": (
        [chunk(reasoning_content="Hm"), chunk(content="Hi"), chunk("stop")],
        {"reasoning": {"summary": "auto"}},
        [
            *("output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta"),
            *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
            *("output_item.added", *TEXT_PART, "output_item.done", "completed"),
        ],
        [("reasoning", "Hm"), ("message", "Hi")],
    ),
    "a refusal": (
        [chunk(refusal="No"), chunk("stop")],
        {},
        [
            *("output_item.added", "content_part.added", "refusal.delta", "refusal.done", "content_part.done"),
            *("output_item.done", "completed"),
        ],
        [("message", "No")],
    ),
    "text and a refusal": (
        [chunk(content="Hi"), chunk(refusal="No"), chunk("stop")],
        {},
        [
            *("output_item.added", *TEXT_PART),
            *("content_part.added", "refusal.delta", "refusal.done", "content_part.done"),
            *("output_item.done", "completed"),
        ],
        [("message", "Hi", "No")],
    ),
    "a custom tool": (
        [
            chunk(tool_calls=[{"index": 0, "id": "a", "type": "custom", "custom": {"name": "patch", "input": "x"}}]),
            chunk("tool_calls"),
        ],
        {},
        [*CUSTOM, "completed"],
        [("custom_tool_call", "a", "patch", "x")],
    ),
    "the local shell": (
        [
            chunk(tool_calls=[call(0, "local_shell", '{"command": ', "a")]),
            chunk(tool_calls=[call(0, None, '["ls"], "timeout_ms": 5}')]),
            chunk("tool_calls"),
        ],
        {},
        ["output_item.added", "output_item.done", "completed"],
        [("local_shell_call", "a", {"type": "exec", "command": ["ls"], "env": {}, "timeout_ms": 5})],
    ),
    "the local shell without a command": (
        [chunk(tool_calls=[call(0, "local_shell", "{}", "a")]), chunk("tool_calls")],
        {},
        [*CALL, "completed"],
        [("function_call", "a", "local_shell", "{}")],
    ),
    "text that is cut": (
        [chunk(content="Hi"), chunk("length")],
        {},
        ["output_item.added", *TEXT_PART, "output_item.done", "incomplete"],
        [("message", "Hi")],
    ),
    "what a filter cut": (
        [chunk(content="Hi"), chunk("content_filter")],
        {},
        ["output_item.added", *TEXT_PART, "output_item.done", "incomplete"],
        [("message", "Hi")],
    ),
    "a call that is cut": (
        [chunk(tool_calls=[call(0, "f", '{"a', "a")]), chunk("length")],
        {},
        [*CALL, "incomplete"],
        [("function_call", "a", "f", '{"a')],
    ),
}


def said(item):
    """Return what an item says, without its ids and states."""
    kind = item["type"]
    if kind in ("message", "reasoning"):
        parts = [*item.get("summary", ()), *item.get("content", ())]
        return (kind, *(part.get("text", part.get("refusal")) for part in parts))
    if kind == "local_shell_call":
        return (kind, item["call_id"], item["action"])
    rest = (item["namespace"],) if "namespace" in item else ()
    return (kind, item["call_id"], item["name"], item.get("arguments", item.get("input")), *rest)


@pytest.mark.parametrize(("chunks", "asked", "types", "output"), SEQUENCES.values(), ids=SEQUENCES)
def test_a_stream_has_its_events_in_their_order(chunks, asked, types, output):
    events = played(front(**asked), stream(SAID, *chunks))

    final = check_invariants(events)
    assert types_of(events[2:]) == types
    assert [said(item) for item in final["output"]] == output


@pytest.mark.parametrize(("chunks", "asked", "types", "output"), SEQUENCES.values(), ids=SEQUENCES)
def test_a_whole_answer_is_the_one_that_a_stream_comes_to(chunks, asked, types, output):
    answer = json.loads(front(**asked).whole(whole_of([SAID, *chunks])))

    Response.model_validate(answer)
    assert answer == check_invariants(played(front(**asked), stream(SAID, *chunks)))


def whole_of(chunks):
    """Return the whole completion that chunks come to."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[int, dict[str, Any]] = {}
    finish, usage, logprobs = None, None, None
    for piece in chunks:
        usage = piece.get("usage") or usage
        for choice in piece["choices"]:
            finish = choice["finish_reason"] or finish
            logprobs = joined_logprobs(logprobs, choice["logprobs"])
            for name in ("content", "reasoning", "reasoning_content", "refusal"):
                if choice["delta"].get(name):
                    message[name] = (message.get(name) or "") + choice["delta"][name]
            for fragment in choice["delta"].get("tool_calls", ()):
                if fragment["index"] in calls:
                    arguments = fragment["function"]["arguments"]
                    calls[fragment["index"]]["function"]["arguments"] += arguments
                else:
                    calls[fragment["index"]] = json.loads(json.dumps({**fragment, "index": None}))
    if calls:
        message["tool_calls"] = list(calls.values())
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}
    made = {"id": "chatcmpl-a1", "object": "chat.completion", "created": 7, "model": "devstral"}
    return json.dumps(made | {"choices": [choice], "usage": usage}).encode()


def joined_logprobs(first, more):
    return more if first is None else first if more is None else {"content": first["content"] + more["content"]}


# --- the streams of a chat, as this proxy gives them


def heard(path):
    """Return what choice 0 of a chat's stream says: its thoughts, its text, its calls; None where it is an error."""
    thoughts, text, calls = "", "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("data: {"):
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            return None
        for delta in (choice["delta"] for choice in chunk["choices"] if choice.get("index", 0) == 0):
            thoughts += delta.get("reasoning") or delta.get("reasoning_content") or ""
            text += delta.get("content") or ""
            for call in delta.get("tool_calls", ()):
                function = call.get("custom") or call["function"]
                if call.get("id"):
                    calls += [[call["id"], ""]]
                calls[call["index"]][1] += function.get("arguments") or function.get("input") or ""
    return thoughts, text, [tuple(call) for call in calls]


@pytest.mark.parametrize("path", sorted(CHATS.glob("*.*.sse")), ids=lambda path: path.stem)
def test_a_stream_of_a_chat_says_the_same_as_a_stream_of_responses(path):
    events = played(front(), path.read_bytes())

    expected = heard(path)
    if expected is None:
        assert events[-1]["type"] == "response.failed"
        return
    output = [said(item) for item in check_invariants(events)["output"]]
    joined = {
        kind: "".join("".join(item[1:]) for item in output if item[0] == kind) for kind in ("reasoning", "message")
    }
    calls = [(item[1], item[3]) for item in output if item[0] in ("function_call", "custom_tool_call")]
    assert (joined["reasoning"], joined["message"], calls) == expected


# --- any answer, cut anywhere

#: derandomize: a run of the suite draws what the last one drew. No deadline: a machine's load is no failure.
many = settings(max_examples=200, derandomize=True, deadline=None)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
ARGUMENTS = st.dictionaries(TEXTS, TEXTS, max_size=2).map(json.dumps)
NAMES = st.sampled_from(["f", "crm__find", "unknown"])


@st.composite
def answers(draw):
    """Draw thoughts, text and calls in the order in which models say them, in pieces, and how they end."""
    chunks = [SAID]
    for name in ("reasoning", "content"):
        chunks += [chunk(**{name: text}) for text in draw(st.lists(TEXTS, max_size=3))]
    for index, (name, arguments) in enumerate(draw(st.lists(st.tuples(NAMES, ARGUMENTS), max_size=3))):
        cut = draw(st.integers(0, len(arguments)))
        chunks.append(chunk(tool_calls=[call(index, name, arguments[:cut], f"id{index}")]))
        chunks.append(chunk(tool_calls=[call(index, None, arguments[cut:])]))
    finish = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    usage = draw(st.sampled_from([None, USAGE]))
    return [*chunks, chunk(finish), *([chunk(usage=usage)] if usage else [])]


@many
@given(answers(), st.lists(st.integers(0, 3000), max_size=5), st.booleans())
def test_any_answer_keeps_its_promises_however_it_is_cut(chunks, cuts, wants_summary):
    asked = {"reasoning": {"summary": "auto"}} if wants_summary else {}
    data = stream(*chunks)

    events = played(front(**asked), data, *cuts)

    assert check_invariants(events) == json.loads(front(**asked).whole(whole_of(chunks)))
    assert events == played(front(**asked), data)


@many
@given(answers(), st.data())
def test_an_answer_that_is_cut_never_looks_whole(chunks, data):
    whole = stream(*chunks)
    events = played(front(), whole[: data.draw(st.integers(0, len(whole) - 2))])

    assert LAST.isdisjoint(event["type"] for event in events)


@many
@given(answers(), st.data())
def test_an_error_inside_a_stream_is_its_last_event(chunks, data):
    kept = data.draw(st.integers(0, len(chunks)))
    error = {"error": {"message": "lost", "type": "server_error", "param": None, "code": "upstream_disconnected"}}

    events = played(front(), stream(*chunks[:kept], error))

    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events if event["type"] in LAST] == ["response.failed"]
    response = events[-1]["response"]
    assert events[-1]["type"] == "response.failed"
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["error"]["message"] == "lost"
    assert all(item["status"] != "in_progress" for item in response["output"])


# --- the rest of an answer


def test_an_answer_repeats_what_was_asked_and_says_that_nothing_is_stored():
    asked = {
        "instructions": "Be brief.",
        "temperature": 0.5,
        "metadata": {"a": "b"},
        "store": True,
        "tool_choice": "required",
        "reasoning": {"effort": "high"},
        "max_output_tokens": 9,
        "parallel_tool_calls": None,
    }
    answer = json.loads(front(**asked).whole(whole_of([chunk("stop", content="Hi"), chunk(usage=USAGE)])))

    repeated = {name: answer[name] for name in asked}
    assert repeated == asked | {"store": False, "parallel_tool_calls": True}
    assert answer["tools"] == TOOLS
    assert (answer["id"], answer["created_at"], answer["model"]) == ("resp_a1", 7, "devstral")
    assert answer["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }


def test_a_request_on_several_lines_is_repeated_on_one():
    made = Responses("req_1")
    made.request(json.dumps({"input": "Hi", "tools": TOOLS}, indent=2).replace("\n", "\r\n").encode(), strict=False)

    events = played(made, stream(SAID, chunk("stop")))

    assert events[0]["response"]["tools"] == TOOLS


def test_an_odd_id_is_replaced_and_one_that_is_missing_is_the_requests():
    for answer_id, expected in (("chatcmpl-x y", r"resp_[0-9A-Za-z]{9}$"), (None, "resp_req_1$")):
        (first, *_) = played(front(), stream(chunk("stop", content="Hi") | {"id": answer_id}))
        assert re.match(expected, first["response"]["id"])


@pytest.mark.parametrize("cut", [False, True])
def test_the_last_item_of_an_answer_that_was_cut_is_incomplete(cut):
    chunks = [SAID, chunk(content="Hi"), chunk(tool_calls=[call(0, "f", "{", "a")])]
    final = check_invariants(played(front(), stream(*chunks, chunk("length" if cut else "tool_calls"))))

    assert [item["status"] for item in final["output"]] == ["completed", "incomplete" if cut else "completed"]
    assert (final["status"], final["incomplete_details"]) == (
        ("incomplete", {"reason": "max_output_tokens"}) if cut else ("completed", None)
    )


@pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls"])
def test_every_call_that_an_end_has_cut_is_incomplete(reason):
    begun = [call(0, "f", "{", "a"), call(1, "f", "{}", "b"), call(2, "f", "{", "c")]
    chunks = [SAID, *(chunk(tool_calls=[each]) for each in begun), chunk(tool_calls=[call(3, "f", "{}", "d")])]
    final = check_invariants(played(front(), stream(*chunks, chunk(reason))))

    cut = "completed" if reason == "tool_calls" else "incomplete"
    assert [item["status"] for item in final["output"]] == [cut, "completed", cut, cut]


@pytest.mark.parametrize("late", ["x", "{}", {"a": 1}])
def test_more_of_a_call_that_was_whole_fails_the_answer(late):
    chunks = [chunk(tool_calls=[call(0, "f", "{}", "a")]), chunk(tool_calls=[call(1, "f", "{}", "b")])]
    events = played(front(), stream(SAID, *chunks, chunk(tool_calls=[call(0, None, late)]), chunk("tool_calls")))

    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"] == "The model server went on with a call that was whole."


def test_space_behind_a_call_that_was_whole_is_nothing():
    chunks = [chunk(tool_calls=[call(0, "f", "{}", "a")]), chunk(tool_calls=[call(1, "f", "{}", "b")])]
    events = played(front(), stream(SAID, *chunks, chunk("tool_calls", tool_calls=[call(0, None, " \n")])))

    assert check_invariants(events)["status"] == "completed"


@pytest.mark.parametrize("count", [None, -1, "9", 1.5, 10**30, [], True])
def test_a_counter_that_is_none_is_zero(count):
    usage = {"prompt_tokens": 3, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": count}}
    answer = json.loads(front().whole(whole_of([chunk("stop", content="Hi"), chunk(usage=usage)])))

    used = answer["usage"]
    assert (used["input_tokens"], used["output_tokens"], used["total_tokens"]) == (3, 0, 3)
    assert used["input_tokens_details"]["cached_tokens"] == 0
    assert used["output_tokens"] is not False


def test_an_answer_of_thoughts_alone_has_an_empty_message_too():
    final = check_invariants(played(front(), stream(SAID, chunk(reasoning="Hm"), chunk("stop"))))

    assert [said(item) for item in final["output"]] == [("reasoning", "Hm"), ("message", "")]


def test_probabilities_go_with_their_text_also_where_they_come_behind_it():
    token = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}
    given_at_once = [SAID, chunk(content="Hi", logprobs={"content": [token]}), chunk("stop")]
    given_late = [SAID, chunk(content="Hi"), chunk("stop", logprobs={"content": [token]})]

    for chunks in (given_at_once, given_late):
        final = check_invariants(played(front(), stream(*chunks)))
        assert final["output"][0]["content"][0]["logprobs"] == [token]
    delta = next(e for e in played(front(), stream(*given_at_once)) if e["type"] == "response.output_text.delta")
    assert delta["logprobs"] == [token]


def test_comments_pass_and_come_where_they_came():
    answer = front()
    out = [answer.piece(b": keep-alive\n\n"), answer.piece(stream(SAID, end="")), answer.piece(b": again\n\n")]

    assert (out[0], out[2]) == (b": keep-alive\n\n", b": again\n\n")
    assert out[1].startswith(b"event: response.created\n")


def test_an_error_before_anything_else_is_a_response_of_its_own():
    error = {"error": {"message": "m", "type": "t", "param": "messages[0].content", "code": "rate_limit_exceeded"}}
    events = played(front(), stream(error))

    assert types_of(events) == ["created", "in_progress", "failed"]
    assert events[-1]["response"]["id"] == "resp_req_1"
    assert events[-1]["response"]["error"] == {
        "code": "rate_limit_exceeded", "message": "m", "type": "t", "param": "input"
    }  # fmt: skip


@pytest.mark.parametrize(
    "odd",
    [
        b'data: {"error": {"param": 5, "code": [], "message": null}}\n\n',
        b"data: {\n\n",
        b"data: []\n\n",
        b'data: {"object": "x"}\n\n',
        b"data: [DONE]\n\n",
        b'data: {"detail": "x"}\n\n',
    ],
)
def test_what_is_no_part_of_an_answer_fails_it_and_nothing_follows(odd):
    answer = front()
    events = played(answer, stream(SAID, chunk(content="Hi"), end="") + odd)

    assert events[-1]["type"] == "response.failed"
    assert answer.piece(stream(chunk("stop"))) == b""


def test_an_answer_that_is_longer_than_is_kept_fails(monkeypatch):
    monkeypatch.setattr("proxy.fronts.responses_answer.LONGEST_ANSWER", 100)
    events = played(front(), stream(SAID, chunk(content="x" * 50), chunk("stop")))

    assert events[-1]["type"] == "response.failed"
    assert "more than 100 bytes" in events[-1]["response"]["error"]["message"]


def test_an_answer_of_which_no_piece_is_long_fails_too(monkeypatch):
    monkeypatch.setattr("proxy.fronts.responses_answer.LONGEST_ANSWER", 1000)
    events = played(front(), stream(SAID, *[chunk(content="x")] * 20, chunk("stop")))

    assert events[-1]["type"] == "response.failed"


def test_many_calls_take_no_longer_for_each_than_few():
    """Each is looked at once when the next one begins, whole or not."""
    looked = []
    for count in (100, 400):
        calls = [call(index, "f", "{" if index % 2 else "{}", f"id{index}") for index in range(count)]
        made = front()
        with counted(FunctionItem, "is_whole") as times:
            made.whole(whole_of([chunk("tool_calls", tool_calls=calls)]))
        looked.append(times[0])

    assert looked == [99, 399]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"error": {"message": "x"}}', b'{"choices": []}'])
def test_a_whole_answer_that_is_none_is_an_error(body):
    with pytest.raises(UpstreamProtocolError):
        front().whole(body)


def test_an_error_has_openais_shape_and_the_path_in_the_clients_body():
    error = UpstreamTimeout("first_byte_timeout_s: nothing came within 300 s.")
    error.param = "max_tokens"

    assert json.loads(front().error_body(error)) == {
        "error": {
            "message": "first_byte_timeout_s: nothing came within 300 s.",
            "type": "server_error",
            "param": "max_output_tokens",
            "code": "upstream_timeout",
        }
    }
    assert json.loads(Responses("req_1").error_body(error))["error"]["param"] == "max_tokens"
