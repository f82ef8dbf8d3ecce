"""Every shortcut gives what the plain way gives: the same bytes, the same rules, the same errors."""

import json
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.translate import plan, request
from proxy.translate.profile import PROFILE_NAMES, Profile, build_profile
from proxy.translate.request import translate_request
from tests.shapes import load_agents, load_shapes
from tests.strategies import body_of, chat_requests
from tests.translate.test_request_golden import NAMES, sent
from tests.translate.test_request_properties import _anything, damaged_requests

NAMED = [build_profile(name) for name in PROFILE_NAMES]
PROFILES = [
    *NAMED,
    build_profile("vllm-mistral-tokenizer", {"id_mode": "keep", "bridge": "never", "legacy_v3": True}),
    build_profile("vllm-mistral-tokenizer", {"downgrade_required": True, "default_temperature": 1.9}),
    build_profile("vllm-mistral-tokenizer", {"orphan_results": "synthesize_call", "reasoning_history": "keep"}),
]
SHAPES = [shape for shape in load_shapes() if shape.is_chat]
AGENTS = load_agents()
BROKEN = (b"\xff", b"\xc3", b"", b'"', b"}", b'"role":0,', b'"content":"",')

every_profile = pytest.mark.parametrize("profile", NAMED, ids=lambda profile: profile.name)
many = settings(max_examples=400, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def outcome(body: bytes, profile: Profile, user_agent: str = "") -> Any:
    try:
        translated = translate_request(body, profile, user_agent=user_agent)
    except InvalidRequest as exc:
        return exc.message, exc.param
    return translated, list(translated.expectation.tool_names)


def plain_outcome(body: bytes, profile: Profile, user_agent: str = "") -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request, "MOST_MESSAGES", 0)
        return outcome(body, profile, user_agent)


def require_the_same(body: bytes, profile: Profile) -> None:
    """With what earlier tests left in memory, from memory, in a fresh process, and the plain way."""
    expected = plain_outcome(body, profile)

    assert outcome(body, profile) == expected
    assert outcome(body, profile) == expected
    plan._plans.clear()
    assert outcome(body, profile) == expected


@many
@given(profile=st.sampled_from(PROFILES), body=(chat_requests() | damaged_requests() | _anything).map(body_of))
def test_any_request_gives_the_same(profile, body):
    require_the_same(body, profile)


@many
@given(profile=st.sampled_from(PROFILES), body=chat_requests().map(body_of), data=st.data())
def test_broken_bytes_give_the_same(profile, body, data):
    at = data.draw(st.integers(0, len(body) - 1))
    require_the_same(body[:at] + data.draw(st.sampled_from(BROKEN)) + body[at:], profile)


@every_profile
@pytest.mark.parametrize("name", NAMES)
def test_every_case_gives_the_same(name, profile):
    require_the_same(sent(name), profile)


@every_profile
def test_every_recorded_shape_gives_the_same(profile):
    for shape in SHAPES:
        require_the_same(shape.body(), profile)


@every_profile
@pytest.mark.parametrize("agent", AGENTS, ids=[f"{agent['name']} {agent['scenario']}" for agent in AGENTS])
def test_a_conversation_that_grows_gives_the_same_at_every_turn(agent, profile):
    body = agent["body"]
    for length in range(1, len(body["messages"]) + 1):
        turn = json.dumps({**body, "messages": body["messages"][:length]}).encode()
        assert outcome(turn, profile) == plain_outcome(turn, profile)


@many
@given(profile=st.sampled_from(PROFILES), whole=chat_requests())
def test_any_conversation_that_grows_gives_the_same_at_every_turn(profile, whole):
    for length in range(1, len(whole["messages"]) + 1):
        turn = body_of({**whole, "messages": whole["messages"][:length]})
        assert outcome(turn, profile) == plain_outcome(turn, profile)


@pytest.mark.parametrize("user_agent", ["", "ai-sdk/mistral/3.0.58", "openai-python"])
def test_a_client_s_name_counts_though_its_body_is_remembered(user_agent):
    body = sent(NAMES[0])
    outcome(body, NAMED[0], "ai-sdk/mistral/3.0.58" if not user_agent else "")

    assert outcome(body, NAMED[0], user_agent) == plain_outcome(body, NAMED[0], user_agent)


def test_a_remembered_request_is_refused_in_strict_mode():
    body = b'{"messages":[{"role":"developer","content":"a"},{"role":"user","content":"b"}]}'
    outcome(body, NAMED[0])

    with pytest.raises(InvalidRequest, match="strict mode by developer_to_system"):
        translate_request(body, NAMED[0], strict=True)


