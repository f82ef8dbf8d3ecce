"""How many calls had leaked, and what was wrong with calls: the same in a stream and in a whole answer."""

import json

import pytest

from proxy.observe.metrics import MALFORMED
from proxy.translate.completion import translate_completion
from proxy.translate.expectation import Expectation
from proxy.translate.options import Options
from proxy.translate.stream import StreamTranslator

NAMES = {"get_weather": "get_weather", "search": "search"}
LEAKED = '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "search", "arguments": {}}]'
GOOD = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
KEPT, CLOSED = Options(), Options(bad_args="repair")

#: calls, finish reason, options, what is counted
CASES = {
    "good": ([GOOD, GOOD], "tool_calls", KEPT, ()),
    "nothing": ([{"name": "search", "arguments": ""}], "tool_calls", KEPT, ("no_arguments",)),
    "an object": ([{"name": "search", "arguments": {"q": 1}}], "tool_calls", KEPT, ("object",)),
    "markers": ([{"name": "search", "arguments": '[ARGS]{"q": 1}'}], "tool_calls", KEPT, ("markers",)),
    "a name": ([{"name": "search[ARGS]", "arguments": "{}"}], "tool_calls", KEPT, ("name",)),
    "more": ([{"name": "search", "arguments": '{"q": 1} and so on'}], "tool_calls", KEPT, ("trailing_text",)),
    "text": ([{"name": "search", "arguments": "Paris"}], "tool_calls", KEPT, ("invalid",)),
    "open": ([{"name": "search", "arguments": '{"q": "Par'}, GOOD], "tool_calls", KEPT, ("invalid",)),
    "open at the end": ([{"name": "search", "arguments": '{"q": "Par'}], "tool_calls", KEPT, ("cut",)),
    "closed": ([{"name": "search", "arguments": '{"q": "Par'}], "tool_calls", CLOSED, ("closed",)),
    "cut": ([GOOD, {"name": "search", "arguments": '{"q": "Par'}], "length", KEPT, ("cut",)),
    "two things": ([{"name": "search[ARGS]", "arguments": "Paris"}], "tool_calls", KEPT, ("name", "invalid")),
    "each": (
        [{"name": "search", "arguments": "a"}, {"name": "search", "arguments": "b"}],
        "tool_calls",
        KEPT,
        ("invalid",) * 2,
    ),
}


def expectation(options):
    return Expectation(options=options, model="m", stream=False, tool_names=NAMES)


def message(calls):
    named = [{"index": n, "id": f"abcdefgh{n}", "type": "function", "function": call} for n, call in enumerate(calls)]
    return {"role": "assistant", "content": None, "tool_calls": named}


def whole(said, finish, options):
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m"}
    body = answer | {"choices": [{"index": 0, "message": said, "finish_reason": finish}]}
    return translate_completion(json.dumps(body).encode(), expectation(options))


def streamed(said, finish, options):
    translator = StreamTranslator(expectation(options), max_event_bytes=1 << 20)
    for delta, reason in ((said, None), ({}, finish)):
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": reason}]
        translator.receive(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    translator.receive(b"data: [DONE]\n\n")
    assert translator.error is None
    return translator


@pytest.mark.parametrize("way", [whole, streamed])
@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_calls_is_counted_once_for_each(way, name):
    calls, finish, options, expected = CASES[name]

    answer = way(message(calls), finish, options)

    assert answer.calls_malformed == expected
    assert answer.calls_recovered == 0


@pytest.mark.parametrize("way", [whole, streamed])
def test_every_call_that_leaked_is_counted(way):
    answer = way({"role": "assistant", "content": LEAKED}, "stop", KEPT)

    assert answer.rules_applied.count("recover_leaked_calls") == 1
    assert answer.calls_recovered == 2


def test_a_call_that_comes_in_pieces_is_counted_once():
    translator = StreamTranslator(expectation(KEPT), max_event_bytes=1 << 20)
    for piece in ("[ARGS]", '{"q"', ": 1}", " and", " so on"):
        call = {"index": 0, "id": "abcdefgh1", "function": {"name": "search", "arguments": piece}}
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        chunk["choices"] = [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]
        translator.receive(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    assert translator.calls_malformed == ("markers", "trailing_text")


def test_every_word_has_a_case():
    """`no_name` is an error, and counted as such (tests/observe/test_metrics.py)."""
    assert {word for *_, words in CASES.values() for word in words} == set(MALFORMED) - {"no_name"}
