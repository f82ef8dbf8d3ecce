"""
What leaves the proxy is accepted by mistral-common, old and new, for every tokenizer, and by the chat templates.

The judges prove form, not meaning: they would accept a conversation that lost half of its turns.
tests/translate/test_request_properties.py holds the translation to keeping what was said.
"""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from proxy.errors import InvalidRequest
from proxy.translate.profile import Profile, build_profile
from proxy.translate.request import translate_request
from tests.oracle.judges import Judge
from tests.shapes import Shape, expected, legitimate_chats, load_agents, load_shapes
from tests.strategies import body_of, chat_requests

pytestmark = pytest.mark.oracle

#: The profile an operator chooses for a model with this tokenizer, and the form that judges it.
PLANS: tuple[tuple[Profile, str, tuple[str, ...]], ...] = (
    (build_profile("vllm-mistral-tokenizer", {"legacy_v3": True}), "tokenizers", ("v3",)),
    (build_profile("vllm-mistral-tokenizer"), "tokenizers", ("v7", "v11", "v13")),
    (build_profile("vllm-mistral-tokenizer", {"reasoning_effort": "binary"}), "tokenizers", ("v15",)),
    (build_profile("vllm-hf-template", {"legacy_v3": True}), "templates", ("v3",)),
    (build_profile("vllm-hf-template"), "templates", ("v7", "v11", "v13")),
    (build_profile("vllm-hf-template", {"reasoning_effort": "binary"}), "templates", ("v15",)),
)
AGENTS = load_agents()
REFUSED_BY_PROXY = [s for s in load_shapes() if s.is_chat and expected(s, "").by == "proxy"]


def rejections(judges: list[Judge], body: bytes) -> dict[str, Any]:
    """Translate for every plan and ask every judge that knows it; return what was rejected, by library and plan."""
    found: dict[str, Any] = {}
    wires = [json.loads(translate_request(body, profile).body) for profile, _, _ in PLANS]
    for judge in judges:
        known = {"tokenizers": judge.tokenizers, "templates": judge.templates}
        questions = [
            {"name": f"{judge.library} plan {i}", "request": wire, form: [v for v in versions if v in known[form]]}
            for i, (wire, (_, form, versions)) in enumerate(zip(wires, PLANS, strict=True))
        ]
        found |= judge.rejections(questions)
    return found


@pytest.mark.parametrize("shape", legitimate_chats("mistral-v13"), ids=lambda shape: shape.name)
def test_a_shape_that_may_be_sent_is_accepted_everywhere(judges: list[Judge], shape: Shape) -> None:
    assert rejections(judges, shape.body()) == {}


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent["name"])
def test_what_an_agent_sent_is_accepted_everywhere(judges: list[Judge], agent: dict[str, Any]) -> None:
    assert rejections(judges, json.dumps(agent["body"]).encode()) == {}


# derandomize: a run of the suite has the same histories as the last one.
# too_slow, no deadline: the time is the judges', and a machine's load is no failure.
@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request=chat_requests())
def test_no_random_history_is_rejected(judges: list[Judge], request: dict[str, Any]) -> None:
    assert rejections(judges, body_of(request)) == {}


@pytest.mark.parametrize(
    "shape", [s for s in REFUSED_BY_PROXY if expected(s, "").status == 400], ids=lambda shape: shape.name
)
@pytest.mark.parametrize("profile", ["vllm-mistral-tokenizer", "vllm-hf-template"])
def test_a_shape_that_the_proxy_must_refuse_is_refused(shape: Shape, profile: str) -> None:
    with pytest.raises(InvalidRequest):
        translate_request(shape.body(), build_profile(profile))


def test_untranslated_the_same_requests_are_rejected(judges: list[Judge]) -> None:
    """The judges can say no: if they could not, the tests above would prove nothing."""
    strict, lenient = (
        judge.rejections({"name": a["name"], "request": a["body"], "tokenizers": ["v11"]} for a in AGENTS)
        for judge in judges
    )

    assert len(strict) > len(lenient) > 0
