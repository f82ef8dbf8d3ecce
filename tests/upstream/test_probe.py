"""
What a probe finds out over a real connection, from servers that are old, strict, closed, busy, odd or gone.

The answers of `FakeVllm` are those of a live vLLM 0.32 (tests/cases/probes.json), or the texts of older libraries.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.config import Backend, Config
from proxy.translate.capabilities import PROBES, AutoProfiles, Findings, overrides_of
from proxy.translate.profile import UNPROBED
from proxy.upstream.client import Connections, place_of
from proxy.upstream.probe import probe
from proxy.upstream.sweep import Sweep
from tests.fakes import Do, Script, ScriptedUpstream, until, whole

RECORDED = json.loads((Path(__file__).parents[1] / "cases" / "probes.json").read_text(encoding="utf-8"))
NAMES = {probe.body(model): probe.name for probe in PROBES for model in ("devstral", None)}
VERSION = {"version": "0.32.0"}
MODELS = {"object": "list", "data": [{"id": "devstral", "object": "model"}, {"id": "an-adapter", "object": "model"}]}
NOT_FOUND = whole({"detail": "Not Found"}, 404)
PAGE = whole(b"<html><head><title>502 Bad Gateway</title></head></html>", 502, content_type="text/html")


class FakeVllm(ScriptedUpstream):
    """Answers by path; `answers` has a token count, the text of a 400, or a script for each probe."""

    def __init__(self, answers, version=VERSION, models=MODELS) -> None:
        super().__init__([NOT_FOUND])
        self.answers, self.version, self.models = answers, version, models

    def next_script(self) -> Script:
        request = self.requests[-1]
        match request.method, request.target:
            case "GET", "/version":
                return script_of(self.version)
            case "GET", "/v1/models":
                return script_of(self.models)
            case "POST", "/tokenize":
                return script_of(self.answers[NAMES[request.body]])
        return [NOT_FOUND]

    @property
    def questions(self) -> list[str]:
        return [NAMES.get(request.body, request.target) for request in self.requests]


def script_of(answer) -> Script:
    if isinstance(answer, int):
        return [whole({"count": answer, "max_model_len": 32768, "tokens": [1] * answer})]
    if isinstance(answer, str):
        return [whole({"error": {"message": answer, "type": "BadRequestError", "param": None, "code": 400}}, 400)]
    return [whole(answer)] if isinstance(answer, dict) else answer


async def probed(upstream: ScriptedUpstream, **settings) -> Findings:
    async with connected(upstream.url, **settings) as connections:
        return await probe(connections.question)


@contextlib.asynccontextmanager
async def connected(url: str, **settings) -> AsyncIterator[Connections]:
    backend = Backend(url=url, name="one")
    connections = Connections(backend, place_of(backend), "one", Config(vllm_base=url, **settings), Sweep())
    await connections.open()
    try:
        yield connections
    finally:
        await connections.close()


# --- a vLLM


@pytest.mark.parametrize("mode", RECORDED)
async def test_a_vllm_is_asked_everything_once_and_generates_nothing(mode):
    async with FakeVllm(RECORDED[mode]) as upstream:
        findings = await probed(upstream)

        assert upstream.questions == ["/version", "/v1/models", *(probe.name for probe in PROBES)]
    assert (findings.vllm_version, findings.model, findings.mode) == ("0.32.0", "devstral", mode.partition("-")[0])
    assert findings.is_complete
    assert None not in findings.tolerated.values()


async def test_every_question_names_the_model_that_the_server_lists_first():
    async with FakeVllm(RECORDED["mistral-v13"]) as upstream:
        await probed(upstream)

        assert {request.json["model"] for request in upstream.requests if request.body} == {"devstral"}


async def test_an_old_library_behind_a_vllm_that_swallows_streamed_calls():
    """vLLM 0.11.2 with mistral-common 1.8: the texts of A.1."""
    old = RECORDED["mistral-v13"] | {
        "user_after_tool": "Unexpected role 'user' after role 'tool'",
        "short_id": "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
        "strict_tool": "1 validation error for Tool\nfunction.strict\n  Extra inputs are not permitted",
        "extra_tool_key": "1 validation error for Tool\ncache_control\n  Extra inputs are not permitted",
    }
    async with FakeVllm(old, version={"version": "0.11.2"}) as upstream:
        findings = await probed(upstream)

    assert overrides_of(findings) == (UNPROBED, {"bridge": "always", "upstream_stream": "never_with_tools"})


async def test_a_server_whose_tokenize_knows_no_tools_spares_nothing_about_them():
    """Before 0.9 the body had no `tools`: they were ignored, and every probe with one was a 200."""
    plain = RECORDED["mistral-v13"]["plain"]
    old = RECORDED["mistral-v13"] | dict.fromkeys(["tools", "strict_tool", "extra_tool_key"], plain)
    async with FakeVllm(old, version={"version": "0.8.5"}) as upstream:
        findings = await probed(upstream)

        assert not {"strict_tool", "extra_tool_key"} & set(upstream.questions), "they would mean nothing"
    assert (findings.tolerated["tools"], findings.tolerated["strict_tool"]) == (False, None)
    assert AutoProfiles().profile_for(findings).options.tool_strict == "strip"


# --- not quite a vLLM


@pytest.mark.parametrize(
    "answer",
    [
        [NOT_FOUND],
        [whole({"error": "Unauthorized"}, 401)],
        [whole(b'{"tokens":[]}')],
        [whole(b"<html>welcome</html>", content_type="text/html")],
        [whole(b"", 307, location="/tokenize/")],
        [whole({"object": "error", "message": "only for tests"}, 400)],
    ],
    ids=["no route", "no key", "llama.cpp", "a page", "a redirect", "refuses everything"],
)
async def test_a_server_without_this_tokenize_gets_the_safe_default_after_three_questions(answer):
    async with FakeVllm(dict.fromkeys(NAMES.values(), answer)) as upstream:
        findings = await probed(upstream)

        assert upstream.questions == ["/version", "/v1/models", "plain"]
    assert overrides_of(findings) == (UNPROBED, {})
    assert findings.is_complete, "it would say the same another time"


@pytest.mark.parametrize(
    "nonsense",
    [
        [NOT_FOUND],
        [PAGE],
        {"version": 32, "data": {}},
        {},
        [whole(b"[1]")],
        [whole(b'{"version":"\xff","data":[{"id":"\xff"}]}')],
        [whole(b"")],
        [whole({"version": "0.9.0", "data": [{"id": "other"}]}, 404)],
    ],
    ids=[
        "no route",
        "a page",
        "other types",
        "an empty object",
        "a list",
        "not UTF-8",
        "nothing",
        "an error with both",
    ],
)
async def test_the_probes_do_without_version_and_model(nonsense):
    async with FakeVllm(RECORDED["mistral-v13"], version=nonsense, models=nonsense) as upstream:
        findings = await probed(upstream)

    assert (findings.vllm_version, findings.model, findings.mode) == (None, None, "mistral")
    assert overrides_of(findings) == (UNPROBED, {"bridge": "never", "tool_strict": "keep"})


# --- another time


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_that_is_busy_is_to_be_asked_again(status):
    busy = RECORDED["mistral-v13"] | {"user_after_tool": [whole(b"busy", status, retry_after="1")]}
    async with FakeVllm(busy) as upstream:
        findings = await probed(upstream)

    assert findings.tolerated["user_after_tool"] is None
    assert findings.tolerated["strict_tool"] is True, "the others go on"
    assert not findings.is_complete


@pytest.mark.parametrize(
    "end", [[Do.CLOSE], [Do.RESET], [b"HTTP/1.1 200"], [b"nonsense\r\n\r\n"]], ids=["FIN", "RST", "cut", "no HTTP"]
)
async def test_a_server_that_goes_away_leaves_what_is_known_so_far(end):
    gone = RECORDED["mistral-v13"] | {"user_twice": [*end, Do.CLOSE]}
    async with FakeVllm(gone) as upstream:
        findings = await probed(upstream)

        assert upstream.questions[-1] == "user_twice"
    assert findings.vllm_version == "0.32.0"
    assert findings.tolerated["user_after_tool"] is True
    assert findings.tolerated["late_system"] is None
    assert not findings.is_complete
    assert overrides_of(findings) == (UNPROBED, {"bridge": "never"})


async def test_a_server_that_is_not_there_is_not_known():
    async with ScriptedUpstream([NOT_FOUND]) as upstream:
        pass
    findings = await probed(upstream)

    assert findings == Findings()
    assert not findings.is_complete


async def test_a_server_that_hangs_ends_by_the_askers_deadline():
    """The timers are the asker's: here two seconds, after which what is known counts."""
    hanging = RECORDED["mistral-v13"] | {"user_twice": [Do.WAIT_FOR_PEER]}
    async with FakeVllm(hanging) as upstream:
        findings = await probed(upstream)

    assert findings.tolerated["user_after_tool"] is True
    assert not findings.is_complete


async def test_cancelling_a_probe_cancels_it():
    hanging = RECORDED["mistral-v13"] | {"plain": [Do.WAIT_FOR_PEER]}
    async with FakeVllm(hanging) as upstream, connected(upstream.url) as connections:
        task = asyncio.create_task(probe(connections.question))
        await until(lambda: "plain" in upstream.questions)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
