"""What must hold for every stream, whatever it says and however it is cut."""

import json

import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from proxy.errors import ProxyError, error_body
from proxy.translate.answer_facts import is_passthrough
from proxy.translate.answer_finish import SwallowedToolCall
from proxy.translate.completion import translate_completion
from proxy.translate.failure import translate_failure
from proxy.translate.options import Options
from proxy.translate.stream import State, StreamTranslator
from proxy.wire.completion import CHUNK_OBJECT
from tests.translate.answers import (
    DONE,
    PASSTHROUGH,
    ROLE,
    Played,
    assembled,
    call,
    calls,
    chunk,
    completion_as_stream,
    expect,
    message_of,
    play,
    usage,
    whole,
)

#: Everything that means something to a rule, and something that does not.
_WORDS = (
    *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "abcDEF123", "get_weather", "get_time", "get_w", "no_tool"),
    *('{"city": "Paris"}', "{}", '{"a": {"b": "}"}}', "{", "}", "[", "]", '"', "\\", '{"city":'),
    *('[{"name": "get_time", "arguments": {}}]', '{"name": "get_weather", "arguments": {"city": "x"}, "id": "a"}'),
    *('{"tool_calls": [{"function": {"name": "get_time", "arguments": "{}"}}]}', "```json\n", "```"),
    *("[THINK]", "[/THINK]", "<think>", "</think>", "<response>", "</response>"),
    *(" ", "\n\n", "\t", "  " * 40, "Hello", "é", "👋", "\u2028", "a\x00b"),
)
_TEXTS = st.lists(st.sampled_from(_WORDS), max_size=8).map("".join)
_ARGUMENTS = st.one_of(
    st.sampled_from(("", "{}", '{"city": "Zürich"}', '{"city":', '{"a": "\\"}"} and more', " \n", "[ARGS]{}", "[1]")),
    _TEXTS,
)
_IDS = st.sampled_from((None, "", "null", "abcDEF123", "zyxWVU987", "call_abcDEF123", "chatcmpl-tool-1", "x"))
_NAMES = st.sampled_from(("get_weather", "get_time", "get_w", "no_tool", "get_time[ARGS]", "get_timeabcDEF123"))
_CALLS = st.lists(st.tuples(_NAMES, _ARGUMENTS, _IDS), max_size=3)
_FINISHES = st.sampled_from(("stop", "length", "tool_calls", "model_length", "abort"))
_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "recover_tool_calls": st.sampled_from(("off", "markers", "all")),
        "trailing_text": st.sampled_from(("content", "drop")),
        "bad_args": st.sampled_from(("keep", "repair")),
        "tool_stream": st.sampled_from(("incremental", "whole")),
        "client_ids": st.sampled_from(("upstream", "call_prefix")),
        "extract_think": st.booleans(),
        "reasoning_field": st.sampled_from(("both", "reasoning", "reasoning_content", "content", "drop", "untouched")),
        "reasoning_fallback": st.booleans(),
        "strip_vendor_fields": st.booleans(),
    },
).filter(lambda options: not is_passthrough(Options(**options)))
_FACTS = st.fixed_dictionaries(
    {},
    optional={
        "tool_choice": st.sampled_from(("auto", "required", "named", "none")),
        "tool_names": st.sampled_from(({}, {"get_weather": "get weather", "get_time": "get_time"})),
        "custom_tools": st.just(frozenset({"get_time"})),
        "legacy_functions": st.booleans(),
        "echoed_prefix": st.sampled_from(("Hello", "get_", "[TOOL")),
        "usage_wanted": st.booleans(),
    },
)