#: Members between the braces of a message, and what is refused: "" where nothing is.
KEYS = [
    (b'"role":"user","content":"a"', ""),
    (b'"role":"user","content":"a","role":"user"', "role"),
    (b'"role":"tool","role":"user","content":"a"', "role"),
    (b'"role":"user","content":"a","content":"b"', "content"),
    (b'"role":"user","content":0,"content":"b"', "content"),
    (b'"role":"user","content":"b","content":null', "content"),
    (b'"role": "user", "content": "a", "content": "b"', "content"),
    (b'"content":"","role":"user","content":""', "content"),
    (b'"role":"system","content":"","content":""', "content"),
    (b'"role":"tool","tool_call_id":"abcDEF123","content":"a","content":""', "content"),
    (b'"role":"tool","tool_call_id":"abcDEF123","name":"f","content":0,"content":""', "content"),
    (b'"role":"tool","name":"f","content":"","role":"tool"', "role"),
    (b'"role":"assistant","content":"","content":"a"', "content"),
    (b'"role":"user","content":"say \\"role\\" and \\"content\\" twice: \\"role\\" \\"content\\""', ""),
    (b'"\\u0072ole":"user","content":"a"', ""),
    (b'"role":"user","\\u0063ontent":"a"', ""),
    (b'"\\u0072ole":"system","role":"user","content":"a"', ""),
    (b'"role":"user","content":"a","\\u0063ontent":"b"', ""),
    (b'"role":"user","content":"a","content":"b","\\u0063ontent":"c"', "content"),
]


@every_profile
@pytest.mark.parametrize(("members", "refused"), KEYS)
def test_a_key_that_a_message_gives_twice_is_refused_either_way(members, refused, profile):
    body = b'{"messages":[{"role":"user","content":"Hi"},{%b}]}' % members

    for result in (plain_outcome(body, profile), outcome(body, profile), outcome(body, profile)):
        if refused:
            assert result == (f"The key `{refused}` is given twice in one object.", "messages[1]")
        else:
            assert result == plain_outcome(body, profile)
            assert not isinstance(result[0], str)


FOREIGN = {"type": "web_search"}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@every_profile
@pytest.mark.parametrize("tools", [[FOREIGN], [FOREIGN, FOREIGN], [FUNCTION], [FUNCTION, FOREIGN], [], None])
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_tools_that_all_go_still_count_until_their_rule(role, tools, profile):
    require_the_same(body_of({"messages": [{"role": role, "content": "a"}], "tools": tools}), profile)


@pytest.mark.parametrize("bad", [5, [5], [{"type": "function"}], [{"type": "function", "function": {}}]])
@pytest.mark.parametrize("first", [{}, {"continue_final_message": 0}, {"stream": "x"}])
def test_tools_that_make_no_sense_are_refused_in_their_turn(bad, first):
    for profile in NAMED:
        require_the_same(body_of({"messages": [{"role": "assistant", "content": "a"}], "tools": bad, **first}), profile)


def test_tools_too_deep_for_a_rule_are_refused_behind_what_comes_before(monkeypatch):
    def too_deep(_):
        raise RecursionError

    monkeypatch.setattr("proxy.translate.tools._draft7_text", too_deep)
    odd = {**FUNCTION, "more": 1}
    body = body_of({"messages": [{"role": "assistant", "content": "a"}], "tools": [odd]})
    out_of_range = body[:-1] + b',"continue_final_message":1e999}'

    for sent_body in (body, out_of_range, body.replace(b'"a"', b'"\xff"')):
        require_the_same(sent_body, NAMED[0])


def test_bytes_that_are_not_utf8_are_the_first_of_all_errors(monkeypatch):
    def too_deep(*_):
        raise RecursionError

    monkeypatch.setattr("proxy.translate.reading.read_json", too_deep)
    body = b'{"messages":[{"role":"user","content":[]},{"role":"user","content":"%b"}]}'

    for text in (b"a", b"\xff"):
        require_the_same(body % text, NAMED[0])


@every_profile
def test_nothing_remembered_keeps_a_body_alive(profile):
    request_ = {"messages": [{"role": "user", "content": "a" * 999}], "tools": [FUNCTION, {**FUNCTION, "more": 1}]}
    body = bytes(bytearray(body_of(request_)))
    plan._plans.clear()
    before = sys.getrefcount(body)
    outcome(body, profile)

    assert sys.getrefcount(body) == before


def test_what_is_remembered_stays_within_its_bound():
    plan._plans.clear()
    for number in range(60):
        text = f"{number} " + "é" * 40_000
        definition = {**FUNCTION, "function": {**FUNCTION["function"], "description": text}}
        outcome(body_of({"messages": [{"role": "user", "content": text}], "tools": [definition]}), NAMED[0])

    remembered = plan.plan_for(NAMED[0])
    held = remembered._messages.held_bytes + remembered._offers.held_bytes
    assert 4 << 20 < held <= 12 << 20
