"""Whole answers: what the client gets, and what is refused."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import UpstreamError, UpstreamProtocolError, UpstreamRejected
from proxy.translate import completion
from proxy.translate.answer_finish import SwallowedToolCall
from proxy.translate.completion import translate_completion
from proxy.wire.completion import Usage
from tests.translate.answers import DONE, PASSTHROUGH, TOOLS, call, completion_as_stream, expect, whole

WEATHER = call(None, "get_weather", '{"city": "SF"}', "abcDEF123")

#: As live vLLM 0.32 answers, tool_choice auto.
RECORDED = json.dumps(
    {
        "id": "chatcmpl-9d1",
        "object": "chat.completion",
        "created": 1795385522,
        "model": "devstral",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "tool_calls": [WEATHER],
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
                "stop_reason": None,
                "token_ids": None,
                "routed_experts": None,
            }
        ],
        "service_tier": None,
        "system_fingerprint": "vllm-0.32.0",
        "usage": {"prompt_tokens": 103, "total_tokens": 117, "completion_tokens": 14, "prompt_tokens_details": None},
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "metrics": None,
    }
).encode()


def translated(message, finish="stop", options=None, more=None, **facts):
    """The choice that a client gets for `message`."""
    body = whole(message, finish, **(more or {}))
    return json.loads(translate_completion(body, expect(options, **facts)).body)["choices"][0]


def spent(tokens):
    return {"usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}}


def test_a_recorded_answer_loses_nothing_but_vllm_s_own_keys():
    before = json.loads(RECORDED)
    answer = translate_completion(RECORDED, expect())
    after = json.loads(answer.body)

    for key in ("prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params", "metrics"):
        del before[key]
    for key in ("stop_reason", "token_ids", "routed_experts"):
        del before["choices"][0][key]
    del before["choices"][0]["message"]["reasoning"]
    assert after == before
    assert answer.rules_applied == ("strip_vendor_fields",)
    assert answer.usage == Usage(103, 14, 117)
    assert answer.finish_reasons == ("tool_calls",)


def test_a_translated_answer_goes_through_unchanged():
    once = translate_completion(RECORDED, expect()).body
    twice = translate_completion(once, expect())

    assert (twice.body, twice.rules_applied) == (once, ())


def test_unknown_fields_survive():
    body = whole({"content": "a", "annotations": [{"x": 1}]}, more={"y": [1.5, None]})
    answer = json.loads(translate_completion(body, expect()).body)

    assert answer["more"] == {"y": [1.5, None]}
    assert answer["choices"][0]["message"]["annotations"] == [{"x": 1}]


@pytest.mark.parametrize(("content", "expected"), [("", None), (None, None), ("Hm.\n\n", "Hm."), ([], None)])
def test_content_beside_calls_is_text_or_null(content, expected):
    assert translated({"content": content, "tool_calls": [WEATHER]})["message"]["content"] == expected


@pytest.mark.parametrize(
    ("content", "expected"), [("", ""), (None, None), ("a\n", "a\n"), ([{"type": "text", "text": "a"}], "a"), ([], "")]
)
def test_content_without_calls_keeps_its_form_unless_it_is_a_list(content, expected):
    assert translated({"content": content}, tool_names={})["message"]["content"] == expected


@pytest.mark.parametrize("empty", [None, []])
def test_an_answer_without_calls_has_no_tool_calls(empty):
    assert "tool_calls" not in translated({"content": "a", "tool_calls": empty})["message"]


def test_calls_in_a_whole_message_have_no_index():
    message = translated({"content": None, "tool_calls": [{**WEATHER, "index": 3}]})["message"]

    assert message["tool_calls"] == [WEATHER]


def test_leaked_calls_are_recovered():
    choice = translated({"content": 'Hm.\n\n[TOOL_CALLS]get_weather[ARGS]{"city": "SF"}'})

    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Hm."
    assert choice["message"]["tool_calls"][0]["function"] == WEATHER["function"]


def test_text_that_looks_like_a_call_is_text_beside_real_calls():
    message = translated({"content": "[TOOL_CALLS]get_time{}", "tool_calls": [WEATHER]})["message"]

    assert message["content"] == "[TOOL_CALLS]get_time{}"
    assert len(message["tool_calls"]) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "tokens", "max_tokens", "expected"),
    [
        ("get_weather", '{"city":', 9, 9, ("length", '{"city":')),
        ("get_weather", '{"city":', 9, None, ("length", '{"city":')),
        ("get_w", "{}", 3, 3, ("length", "")),
        ("get_w", "{}", 3, 40, ("tool_calls", "{}")),
        ("no_such_tool", "{}", 3, 3, ("tool_calls", "{}")),
        ("get_time", "{}", 3, 3, ("tool_calls", "{}")),
        ("get_time", "", 3, 40, ("tool_calls", "{}")),
    ],
)
def test_a_call_that_the_limit_cut_says_length_and_has_no_invented_arguments(
    name, arguments, tokens, max_tokens, expected
):
    cut = call(None, name, arguments, "abcDEF123")
    choice = translated({"tool_calls": [cut]}, "tool_calls", more=spent(tokens), max_tokens=max_tokens)

    assert (choice["finish_reason"], choice["message"]["tool_calls"][0]["function"]["arguments"]) == expected


def test_the_limit_holds_for_each_choice():
    one = {"message": {"tool_calls": [call(None, "get_w", "{}", "abcDEF123")]}, "finish_reason": "tool_calls"}
    body = json.dumps({"choices": [{"index": 0, **one}, {"index": 1, **one}], **spent(40)}).encode()
    answer = json.loads(translate_completion(body, expect(max_tokens=40)).body)

    assert [choice["finish_reason"] for choice in answer["choices"]] == ["tool_calls", "tool_calls"]


def test_required_may_end_in_text_at_the_limit():
    assert translated({"content": "Well"}, "length", tool_choice="required")["finish_reason"] == "length"


def test_arguments_at_the_limit_are_not_closed_even_where_that_is_configured():
    cut = call(None, "get_weather", '{"city":', "abcDEF123")
    known = translated({"tool_calls": [cut]}, "tool_calls", {"bad_args": "repair"}, spent(9), max_tokens=9)
    unknown = translated({"tool_calls": [cut]}, "tool_calls", {"bad_args": "repair"}, spent(9))

    assert known["finish_reason"] == "length"
    assert unknown["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":null}'


def test_reasoning_comes_under_both_names():
    message = translated({"content": "Yes", "reasoning": "Hm"})["message"]

    assert (message["reasoning"], message["reasoning_content"]) == ("Hm", "Hm")


def test_thoughts_are_split_off_the_content():
    message = translated({"content": "[THINK]Hm[/THINK]Yes"})["message"]

    assert (message["reasoning_content"], message["content"]) == ("Hm", "Yes")


def test_custom_tools_and_functions_get_their_own_form():
    custom = translated(
        {"tool_calls": [call(None, "get_time", '{"input": "x"}', "abcDEF123")]}, custom_tools=frozenset({"get_time"})
    )
    legacy = translated({"content": "", "tool_calls": [WEATHER]}, "tool_calls", legacy_functions=True)

    assert custom["message"]["tool_calls"] == [
        {"id": "abcDEF123", "type": "custom", "custom": {"name": "get_time", "input": "x"}}
    ]
    assert legacy["message"] == {"role": "assistant", "content": None, "function_call": WEATHER["function"]}
    assert legacy["finish_reason"] == "function_call"


def test_a_missing_total_is_filled():
    body = whole({"content": "a"}, usage={"prompt_tokens": 1, "completion_tokens": 2})
    answer = translate_completion(body, expect())

    assert json.loads(answer.body)["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def test_an_answer_of_which_nothing_arrived_is_an_error_of_its_own_kind():
    with pytest.raises(SwallowedToolCall):
        translate_completion(whole({"content": None}, **spent(14)), expect())


@pytest.mark.parametrize("facts", [{"tool_names": {}}, {"tool_choice": "none"}])
def test_an_empty_answer_where_no_call_can_be_is_an_answer(facts):
    assert translated({"content": ""}, more=spent(14), **facts)["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b'{"choices": [{"message": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]}',
        b'{"choices": [{"message": {"content": "a\xff"}}]}',
        b'{"choices": [{"message": {}}], "usage": {"prompt_tokens": "x"}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_a_protocol_error(body):
    with pytest.raises(UpstreamProtocolError):
        translate_completion(body, expect())


def test_an_error_with_status_200_is_an_error():
    with pytest.raises(UpstreamRejected, match="out of memory") as caught:
        translate_completion(b'{"error": {"message": "out of memory", "code": 503}}', expect())

    assert caught.value.status == 503


@pytest.mark.parametrize("body", [RECORDED, b"anything", b'{"usage": 5}'])
def test_passthrough_changes_nothing(body):
    assert translate_completion(body, expect(PASSTHROUGH)).body == body


def test_passthrough_still_knows_the_usage():
    answer = translate_completion(RECORDED, expect(PASSTHROUGH))

    assert (answer.usage, answer.finish_reasons) == (Usage(103, 14, 117), ("tool_calls",))


def test_an_answer_played_as_a_stream_is_in_the_order_it_was_said():
    body = whole(
        {"content": "Hm.", "reasoning": "?", "tool_calls": [WEATHER], "refusal": None}, "tool_calls", **spent(9)
    )
    events = [json.loads(part[6:]) for part in completion_as_stream(body, expect()).split(b"\n\n")[:-2]]

    assert [part["choices"][0]["delta"] if part["choices"] else part["usage"] for part in events] == [
        {"role": "assistant", "content": ""},
        {"reasoning": "?", "reasoning_content": "?"},
        {"content": "Hm."},
        {"tool_calls": [{"index": 0, **WEATHER}]},
        {},
        spent(9)["usage"],
    ]
    assert {part["object"] for part in events} == {"chat.completion.chunk"}


def test_usage_is_played_only_if_it_was_asked_for():
    body = whole({"content": "a"}, **spent(1))

    assert b"usage" not in completion_as_stream(body, expect(usage_wanted=False))
    assert completion_as_stream(body, expect(usage_wanted=False)).endswith(DONE)


def test_logprobs_of_a_whole_answer_are_played():
    body = json.loads(whole({"content": "a"}))
    body["choices"][0]["logprobs"] = {"content": []}

    assert b'"logprobs":{"content":[]}' in completion_as_stream(json.dumps(body).encode(), expect(tool_names=TOOLS))


def either_way(body, expectation):
    """What becomes of `body`, after having seen that it is the same where every choice is taken apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion, "has_plain_text", lambda *_: False)
        expected = outcome(body, expectation)
    assert outcome(body, expectation) == expected
    return expected