@st.composite
def _messages(draw):
    """What a model says, and the pieces in which it is streamed: `(message, deltas)`."""
    message, deltas = {}, []
    for field, texts in (("reasoning", st.one_of(st.just(""), _TEXTS)), ("content", _TEXTS)):
        if text := draw(texts):
            message[field] = text
            deltas += [{field: piece} for piece in draw(_cuts(text))]
    has_leak = any(mark in message.get("content", "") for mark in ("get_", '"name"', "[TOOL"))
    # A stream has handed a leaked call on before it shows that there are real ones; a whole answer knows.
    given = [] if has_leak else draw(_CALLS)
    for index, (name, arguments, identity) in enumerate(given):
        message.setdefault("tool_calls", []).append(call(None, name, arguments, identity))
        first, *rest = draw(_cuts(arguments)) or [""]
        deltas.append(calls(call(index, name, first, identity)))
        deltas += [calls(call(index, None, piece)) for piece in rest]
    return message, deltas


@st.composite
def _cuts(draw, text):
    ends = sorted(draw(st.sets(st.integers(1, len(text) - 1), max_size=6))) if len(text) > 1 else []
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True) if text[start:end]]


@given(_messages(), _FINISHES, _OPTIONS, _FACTS)
@example(({"content": "a \n"}, [{"content": "a "}, {"content": "\n"}]), "stop", {}, {})
@settings(max_examples=600, deadline=None)
def test_a_streamed_answer_says_what_the_whole_one_says(said, finish, options, facts):
    message, deltas = said
    expectation = expect(options, **facts)
    streams = [[*map(chunk, deltas), chunk({}, finish)]]
    if deltas:  # vLLM's last piece of a call comes with the finish reason
        streams.append([*map(chunk, deltas[:-1]), chunk(deltas[-1], finish)])
    try:
        answer = translate_completion(whole(message, finish), expectation)
    except SwallowedToolCall:
        answer = None
    for events in streams:
        streamed = play(ROLE, *events, DONE, expectation=expectation)
        if answer is None:
            assert streamed.error["code"] == SwallowedToolCall.code
            continue

        assert assembled(streamed)[0] == message_of(answer.body)
        assert streamed.translator.finish_reasons == answer.finish_reasons


