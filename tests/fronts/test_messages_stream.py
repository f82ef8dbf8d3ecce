"""A chat's event stream as the events of a message, however it is cut, whatever it is made of."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fronts.messages_answer import whole_message
from proxy.fronts.messages_stream import MessageStream
from tests.fakes import completion, text_chunk
from tests.fronts.judge import message_of, parsed

DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def sse(body):
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def chunk(finish=None, stopped_by=None, **delta):
    made = text_chunk(finish=finish)
    made["choices"][0] |= {"delta": delta, "stop_reason": stopped_by}
    return sse(made)


def usage():
    return sse({**text_chunk(), "choices": [], "usage": USAGE})


def begin(index, name="f", arguments="", call_id="Ab1Cd2Ef3"):
    function = {"name": name, "arguments": arguments}
    return chunk(tool_calls=[{"index": index, "id": call_id, "type": "function", "function": function}])


def more(index, arguments):
    return chunk(tool_calls=[{"index": index, "function": {"arguments": arguments}}])


def translated(*pieces, stop=()):
    stream = MessageStream("asked", stop, "req_1")
    return b"".join(map(stream.receive, pieces))


def kinds(*pieces, **options):
    return [event["type"] for event in parsed(translated(*pieces, **options))]


# --- by example

END = (usage(), DONE)


def test_a_text():
    events = parsed(
        translated(chunk(role="assistant", content=""), chunk(content="Hel"), chunk(content="lo"), chunk("stop"), *END)
    )

    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["input_tokens"] == 0
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]) == (3, 2)


def test_a_thought_is_signed_before_it_ends():
    events = parsed(translated(chunk(reasoning="Hm", reasoning_content="Hm"), chunk(content="x"), chunk("stop"), *END))

    assert [event.get("delta", {}).get("type") for event in events[2:4]] == ["thinking_delta", "signature_delta"]
    assert message_of(events)["content"] == [
        {"type": "thinking", "thinking": "Hm", "signature": "devstral-proxy"},
        {"type": "text", "text": "x"},
    ]


def test_calls_one_after_the_other_are_passed_on_at_once():
    stream = MessageStream("asked", (), "req_1")

    assert b'"partial_json":"{}"' in stream.receive(begin(0, arguments="{}"))
    second = stream.receive(begin(1, name="g", arguments='{"a"', call_id="Gh4Ij5Kl6"))

    assert [event["type"] for event in parsed(second)] == [
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
    ]


def test_what_is_said_to_a_call_before_another_one_is_whole_waits():
    pieces = [
        begin(0, arguments='{"a"'),
        begin(1, "g", '{"b', "Gh4Ij5Kl6"),
        more(0, ":1"),
        more(1, '":2'),
        more(0, "}"),
        more(1, "}"),
    ]

    message = message_of(parsed(translated(*pieces, chunk("tool_calls"), *END)))

    assert [(block["name"], block["input"]) for block in message["content"]] == [("f", {"a": 1}), ("g", {"b": 2})]


def test_text_behind_a_call_is_a_block_behind_it():
    message = message_of(
        parsed(translated(begin(0, arguments="{}"), chunk(content="Now I wait."), chunk("tool_calls"), *END))
    )

    assert [block["type"] for block in message["content"]] == ["tool_use", "text"]


def test_a_call_that_was_cut_by_the_limit_stays_as_it_is():
    events = parsed(translated(begin(0, arguments='{"a":'), chunk("length"), *END))

    assert message_of(events)["stop_reason"] == "max_tokens"
    assert events[2]["delta"]["partial_json"] == '{"a":'


def test_a_sequence_that_ended_it():
    events = parsed(translated(chunk(content="x"), chunk("stop", "END"), *END, stop=("END",)))

    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


def test_comments_stay():
    out = translated(b": keep-alive\n\n", chunk(content="x"), b": keep-alive\n\n")

    assert out.startswith(b": keep-alive\n\nevent: message_start\n")
    assert out.endswith(b"\n\n: keep-alive\n\n")


def test_other_choices_are_not_this_message():
    other = text_chunk("no")
    other["choices"][0]["index"] = 1

    assert b"no" not in translated(chunk(content="x"), sse(other)).replace(b"null", b"")


# --- what fails

ERROR = sse({"error": {"message": "lost", "type": "server_error", "param": None, "code": "upstream_disconnected"}})


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([ERROR, DONE], "lost"),
        ([chunk(content="x"), ERROR, DONE], "lost"),
        ([chunk(content="x"), chunk("stop"), ERROR, DONE], "lost"),
        ([begin(0, arguments='{"a'), ERROR, DONE, chunk(content="more"), usage(), DONE], "lost"),
        ([chunk(content="x"), DONE], "The model server ended its answer without a reason."),
        ([DONE], "The model server ended its answer without a reason."),
        ([chunk(content="x"), b"data: {\n\n", *END], "The model server sent an event that cannot be read."),
        ([sse({"error": "plain"})], "plain"),
        ([chunk(content=5)], "The model server sent an event that cannot be read."),
        (
            [begin(0, arguments="{}"), begin(1, "g"), more(0, "{}")],
            "The model server went on with a call that was whole.",
        ),
    ],
)
def test_an_answer_that_failed_ends_in_an_error_and_never_looks_whole(pieces, text):
    events = parsed(translated(*pieces))

    assert [event["type"] for event in events].count("error") == 1
    assert events[-1]["type"] == "error"
    assert events[-1]["error"] == {"type": "api_error", "message": text}
    assert not {"message_stop", "message_delta"} & {event["type"] for event in events}


def test_a_stream_that_just_stops_has_no_end():
    assert kinds(chunk(content="x"), chunk("stop"), usage())[-1] == "content_block_delta"


def test_an_event_without_end_is_an_error(monkeypatch):
    monkeypatch.setattr("proxy.fronts.messages_stream._LONGEST", 1000)

    assert kinds(b"data: " + b"x" * 2000)[-1] == "error"


def test_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr("proxy.fronts.messages_stream._LONGEST", 1000)
    pieces = [begin(0, arguments="{"), begin(1, "g", "x" * 600), more(1, "x" * 600)]

    assert kinds(*pieces)[-1] == "error"


# --- properties

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_arguments = st.dictionaries(st.text("ab", max_size=2), _texts, max_size=2).map(json.dumps)


def cut(text, at):
    """A text in pieces, cut at each of these places."""
    marks = [0, *sorted(place % (len(text) + 1) for place in at), len(text)]
    return [text[start:end] for start, end in pairwise(marks)]


_places = st.lists(st.integers(0, 1000), max_size=4)
_answers = st.fixed_dictionaries(
    {"thought": _texts, "text": _texts, "calls": st.lists(_arguments, max_size=3), "at": _places}
)
_finishes = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])


def chunks_of(answer, finish):
    """An answer as its events, calls one after the other."""
    yield chunk(role="assistant", content="")
    yield from (chunk(reasoning=piece, reasoning_content=piece) for piece in cut(answer["thought"], answer["at"]))
    yield from (chunk(content=piece) for piece in cut(answer["text"], answer["at"]))
    for number, arguments in enumerate(answer["calls"]):
        yield begin(number, f"f{number}", call_id=f"Ab1Cd2Ef{number}")
        yield from (more(number, piece) for piece in cut(arguments, answer["at"]))
    yield chunk(finish)
    yield from END


def whole_of(answer, finish):
    body = completion()
    calls = [
        {"id": f"Ab1Cd2Ef{number}", "type": "function", "function": {"name": f"f{number}", "arguments": arguments}}
        for number, arguments in enumerate(answer["calls"])
    ]
    message = {"role": "assistant", "content": answer["text"], "reasoning": answer["thought"], "tool_calls": calls}
    body["choices"][0] |= {"message": message, "finish_reason": finish}
    return json.loads(whole_message(json.dumps(body).encode(), "asked", ()))


@given(_answers, _finishes)
def test_a_streamed_message_is_the_whole_one(answer, finish):
    assert message_of(parsed(translated(*chunks_of(answer, finish)))) == whole_of(answer, finish)


@given(_answers, _finishes, _places)
def test_where_the_bytes_are_cut_makes_no_difference(answer, finish, at):
    data = b"".join(chunks_of(answer, finish))

    assert translated(*cut(data, at)) == translated(data)


@given(_answers, st.data())
def test_calls_that_overlap_are_told_apart(answer, data):
    calls = answer["calls"]
    waiting = [
        [
            begin(number, f"f{number}", call_id=f"Ab1Cd2Ef{number}"),
            *(more(number, piece) for piece in cut(text, answer["at"]) if piece),
        ]
        for number, text in enumerate(calls)
    ]
    pieces = []
    begun = 0
    while any(waiting):
        # a call begins after the one before it has
        ready = [number for number, left in enumerate(waiting) if left and (number < begun or number == begun)]
        number = data.draw(st.sampled_from(ready))
        begun = max(begun, number + 1)
        pieces.append(waiting[number].pop(0))

    message = message_of(parsed(translated(*pieces, chunk("tool_calls"), *END)))

    assert [block["input"] for block in message["content"]] == [json.loads(text) for text in calls]


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | _texts | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=5,
)
_calls = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-1, 2),
        "id": _values,
        "function": st.fixed_dictionaries({}, optional={"name": _texts, "arguments": _values}),
    },
)
_deltas = st.fixed_dictionaries(
    {},
    optional={
        "content": _texts | _values,
        "reasoning": _texts,
        "tool_calls": st.lists(_calls, max_size=3),
        "refusal": _values,
    },
)
_odd_chunks = st.fixed_dictionaries(
    {},
    optional={
        "id": _values,
        "model": _values,
        "choices": st.lists(
            st.fixed_dictionaries({"delta": _deltas | _values}, optional={"finish_reason": _values}), max_size=2
        ),
        "usage": _values | st.fixed_dictionaries({"prompt_tokens": _values, "prompt_tokens_details": _values}),
        "error": _values,
    },
).map(sse)


@given(st.lists(_odd_chunks | st.sampled_from([DONE, chunk("stop"), begin(0, arguments="{}")]), max_size=6))
def test_odd_chunks_raise_nothing_and_what_comes_out_can_be_read(pieces):
    events = parsed(translated(*pieces))

    assert [event["type"] for event in events[:-1] if event["type"] in ("error", "message_stop")] == []


@given(
    st.lists(
        st.binary(max_size=30)
        | st.sampled_from([DONE, ERROR, chunk(content="x"), chunk("stop"), begin(0, arguments="{}")])
    )
)
def test_garbage_raises_nothing_and_no_answer_looks_whole_without_a_reason(pieces):
    out = translated(*pieces)

    assert b"message_stop" not in out or b'"stop_reason":"end_turn"' in out
