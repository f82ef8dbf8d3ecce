"""
The profile `auto` behind old and new libraries: asked as a vLLM would be, the judges decide what is spared, and then
accept every shape and every agent's body that the profile for them sends.
"""

import json
from typing import Any

import pytest

from proxy.translate.capabilities import AutoProfiles, Reply
from proxy.translate.profile import Profile
from proxy.translate.request import translate_request
from proxy.upstream.probe import probe
from tests.oracle.judges import LIBRARIES, Judge
from tests.shapes import legitimate_chats, load_agents

pytestmark = pytest.mark.oracle

#: What is sent: every shape that may be sent, and what real clients sent.
BODIES = {f"shape {shape.name}": shape.body() for shape in legitimate_chats("mistral-v13")}
BODIES |= {f"agent {agent['name']}": json.dumps(agent["body"]).encode() for agent in load_agents()}
#: vLLM's own word on a last assistant message (vllm/tokenizers/mistral.py); a chat template starts a new turn instead.
NO_NEW_TURN = (
    "Cannot set `add_generation_prompt` to True when the last message is from the assistant. Consider using"
    " `continue_final_message` instead."
)
FORMS = [("tokenizers", version) for version in ("v3", "v7", "v11", "v13", "v15")]
FORMS += [("templates", version) for version in ("v3", "v7", "v11", "v13", "v15")]


def tokenizer_of(judge: Judge, form: str, version: str) -> Any:
    """Return what asks the judge as /tokenize of a vLLM with this tokenizer or template would be asked."""

    async def ask(_: str, path: str, body: bytes | None) -> Reply:
        if path != "/tokenize" or body is None:
            return 404, b'{"detail":"Not Found"}'
        request = json.loads(body)
        if request["messages"][-1]["role"] == "assistant":
            return _accepted(body) if form == "templates" else _refused(NO_NEW_TURN)
        refused = judge.rejections([{"name": "probe", "request": request, form: [version]}])
        if not refused:
            return _accepted(body)
        return _refused(next(iter(refused["probe"].values())).partition(": ")[2])

    return ask


def _accepted(body: bytes) -> Reply:
    return 200, json.dumps({"count": len(body)}).encode()


def _refused(text: str) -> Reply:
    return 400, json.dumps({"error": {"message": text, "code": 400}}).encode()


def rejected(judge: Judge, form: str, version: str, profile: Profile) -> dict[str, Any]:
    wires = {name: json.loads(translate_request(body, profile).body) for name, body in BODIES.items()}
    return judge.rejections({"name": name, "request": wire, form: [version]} for name, wire in wires.items())


@pytest.mark.parametrize(("form", "version"), FORMS, ids=[" ".join(form) for form in FORMS])
@pytest.mark.parametrize("library", LIBRARIES)
async def test_auto_finds_what_a_library_needs(judges: list[Judge], library: str, form: str, version: str) -> None:
    judge = next(judge for judge in judges if judge.library == library)
    if version not in getattr(judge, form):
        assert library != LIBRARIES[-1], "the newest library knows every form"
        return
    findings = await probe(tokenizer_of(judge, form, version))
    profile = AutoProfiles().profile_for(findings)

    assert findings.mode == ("hf" if form == "templates" else "mistral")
    assert profile.options.legacy_v3 is (version == "v3")
    assert profile.options.bridge == ("never" if (library, form) == ("1.13.1", "tokenizers") else "always")
    assert rejected(judge, form, version, profile) == {}