@given(_messages(), _FINISHES, _OPTIONS, _FACTS)
@settings(max_examples=200, deadline=None)
def test_a_whole_answer_played_as_a_stream_says_the_same(said, finish, options, facts):
    expectation = expect(options, **facts)
    body = whole(said[0], finish, usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
    try:
        played = Played(completion_as_stream(body, expectation), StreamTranslator(expectation))
    except SwallowedToolCall:
        reject()

    assert assembled(played)[0] == message_of(translate_completion(body, expectation).body)
    assert sum("usage" in part for part in played.chunks) == expectation.usage_wanted


@given(_messages(), _FINISHES, _OPTIONS, st.data())
@settings(max_examples=200, deadline=None)
def test_any_cut_of_the_bytes_gives_the_same_bytes(said, finish, options, data):
    stream = b"".join([ROLE, *map(chunk, said[1]), b": keep-alive\n\n", chunk({}, finish), usage(3), DONE])
    stream = stream.replace(b"\n", data.draw(st.sampled_from((b"\n", b"\r\n", b"\r"))))
    expectation = expect(options)
    at_once = play(stream, expectation=expectation)

    for piece in (1, data.draw(st.integers(2, 400))):
        assert play(stream, expectation=expectation, piece=piece).out == at_once.out


@given(_messages(), _FINISHES, st.sampled_from(({}, {"recover_tool_calls": "all"}, {"tool_stream": "whole"})))
@settings(max_examples=300, deadline=None)
def test_a_translated_stream_goes_through_unchanged(said, finish, options):
    expectation = expect(options)
    once = play(ROLE, *map(chunk, said[1]), chunk({}, finish), usage(9), DONE, expectation=expectation)
    if once.translator.error is not None or _is_read_anew(once):
        return
    twice = play(once.out, expectation=expectation)

    assert assembled(twice) == assembled(once)
    if not _is_held_back(once):
        assert twice.out == once.out


def _texts(played: Played) -> str:
    message = assembled(played)[0]
    return message.get("content", "") + message.get("reasoning", "")


def _is_read_anew(played: Played) -> bool:
    """Whether the answer's own text looks like a call or a thought: text that was released is not marked as text."""
    return any(mark in _texts(played) for mark in ("[TOOL_CALLS]", "get_", "name", "[THINK]", "<think>"))


def _is_held_back(played: Played) -> bool:
    """Whether some of the text is held back the second time only: it is then cut into deltas at other places."""
    return "reasoning_to_content" in played.rules or any(mark in _texts(played) for mark in "[<{`")


@given(_messages())
@settings(max_examples=100, deadline=None)
def test_passthrough_forwards_every_byte(said):
    stream = b"".join([ROLE, *map(chunk, said[1]), b": ping\r\n\r\n", chunk({}, "stop"), usage(3), DONE])

    assert play(stream, expectation=expect(PASSTHROUGH)).out == stream


_KEYS = st.sampled_from(
    (
        *(
            "id",
            "object",
            "created",
            "model",
            "choices",
            "index",
            "delta",
            "message",
            "finish_reason",
            "usage",
            "error",
        ),
        *(
            "content",
            "tool_calls",
            "function",
            "name",
            "arguments",
            "reasoning",
            "type",
            "text",
            "detail",
            "loc",
            "msg",
        ),
        *("role", "completion_tokens", "code", "param", "logprobs", "custom"),
    )
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_CHOICE = st.fixed_dictionaries({"index": st.integers(0, 1), "delta": _JSON, "message": _JSON, "finish_reason": _JSON})
_ANSWERS = st.one_of(_JSON, st.fixed_dictionaries({"choices": st.lists(_CHOICE | _JSON, max_size=2), "usage": _JSON}))
_GARBAGE = st.one_of(
    st.binary(max_size=60),
    _ANSWERS.map(lambda value: b"data: " + json.dumps(value).encode() + b"\n\n"),
    st.sampled_from(
        (DONE, ROLE, b"data:\n\n", b"\r", b'data: {"choices": [{"delta"', b"data: " + b"[" * 100_000 + b"\n\n")
    ),
    st.just(b'data: {"id":"\xff","choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n'),
)


@given(st.lists(_GARBAGE, max_size=6), _OPTIONS)
@settings(max_examples=500, deadline=None)
def test_garbage_ends_in_an_error_event_or_a_clean_end_and_never_in_another_exception(pieces, options):
    translator = StreamTranslator(expect(options), max_event_bytes=200_000)
    out = b"".join(map(translator.receive, pieces)) + translator.receive_eof()

    assert (translator.error is None) is (translator.state is State.CLOSED)
    assert translator.state in (State.CLOSED, State.FAILED)
    assert out.endswith(DONE)


@given(st.one_of(st.binary(max_size=60), _ANSWERS.map(lambda value: json.dumps(value).encode())), _OPTIONS)
@settings(max_examples=500, deadline=None)
def test_a_garbage_answer_is_an_upstream_error(body, options):
    try:
        outcome = translate_completion(body, expect(options)).body
    except ProxyError as error:
        outcome = error_body(error)

    assert isinstance(json.loads(outcome), dict)


@given(st.integers(100, 999), st.one_of(st.binary(max_size=60), _ANSWERS.map(lambda value: json.dumps(value).encode())))
@settings(max_examples=300, deadline=None)
def test_any_failure_has_a_status_a_message_and_a_type(status, body):
    error = translate_failure(status, body)

    assert 400 <= error.status <= 599
    assert error.message
    assert error.kind


def test_the_chunks_of_the_tests_are_those_of_the_protocol():
    assert json.loads(ROLE[6:])["object"] == CHUNK_OBJECT


@pytest.mark.parametrize("size", [1, 7, 100])
def test_nothing_comes_after_an_error(size):
    stream = ROLE + chunk({"content": "a"}) + b"data: {broken\n\n" + chunk({"content": "b"}) + DONE

    played = play(stream, piece=size)

    assert played.out.count(DONE) == 1
    assert b'"b"' not in played.out
