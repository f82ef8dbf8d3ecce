"""What holds for every request: nothing said is lost, the same in gives the same out, and nothing is left to repair."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.translate.profile import Profile, build_profile
from proxy.translate.request import translate_request
from tests.strategies import body_of, chat_requests

PROFILES = {
    "vllm-mistral-tokenizer": build_profile("vllm-mistral-tokenizer"),
    "vllm-mistral-tokenizer, v3": build_profile("vllm-mistral-tokenizer", {"legacy_v3": True}),
    "vllm-hf-template": build_profile("vllm-hf-template"),
    "mistral-api": build_profile("mistral-api"),
}

profiles = st.sampled_from(sorted(PROFILES)).map(PROFILES.__getitem__)
# derandomize: a run of the suite draws what the last one drew. No deadline: a machine's load is no failure.
many = settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def wire(request: dict[str, Any], profile: Profile) -> dict[str, Any]:
    return json.loads(translate_request(body_of(request), profile).body)


def on_each_text(messages: list[Any], change: Callable[[str], str]) -> None:
    """Replace every text that a message says, in the order in which it is said. Blank texts say nothing."""
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            message["content"] = changed(content, change)
        elif isinstance(content, list):
            message["content"] = [changed_part(part, change) for part in content]
        if isinstance(message.get("refusal"), str):
            message["refusal"] = changed(message["refusal"], change)


def changed_part(part: Any, change: Callable[[str], str]) -> Any:
    if isinstance(part, str):
        return changed(part, change)
    key = "refusal" if part["type"] == "refusal" else "text"
    return part | {key: changed(part[key], change)}


def changed(text: str, change: Callable[[str], str]) -> str:
    return change(text) if text.strip() else text


def marked(request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the request with a number behind every text, and who said each of these texts."""
    request = json.loads(json.dumps(request))
    said: dict[str, str] = {}
    for message in request["messages"]:

        def number(text: str, role: str = message["role"]) -> str:
            numbered = f"{text}⟦{len(said)}⟧"
            said[numbered] = role
            return numbered

        on_each_text([message], number)
    return request, said


def wire_text(request: dict[str, Any]) -> str:
    """Everything that the wire request says, in order."""
    texts: list[str] = []
    on_each_text(request["messages"], lambda text: texts.append(text) or text)
    return "\n".join(texts)


@many
@given(profile=profiles, request=chat_requests())
def test_every_text_is_on_the_wire_once(profile: Profile, request: dict[str, Any]) -> None:
    request, said = marked(request)

    text = wire_text(wire(request, profile))

    assert {numbered: text.count(numbered) for numbered in said} == dict.fromkeys(said, 1)


@many
@given(profile=profiles, request=chat_requests())
def test_user_and_assistant_keep_their_order(profile: Profile, request: dict[str, Any]) -> None:
    """Results may move to their calls; what people and the model said stays in order."""
    request, said = marked(request)

    text = wire_text(wire(request, profile))

    places = [text.find(numbered) for numbered, role in said.items() if role in ("user", "assistant")]
    assert places == sorted(places)


@many
@given(profile=profiles, request=chat_requests())
def test_every_call_is_on_the_wire_with_one_result_behind_it(profile: Profile, request: dict[str, Any]) -> None:
    asked = [call for message in request["messages"] for call in calls_of(message)]

    messages = wire(request, profile)["messages"]

    answered = []
    for i, message in enumerate(messages):
        ids = [call["id"] for call in message.get("tool_calls", ())]
        answers = messages[i + 1 : i + 1 + len(ids)]
        assert [answer.get("tool_call_id") for answer in answers] == ids
        answered += ids
    assert len(answered) == len(asked)
    assert len(answered) == sum(message["role"] == "tool" for message in messages)


def calls_of(message: dict[str, Any]) -> list[Any]:
    """The calls of a client's message; the legacy key counts where there is no newer one."""
    return message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])


@many
@given(profile=profiles, request=chat_requests())
def test_no_rule_finds_anything_to_do_on_the_rules_output(profile: Profile, request: dict[str, Any]) -> None:
    once = translate_request(body_of(request), profile)

    twice = translate_request(once.body, profile)

    assert twice.rules_applied == ()
    assert twice.body == once.body


@many
@given(profile=profiles, request=chat_requests())
def test_the_same_request_gives_the_same_bytes(profile: Profile, request: dict[str, Any]) -> None:
    """Prompt caches live on it, and so do two workers that serve one conversation."""
    assert translate_request(body_of(request), profile) == translate_request(body_of(request), profile)


@many
@given(profile=profiles, request=chat_requests())
def test_a_request_changes_exactly_when_a_rule_says_so(profile: Profile, request: dict[str, Any]) -> None:
    """Usage is asked for on our own behalf, whatever the client asked: that is no rule and no repair."""
    translated = translate_request(body_of(request), profile)

    before, after = (without_usage(members) for members in (request, json.loads(translated.body)))
    assert (before != after) == bool(translated.rules_applied)


def without_usage(request: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name != "stream_options"}


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
_anything = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged_requests(draw: st.DrawFn) -> Any:
    """A request in which one value, anywhere, is something else."""
    request = draw(chat_requests())
    holder: Any = {"": request}
    key: Any = ""
    while isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 4)):
        holder = holder[key]
        key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
    holder[key] = draw(_anything)
    return request


@many
@given(profile=profiles, request=damaged_requests() | _anything)
def test_a_damaged_request_is_translated_or_refused(profile: Profile, request: Any) -> None:
    with contextlib.suppress(InvalidRequest):
        translate_request(body_of(request), profile)


@many
@given(profile=profiles, body=st.binary(max_size=40))
def test_bytes_that_are_no_request_are_refused(profile: Profile, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        translate_request(body, profile)
