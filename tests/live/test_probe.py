"""
The profile `auto` in front of a real vLLM: it sees how the server was started, and what it then sends is accepted.

Requests are translated here and sent straight to vLLM, one token each: what is asked is only whether it accepts them.
Those whose bytes are the ones that the mode's own profile sends are left to test_shapes.py and test_agents.py.
"""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from proxy.translate.capabilities import AutoProfiles, Findings, Reply, overrides_of
from proxy.translate.failure import translate_failure
from proxy.translate.lessons import learned_from
from proxy.translate.profile import Profile, build_profile
from proxy.translate.request import translate_request
from proxy.upstream.probe import probe
from tests.live.bench import MODES, Bench
from tests.live.traffic import Exchange, send_all
from tests.shapes import CHAT, legitimate_chats, load_agents

pytestmark = pytest.mark.live
BENCH_MODES = tuple(MODES)

MISTRAL = ("vllm-mistral-tokenizer", {"bridge": "never", "tool_strict": "keep"})
TEMPLATE = (
    "vllm-hf-template",
    {
        "bridge": "never",
        "merge_same_role": False,
        "lead_system": "keep",
        "mid_system": "keep",
        "first_message": "user_or_system",
    },
)


@pytest.fixture(scope="session")
def findings(bench: Bench) -> Findings:
    return asyncio.run(probed(bench.vllm))


async def probed(url: str) -> Findings:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:

        async def ask(method: str, path: str, body: bytes | None) -> Reply:
            headers = {"Content-Type": "application/json"}
            async with session.request(method, url + path, data=body, headers=headers) as response:
                return response.status, await response.read()

        return await probe(ask)


def test_auto_sees_how_the_server_was_started(bench: Bench, findings: Findings) -> None:
    expected = TEMPLATE if MODES[bench.mode].tokenizer_mode == "hf" else MISTRAL

    assert (findings.vllm_version, findings.model, findings.is_complete) == ("0.32.0", "devstral", True)
    assert findings.mode == MODES[bench.mode].tokenizer_mode
    assert overrides_of(findings) == expected


def test_auto_is_accepted_wherever_the_profile_of_the_mode_is(bench: Bench, findings: Findings) -> None:
    own, auto = build_profile(MODES[bench.mode].profile), AutoProfiles().profile_for(findings)
    bodies = {shape.name: shape.body(bench.context) for shape in legitimate_chats(bench.mode)}
    bodies |= {agent["name"]: json.dumps(agent["body"]).encode() for agent in load_agents()}
    differing = {name: body for name, body in bodies.items() if wire(body, own) != wire(body, auto)}
    assert len(differing) > 20, "the two profiles are meant to differ"

    answers = send_all(bench.vllm, [Exchange(name, "POST", CHAT, wire(b, auto)) for name, b in differing.items()])

    assert {name: answer.body[:600] for name, answer in answers.items() if answer.status != 200} == {}


def test_a_schema_that_the_grammar_lacks_teaches_to_leave_strict_out(bench: Bench, findings: Findings) -> None:
    """With `strict` a keyword that llguidance does not know is a 400; without it the tool is taken as it is."""
    schema = {"type": "object", "properties": {"city": {"not": {"type": "number"}}}}
    function = {"name": "get_weather", "parameters": schema, "strict": True}
    messages = [{"role": "user", "content": "Hi"}]
    request = {"model": "devstral", "messages": messages, "tools": [{"type": "function", "function": function}]}
    profiles = AutoProfiles()
    profile = profiles.profile_for(findings)

    first = sent(bench, request, profile)
    learned = None
    if first.status != 200:
        error = translate_failure(first.status, first.body)
        learned = learned_from(error.status, error.message, profile.options)
        assert sent(bench, request, profiles.profile_for(findings, learned)).status == 200

    mode = MODES[bench.mode]
    has_grammar = mode.tools and mode.tokenizer_mode == "mistral"
    assert learned == ({"tool_strict": "strip"} if has_grammar else None)


def test_the_words_of_a_refusal_are_known(bench: Bench) -> None:
    """Sent as no profile sends it: a system message after an assistant."""
    roles = [("user", "Hi"), ("assistant", "Hello."), ("system", "Be brief."), ("user", "Hi")]
    request = {"model": "devstral", "messages": [{"role": role, "content": text} for role, text in roles]}
    answer = send_all(bench.vllm, [Exchange("it", "POST", CHAT, json.dumps(request).encode())])["it"]
    error = translate_failure(answer.status, answer.body)

    options = build_profile("vllm-mistral-tokenizer").options
    assert learned_from(error.status, error.message, options) == {"mid_system": "user"}


def sent(bench: Bench, request: dict[str, Any], profile: Profile) -> Any:
    body = wire(json.dumps(request).encode(), profile)
    return send_all(bench.vllm, [Exchange("it", "POST", CHAT, body)])["it"]


def wire(body: bytes, profile: Profile) -> bytes:
    """Return what goes upstream, as one that asks for a single token and no stream."""
    request = json.loads(translate_request(body, profile).body)
    for name in ("stream", "stream_options", "max_completion_tokens", "min_tokens"):
        request.pop(name, None)
    return json.dumps(request | {"max_tokens": 1}).encode()
