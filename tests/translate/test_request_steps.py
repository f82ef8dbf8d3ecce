"""A translation that is watched ends where any other does, and leaves no change out."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.translate.chat import JsonPath
from proxy.translate.profile import CHAT_RULES, MESSAGE_RULES, Choice, build_profile
from proxy.translate.reading import reason_of
from proxy.translate.request import translate_request, translate_step_by_step
from proxy.translate.steps import TRANSPORT, Step
from tests.strategies import body_of, chat_requests
from tests.translate.test_request_golden import NAMES, PROFILES, sent

VARIANTS = {
    **{name: build_profile(name) for name in PROFILES},
    "orphans get calls": build_profile("vllm-mistral-tokenizer", {"orphan_results": "synthesize_call"}),
    "orphans dropped": build_profile("vllm-hf-template", {"orphan_results": "drop", "mid_system": "hoist"}),
    "v3": build_profile("vllm-mistral-tokenizer", {"legacy_v3": True, "id_mode": "keep", "downgrade_required": True}),
    "never streamed": build_profile("vllm-mistral-tokenizer", {"upstream_stream": "never"}),
    "passthrough": build_profile("passthrough"),
}

variants = st.sampled_from(sorted(VARIANTS)).map(VARIANTS.__getitem__)
many = settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def watched(body, profile, **kwargs):
    steps: list[Step] = []
    return translate_step_by_step(body, profile, steps.append, **kwargs), steps


def replay(body: bytes, steps: list[Step]) -> Any:
    """Do to the client's body what the steps say, each on what the one before has left; the order of keys is free."""
    state = json.loads(body)
    for step in steps:
        assert place(state, step.at) == json.loads(step.before), step.rule
        state = replaced(state, step.at, json.loads(step.after))
    return state


def place(state: Any, at: JsonPath) -> Any:
    for key in at:
        state = state[key]
    return state


def replaced(state: Any, at: JsonPath, value: Any) -> Any:
    if at:
        place(state, at[:-1])[at[-1]] = value
        return state
    return value


def all_rules():
    for entry in (*MESSAGE_RULES, *CHAT_RULES):
        yield from entry.rules.values() if isinstance(entry, Choice) else [entry]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", NAMES)
def test_watching_a_case_changes_nothing_and_leaves_nothing_out(name, profile):
    result, steps = watched(sent(name), VARIANTS[profile])

    assert result == translate_request(sent(name), VARIANTS[profile])
    assert replay(sent(name), steps) == json.loads(result.body)
    assert tuple(dict.fromkeys(step.rule for step in steps if step.rule != TRANSPORT)) == result.rules_applied


@many
@given(profile=variants, request=chat_requests())
def test_watching_any_history_changes_nothing_and_leaves_nothing_out(profile, request):
    body = body_of(request)
    result, steps = watched(body, profile)

    assert result == translate_request(body, profile)
    assert replay(body, steps) == json.loads(result.body)
    assert set(result.rules_applied) == {step.rule for step in steps} - {TRANSPORT}


@many
@given(profile=variants, request=chat_requests())
def test_every_step_shows_a_change(profile, request):
    _, steps = watched(body_of(request), profile)

    assert [step for step in steps if json.loads(step.before) == json.loads(step.after)] == []


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("q11", "q09", "q08"))])
def test_a_rule_that_writes_to_a_turn_shows_its_own_change(name):
    _, steps = watched(sent(name), VARIANTS["vllm-mistral-tokenizer"])

    assert all(step.before != step.after for step in steps)


def test_strict_mode_refuses_with_the_change_it_refuses_in_hand():
    body = body_of({"messages": [{"role": "user", "content": "Hi"}, {"role": "developer", "content": "x"}]})
    steps: list[Step] = []

    with pytest.raises(InvalidRequest) as refused:
        translate_step_by_step(body, VARIANTS["vllm-mistral-tokenizer"], steps.append, strict=True)

    assert refused.value.param == "messages[1].role"
    assert [(step.rule, step.path) for step in steps] == [("developer_to_system", "messages[1].role")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"messages": []}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "bard", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": "x"}], "x": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'{"messages": [{"role": "user", "role": "user", "content": "x"}]}',
    ],
)
def test_a_refusal_is_the_one_that_is_served(body):
    errors = []
    for translate in (translate_request, lambda *args: translate_step_by_step(*args, lambda step: None)):
        with pytest.raises(InvalidRequest) as refused:
            translate(body, VARIANTS["vllm-mistral-tokenizer"])
        errors.append((refused.value.message, refused.value.param, refused.value.code))

    assert errors[0] == errors[1]


@pytest.mark.parametrize("rule", list(all_rules()), ids=lambda rule: rule.__name__)
def test_every_rule_has_a_reason_to_show(rule):
    assert reason_of(rule).endswith(".")
    assert len(reason_of(rule)) > len(rule.__name__)


def test_a_refusal_in_strict_mode_says_why_also_where_the_rules_docstring_has_several_lines():
    body = body_of({"messages": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]})

    with pytest.raises(InvalidRequest) as refused:
        translate_request(body, VARIANTS["vllm-mistral-tokenizer"], strict=True)

    assert refused.value.message.startswith("Refused in strict mode by known_part_names: Parts are `text`")