def outcome(body, expectation):
    try:
        return translate_completion(body, expectation)
    except UpstreamError as exc:
        return type(exc), str(exc), exc.status


def takes_the_short_way(body, expectation):
    return completion.has_plain_text(json.loads(body), expectation)


ANSWER = json.loads(RECORDED) | {
    "choices": [json.loads(RECORDED)["choices"][0] | {
        "message": {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": [], "reasoning": None},
        "finish_reason": "stop",
    }]
}  # fmt: skip
EXPECTATIONS = [
    expect(),
    expect(tool_names={}),
    *(expect(tool_choice=choice) for choice in ("none", "required", "named")),
    *(expect({"recover_tool_calls": mode}) for mode in ("off", "all")),
    *(expect({"reasoning_field": name}) for name in ("untouched", "reasoning", "content", "drop")),
    expect({"extract_think": False}),
    expect({"extract_think": False}, tool_names={}),
    expect({"strip_vendor_fields": False}),
    expect({"reasoning_fallback": False, "named_finish": "stop", "trailing_text": "drop"}),
    expect(legacy_functions=True),
    expect(echoed_prefix="H"),
    expect(max_tokens=14),
    expect(max_tokens=2),
    expect(PASSTHROUGH),
]
TEXTS = (
    "Hi", "", " ", "\n", "Hi\n", "Hi \u2003", " Hi", "a[b", "[", "[TOOL_CALLS]", "[TOOL_CALLS]get_time{}",
    '[TOOL_CALLS]get_weather[ARGS]{"city": "SF"}', "a < b", "<think>Hm</think>Yes", "[THINK]Hm[/THINK]Yes", "<",
    " <think>", '{"name": "get_time", "arguments": {}}', 'get_time{"a": 1}', "get_time", "H", "é\x00",
)  # fmt: skip
ODD = (None, "", "x", 0, 1, -1, 1.5, 10**30, True, False, [], ["x"], {}, {"x": None})

USUAL = {
    "content": TEXTS,
    "tool_calls": (None, [], [WEATHER], [{**WEATHER, "index": 0}]),
    "finish_reason": ("stop", "length", "tool_calls", "model_length", "abort", "error"),
    "choices": ([], [ANSWER["choices"][0]] * 2),
    "error": ({"message": "no", "code": 503},),
    "usage": ({}, {"prompt_tokens": 1, "completion_tokens": 14}, {"completion_tokens": 2, "x": 1}),
    "reasoning": ("Hm",),
    "role": ("tool",),
    "index": (1,),
}  # fmt: skip


@st.composite
def answers(draw):
    """One choice of text, in which a few members are something else, absent, or new."""
    answer = json.loads(json.dumps(ANSWER))
    choice = answer["choices"][0]
    holders = {"message": choice["message"], "choice": choice, "usage": answer["usage"], "answer": answer}
    choice["message"]["content"] = draw(st.sampled_from(("Hi", *TEXTS)))
    for _ in range(draw(st.integers(0, 3))):
        holder = holders[draw(st.sampled_from(sorted(holders)))]
        name = draw(st.sampled_from(sorted({*holder, "x", "error", "audio", "reasoning_content", "function_call"})))
        if draw(st.booleans()):
            holder[name] = draw(st.sampled_from((*USUAL.get(name, ()), None)) | st.sampled_from(ODD))
        else:
            holder.pop(name, None)
    return answer


many = settings(max_examples=1500, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@many
@given(answer=answers(), expectation=st.sampled_from(EXPECTATIONS))
def test_the_short_way_of_plain_text_gives_the_same(answer, expectation):
    either_way(json.dumps(answer).encode(), expectation)


@pytest.mark.parametrize("expectation", EXPECTATIONS)
def test_every_text_and_every_odd_value_gives_the_same_the_short_way(expectation):
    choice = ANSWER["choices"][0]
    message = choice["message"]
    odd_messages = [message | {name: value} for name in message for value in ODD]
    odd_choices = [choice | {name: value} for name in choice for value in ODD]
    odd_usages = [ANSWER["usage"] | {name: value} for name in ANSWER["usage"] for value in ODD]
    bodies = [
        *(ANSWER | {"choices": [choice | {"message": message | {"content": text}}]} for text in TEXTS),
        *(ANSWER | {"choices": [choice | {"message": changed}]} for changed in odd_messages),
        *(ANSWER | {"choices": [changed]} for changed in odd_choices),
        *(ANSWER | {"usage": usage} for usage in odd_usages),
        *(ANSWER | {name: value} for name in ANSWER for value in ODD),
        *({key: value for key, value in ANSWER.items() if key != name} for name in ANSWER),
        ANSWER | {"choices": [choice, choice | {"index": 1}]},
        json.loads(RECORDED),
    ]
    for body in bodies:
        either_way(json.dumps(body).encode(), expectation)
    either_way(json.dumps(ANSWER, ensure_ascii=False).encode() + b"\xff", expectation)
    either_way(json.dumps(ANSWER).encode().replace(b"Hi", b"H\xff"), expectation)


@pytest.mark.parametrize(
    ("content", "facts", "is_short"),
    [
        ("Hi", {}, True),
        ("Hi\n", {}, False),
        ("Hi\n", {"tool_names": {}}, True),
        ("a < b", {}, False),
        ("a < b", {"options": {"extract_think": False}}, True),
        ("a[b", {"options": {"extract_think": False}}, False),
        ("a[b", {"options": {"extract_think": False}, "tool_names": {}}, True),
        ("Hi", {"tool_choice": "required"}, False),
        ("Hi", {"options": {"recover_tool_calls": "all"}}, False),
        ("Hi", {"echoed_prefix": "H"}, False),
        ("", {}, False),
    ],
)
def test_text_in_which_no_rule_can_find_anything_goes_the_short_way(content, facts, is_short):
    choice = ANSWER["choices"][0]
    body = json.dumps(ANSWER | {"choices": [choice | {"message": choice["message"] | {"content": content}}]}).encode()

    assert takes_the_short_way(body, expect(**facts)) is is_short
