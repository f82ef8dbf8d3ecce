"""What a stream says, put together: the same as the whole answer, or nothing where it may not be given to others."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.translate import answer_gathered
from proxy.translate.answer_finish import SwallowedToolCall
from proxy.translate.answer_gathered import GatheredAnswer, is_keepable
from proxy.translate.answer_replay import played
from proxy.translate.completion import CompletionAnswer, translate_completion
from proxy.wire.completion import Usage
from tests.translate.answers import DONE, ROLE, assembled, call, calls, chunk, event, expect, message_of, play, usage
from tests.translate.answers import whole as whole_answer
from tests.translate.test_stream import FAILURES, PAIRS
from tests.translate.test_stream import played as golden
from tests.translate.test_stream_properties import _FACTS, _FINISHES, _OPTIONS, _messages

LARGE = 1 << 20
COUNTED = Usage(1, 2, 3)


def gathered(*events, max_bytes=LARGE, known=COUNTED):
    answer = GatheredAnswer(max_bytes)
    for each in events:
        answer.add(each)
    return answer.finished(known)


def said(*deltas, finish="stop", **more):
    return [ROLE, *(chunk(delta) for delta in deltas), chunk({}, finish, **more), DONE]


def message_in(answer, choice=0):
    return json.loads(answer.body)["choices"][choice]["message"]


# --- what comes of it


def test_pieces_of_text_are_joined():
    answer = gathered(*said({"content": "Hel"}, {"content": "lo"}))

    assert json.loads(answer.body) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "devstral",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
    assert (answer.finish_reasons, answer.usage) == (("stop",), COUNTED)


def test_arguments_are_joined_call_by_call():
    events = said(
        calls(call(0, "get_weather", '{"city":', "abcDEF123")),
        calls(call(0, None, ' "Paris"}')),
        calls(call(1, "get_time", "{}", "zyxWVU987")),
        finish="tool_calls",
    )

    message = message_in(gathered(*events))

    assert message["content"] is None
    assert message["tool_calls"] == [
        {
            "id": "abcDEF123",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
        },
        {"id": "zyxWVU987", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
    ]


def test_a_custom_call_keeps_its_input():
    custom = {"index": 0, "id": "abcDEF123", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}

    message = message_in(gathered(*said(calls(custom), finish="tool_calls")))

    assert message["tool_calls"] == [
        {"id": "abcDEF123", "type": "custom", "custom": {"name": "shell", "input": "ls -l"}}
    ]


def test_a_legacy_call_is_joined():
    events = said(
        {"function_call": {"name": "get_time", "arguments": '{"a"'}},
        {"function_call": {"arguments": ": 1}"}},
        finish="function_call",
    )

    message = message_in(gathered(*events))

    assert (message["content"], message["function_call"]) == (None, {"name": "get_time", "arguments": '{"a": 1}'})


def test_thoughts_and_refusals_are_joined():
    events = said(
        {"reasoning": "I th", "reasoning_content": "I th"},
        {"reasoning": "ink", "reasoning_content": "ink"},
        {"refusal": "No, "},
        {"refusal": "no."},
    )

    assert message_in(gathered(*events)) == {
        "role": "assistant",
        "content": None,
        "refusal": "No, no.",
        "reasoning": "I think",
        "reasoning_content": "I think",
    }


def test_choices_that_come_in_turns_stand_by_their_index():
    events = [
        chunk({"role": "assistant", "content": "b"}, index=1),
        chunk({"role": "assistant", "content": "a"}),
        chunk({"content": "B"}, index=1),
        chunk({}, "stop"),
        chunk({}, "stop", index=1),
        DONE,
    ]

    answer = gathered(*events)

    assert [message_in(answer, index)["content"] for index in (0, 1)] == ["a", "bB"]
    assert answer.finish_reasons == ("stop", "stop")


def test_logprobs_are_joined():
    def described(*tokens):
        choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": None}
        return event({"choices": [{**choice, "logprobs": {"content": [{"token": t} for t in tokens]}}]})

    answer = gathered(ROLE, described("a"), described("b", "c"), chunk({}, "stop"), DONE)

    assert json.loads(answer.body)["choices"][0]["logprobs"] == {
        "content": [{"token": "a"}, {"token": "b"}, {"token": "c"}]
    }


def test_the_usage_that_the_client_was_sent_is_kept_as_it_is():
    shown = {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15, "prompt_tokens_details": None}
    events = [*said({"content": "x"})[:-1], event({"choices": [], "usage": shown}), DONE]

    assert json.loads(gathered(*events).body)["usage"] == shown
    assert gathered(*events, known=None).usage == Usage(7, 8, 15)


def test_the_fingerprint_may_come_with_any_event():
    events = [*said({"content": "x"})[:-1], event({"choices": [], "system_fingerprint": "vllm-1"}), DONE]

    assert json.loads(gathered(*events).body)["system_fingerprint"] == "vllm-1"


def test_keep_alives_say_nothing():
    events = said({"content": "Hello"})

    assert gathered(b": keep-alive\n\n", *events[:2], b": a\n\n: b\n\n", *events[2:], b": late\n\n") == gathered(
        *events
    )


def test_rules_are_kept_with_the_answer():
    answer = GatheredAnswer(LARGE)
    answer.add(b"".join(said({"content": "x"})))

    assert answer.finished(COUNTED, ("think_tags_to_reasoning",)).rules_applied == ("think_tags_to_reasoning",)


# --- what is not kept


NOT_KEPT = {
    "no end": said({"content": "x"})[:-1],
    "no finish reason": [ROLE, chunk({"content": "x"}), DONE],
    "one choice without a finish reason": [chunk({"content": "x"}, index=1), *said({"content": "x"})],
    "truncated": said({"content": "x"}, finish="length"),
    "filtered": said({"content": "x"}, finish="content_filter"),
    "failed": said({"content": "x"}, finish="error"),
    "one of two truncated": [chunk({"content": "x"}, "length", index=1), *said({"content": "x"})],
    "an error event": [*said({"content": "x"})[:-1], event({"error": {"message": "died"}}), DONE],
    "an error and nothing else": [event({"error": {"message": "died"}}), DONE],
    "nothing at all": [],
    "nothing but the end": [DONE],
    "nothing said": said(),
    "more after the end": [*said({"content": "x"}), chunk({"content": "y"})],
    "two ends": [*said({"content": "x"}), DONE],
    "an end in the middle": [ROLE, DONE, *said({"content": "x"})],
    "audio": said({"content": "x"}, {"audio": {"data": "AAAA"}}),
    "token ids": [event({"choices": [{"index": 0, "delta": {}, "token_ids": [1]}]}), *said({"content": "x"})],
    "prompt's token ids": [event({"choices": [], "prompt_token_ids": [1]}), *said({"content": "x"})],
    "a field of a delta that nobody knows": said({"content": "x", "sources": ["a"]}),
    "a field of a choice that nobody knows": [
        event({"choices": [{"index": 0, "delta": {}, "odd": 1}]}),
        *said({"content": "x"}),
    ],
    "no JSON": [*said({"content": "x"})[:-1], b"data: {broken\n\n", DONE],
    "an event with a name": [b'event: x\ndata: {"choices": []}\n\n', *said({"content": "x"})],
    "not UTF-8": [b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n', *said({"content": "x"})],
}


@pytest.mark.parametrize("name", NOT_KEPT)
@pytest.mark.parametrize("collected", [1, 32 * 1024])
def test_what_is_no_whole_answer_is_not_kept(name, collected, monkeypatch):
    monkeypatch.setattr(answer_gathered, "_MOST_COLLECTED", collected)
    events = NOT_KEPT[name]

    assert gathered(*events) is None
    assert gathered(b"".join(events)) is None


def test_what_is_null_says_nothing():
    choice = {"index": 0, "delta": {"audio": None}, "logprobs": None, "token_ids": None, "stop_reason": None}

    assert gathered(event({"choices": [choice]}), *said({"content": "x"})) is not None


def test_a_stream_of_unknown_cost_is_not_kept():
    assert gathered(*said({"content": "x"}), known=None) is None


def test_padding_of_the_hosted_api_is_left_out():
    assert "p" not in json.loads(gathered(*said({"content": "x"}, p="abcdef")).body)


def test_an_answer_over_the_bound_is_not_kept():
    events = said(*[{"content": "x" * 100}] * 100)

    assert gathered(*events, max_bytes=10_000) is None
    assert gathered(*events, max_bytes=11_000) is not None


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x" * 1000},
        {"reasoning": "x" * 1000},
        calls(call(0, "get_time", "x" * 1000, "abcDEF123")),
        {"function_call": {"name": "get_time", "arguments": "x" * 1000}},
    ],
    ids=lambda delta: next(iter(delta)),
)
def test_what_is_held_of_a_stream_without_end_is_bounded(delta):
    answer = GatheredAnswer(100_000)
    for _ in range(1000):
        answer.add(chunk(delta))

    assert answer._state is answer_gathered._State.SPOILED
    assert (answer._collected, answer._choices) == ([], {})


def test_choices_and_calls_without_end_are_bounded_too():
    choices, many = GatheredAnswer(100_000), GatheredAnswer(100_000)
    for index in range(2000):
        choices.add(chunk({"content": ""}, index=index))
        many.add(chunk(calls(call(index, "get_time", "{}", "abcDEF123"))))

    assert {choices._state, many._state} == {answer_gathered._State.SPOILED}


@pytest.mark.parametrize(
    ("message", "finish", "is_kept"),
    [
        ({"content": "Hello"}, "stop", True),
        ({"content": None, "tool_calls": [call(None, "get_time", "{}", "abcDEF123")]}, "tool_calls", True),
        ({"content": None, "refusal": "No."}, "stop", True),
        ({"content": "Hello"}, "length", False),
        ({"content": ""}, "stop", False),
        ({"content": None, "tool_calls": []}, "stop", False),
    ],
)
def test_whole_answers_are_judged_by_the_same_rule(message, finish, is_kept):
    answer = CompletionAnswer(whole_answer(message, finish), (), COUNTED, (finish,))

    assert is_keepable(answer) is is_kept


def test_an_answer_that_is_none_is_not_kept():
    assert not is_keepable(CompletionAnswer(b'{"error": {}}', (), None, ()))
    assert not is_keepable(CompletionAnswer(b"{broken", (), None, ("stop",)))


# --- properties


@given(_messages(), _FINISHES, _OPTIONS, _FACTS)
@settings(max_examples=400, deadline=None)
def test_a_gathered_stream_says_what_the_whole_answer_says(message, finish, options, facts):
    said_whole, deltas = message
    expectation = expect(options, **facts)
    try:
        whole = translate_completion(whole_answer(said_whole, finish), expectation)
    except SwallowedToolCall:
        whole = None
    streamed = play(ROLE, *map(chunk, deltas), chunk({}, finish), DONE, expectation=expectation)

    answer = gathered(streamed.out)

    if whole is None or not is_keepable(whole):
        assert answer is None
    else:
        assert message_of(answer.body) == message_of(whole.body)
        assert answer.finish_reasons == whole.finish_reasons


@given(_messages(), _FINISHES, _OPTIONS, st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_it_does_not_matter_when_events_are_read(message, finish, options, size):
    expectation = expect(options)
    out = play(ROLE, *map(chunk, message[1]), chunk({}, finish), usage(3), DONE, expectation=expectation).out
    events = [each + b"\n\n" for each in out.split(b"\n\n") if each]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_gathered, "_MOST_COLLECTED", size)

        assert gathered(*events) == gathered(out)


def _again(answer, expectation):
    return gathered(played(answer, expectation), known=answer.usage)


@given(_messages(), _FINISHES, _OPTIONS, _FACTS)
@settings(max_examples=300, deadline=None)
def test_a_gathered_answer_that_is_played_and_gathered_is_the_same(message, finish, options, facts):
    expectation = expect(options, **facts)
    streamed = play(ROLE, *map(chunk, message[1]), chunk({}, finish), usage(3), DONE, expectation=expectation)
    answer = gathered(streamed.out)
    if answer is not None:
        again = _again(answer, expectation)

        assert json.loads(again.body) == json.loads(answer.body)
        assert (again.finish_reasons, again.usage) == (answer.finish_reasons, answer.usage)


@pytest.mark.parametrize(("name", "profile"), PAIRS)
def test_recorded_streams_are_kept_if_they_are_whole(name, profile):
    streamed = golden(name, profile)
    answer = gathered(streamed.out, known=streamed.translator.usage or COUNTED)

    if name in FAILURES or "length" in streamed.translator.finish_reasons or name == "silent":
        assert answer is None
        return
    assert answer.finish_reasons == streamed.translator.finish_reasons
    again = assembled_choices(played(answer, expect(usage_wanted=False)))
    assert again == assembled_choices(streamed.out)


def assembled_choices(out):
    """What a client makes of the choices of a stream, whatever their constant fields."""
    parts = [json.loads(each.removeprefix(b"data: ")) for each in out.split(b"\n\n") if each.startswith(b"data: {")]
    renamed = [event({**part, **json.loads(ROLE[6:])} | {"choices": part["choices"]}) for part in parts]
    return assembled(type(play(DONE))(b"".join(renamed) + DONE, None))
