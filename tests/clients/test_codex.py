"""
Codex CLI works through the proxy's Responses API: its tools, its custom tools, a second turn, and what goes wrong.

The model server behind the proxy plays chat completions by script. `make test-clients` sets Codex up.
"""

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from proxy.demo.validate import check_request
from tests.clients.answers import begun, call, delta, ended, more
from tests.fakes import Do, ScriptedUpstream, text_chunk, text_stream, whole

pytestmark = pytest.mark.clients

CODEX = Path(__file__).resolve().parent / "js-codex/node_modules/.bin/codex"
DEADLINE_S = 120
WORD = "saffron-4711"
KEY = "sk-of-a-test"

CONFIG = """\
model = "devstral"
model_provider = "proxy"
approval_policy = "never"
sandbox_mode = "danger-full-access"
check_for_update_on_startup = false

[analytics]
enabled = false

[otel]
exporter = "none"

[model_providers.proxy]
name = "Devstral Proxy"
base_url = "{url}/v1"
env_key = "PROXY_KEY"
wire_api = "responses"
request_max_retries = 1
stream_max_retries = 1
"""

#: What Codex is to know of the model; without it, it offers no `apply_patch`, which is a custom tool with a grammar.
CATALOG = {
    "slug": "devstral",
    "display_name": "Devstral",
    "base_instructions": "You are a coding agent.",
    "shell_type": "shell_command",
    "apply_patch_tool_type": "freeform",
    "truncation_policy": {"mode": "tokens", "limit": 10000},
    "supported_reasoning_levels": [],
    "experimental_supported_tools": [],
    "support_verbosity": False,
    "visibility": "list",
    "supported_in_api": True,
    "priority": 1,
}


class Ran(NamedTuple):
    """What Codex reported, one object a line; the last message that it wrote down; its exit code."""

    events: list[dict[str, Any]]
    final: str
    code: int

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The completed items of a type."""
        done = [event["item"] for event in self.events if event["type"] == "item.completed"]
        return [item for item in done if item["type"] == kind]


class Desk:
    """A home and a project for Codex, with a file in it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.project = folder / "project"
        self.project.mkdir()
        (self.project / "word.txt").write_text(f"the word is {WORD}\n", encoding="utf-8")
        self._home = folder / "home"
        self._home.mkdir()
        (self._home / "config.toml").write_text(CONFIG.format(url=url), encoding="utf-8")
        self._final = folder / "final.txt"

    def know(self, model: dict[str, Any]) -> None:
        """Tell Codex about a model."""
        catalog = self._home / "catalog.json"
        catalog.write_text(json.dumps({"models": [model]}), encoding="utf-8")
        config = self._home / "config.toml"
        text = config.read_text(encoding="utf-8")
        config.write_text(f'model_catalog_json = "{catalog}"\n{text}', encoding="utf-8")

    async def run(self, *arguments: str) -> Ran:
        """Run `codex exec` until it ends."""
        process = await asyncio.create_subprocess_exec(
            *(str(CODEX), "exec", "--json", "--skip-git-repo-check", "-o", str(self._final), *arguments),
            cwd=self.project,
            env={**_ENVIRONMENT, "PATH": os.environ["PATH"], "HOME": str(self._home), "CODEX_HOME": str(self._home)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(DEADLINE_S):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        events = [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]
        final = self._final.read_text(encoding="utf-8") if self._final.exists() else ""
        return Ran(events, final, process.returncode or 0)


_ENVIRONMENT: Mapping[str, str] = {"PROXY_KEY": KEY, "NO_PROXY": "127.0.0.1", "DO_NOT_TRACK": "1", "NO_COLOR": "1"}


def messages_of(request: Any) -> list[dict[str, Any]]:
    """The conversation as the model server got it, if one as strict as mistral-common takes it."""
    check_request(request.json, max_model_len=131_072)
    return request.json["messages"]


def results(request: Any) -> list[tuple[str, str]]:
    """The calls in the history, each with what is in its result."""
    messages = messages_of(request)
    said = {message["tool_call_id"]: message["content"] for message in messages if message["role"] == "tool"}
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    return [(call["function"]["name"], said[call["id"]]) for call in calls]


def command(text: str, index: int = 0, call_id: str = "Ab1Cd2Ef3") -> list[dict[str, Any]]:
    arguments = json.dumps({"cmd": text})
    return [call(index, "exec_command", arguments[:9], call_id), more(index, arguments[9:])]


LOOK = ended(text_chunk("I look "), text_chunk("at it."), *command("cat word.txt"), delta({}, "tool_calls"))
TWICE = ended(*command("echo one", 0, "Mn7Op8Qr9"), *command("echo two", 1, "Gh4Ij5Kl6"), delta({}, "tool_calls"))
FOUND = [text_stream("The word ", "is ", WORD)]


@pytest.fixture
def desk(tmp_path):
    if not CODEX.exists():
        raise RuntimeError(f"{CODEX} is missing: `make test-clients` sets it up")
    return lambda url: Desk(tmp_path, url)


async def test_codex_runs_its_tools_and_goes_on_in_a_second_turn(start_proxy, desk):
    async with ScriptedUpstream([LOOK], [TWICE], FOUND, [text_stream("Again: ", WORD)]) as upstream:
        proxy = await start_proxy(upstream.url, api_keys=KEY)
        codex = desk(proxy.url)
        first = await codex.run("Tell me the word in word.txt.")
        second = await codex.run("resume", "--last", "Say it again.")

    assert (first.code, first.final) == (0, f"The word is {WORD}")
    assert [item["text"] for item in first.items("agent_message")] == ["I look at it.", first.final]
    assert [item["exit_code"] for item in first.items("command_execution")] == [0, 0, 0]
    assert (second.code, second.final) == (0, f"Again: {WORD}")
    assert len(upstream.requests) == 4
    ((name, result),) = results(upstream.requests[1])
    assert (name, WORD in result) == ("exec_command", True)
    answers = [result for _, result in results(upstream.requests[2])]
    assert [word in answer for word, answer in zip((WORD, "one", "two"), answers, strict=True)] == [True, True, True]
    roles = [message["role"] for message in messages_of(upstream.requests[3])]
    assert roles[-7:] == ["assistant", "tool", "assistant", "tool", "tool", "assistant", "user"]
    lines = proxy.log.lines("request")
    assert {line["path"] for line in lines} == {"/v1/responses"}
    assert {line["status"] for line in lines} == {200}
    assert {"namespace_to_names", "built_in_tool_removed"} <= set(lines[0]["rules"])


async def test_a_patch_of_codex_is_free_text_to_it_and_an_argument_to_the_model(start_proxy, desk):
    patch = "*** Begin Patch\n*** Add File: new.txt\n+made\n*** End Patch"
    arguments = json.dumps({"input": patch})
    edit = ended(call(0, "apply_patch", arguments[:20]), more(0, arguments[20:], "tool_calls"))
    async with ScriptedUpstream([edit], [text_stream("Done.")]) as upstream:
        proxy = await start_proxy(upstream.url)
        codex = desk(proxy.url)
        codex.know(CATALOG)
        ran = await codex.run("Make new.txt.")

    assert (ran.code, ran.final) == (0, "Done.")
    assert (codex.project / "new.txt").read_text(encoding="utf-8") == "made\n"
    ((name, result),) = results(upstream.requests[1])
    assert (name, "Success" in result) == ("apply_patch", True)
    tools = {tool["function"]["name"]: tool["function"] for tool in upstream.requests[0].json["tools"]}
    assert "Begin Patch" in tools["apply_patch"]["description"]
    assert {"grammar_to_description", "custom_tool_to_function"} <= set((await proxy.log.line())["rules"])


async def test_codex_knows_its_tools_in_namespaces_again(start_proxy, desk):
    arguments = '{"target": "nobody"}'
    asked = ended(call(0, "multi_agent_v1__close_agent", arguments), delta({}, "tool_calls"))
    async with ScriptedUpstream([asked], FOUND) as upstream:
        proxy = await start_proxy(upstream.url)
        ran = await desk(proxy.url).run("Close it.")

    assert (ran.code, ran.final) == (0, f"The word is {WORD}")
    ((name, result),) = results(upstream.requests[1])
    assert name == "multi_agent_v1__close_agent"
    assert "unsupported" not in result
    assert "nobody" in result


async def test_what_the_model_server_refuses_reaches_the_user_of_codex(start_proxy, desk):
    refusal = {"error": {"message": "no such thing", "type": "BadRequestError", "param": None, "code": 400}}
    async with ScriptedUpstream([whole(refusal, status=400)]) as upstream:
        proxy = await start_proxy(upstream.url)
        ran = await desk(proxy.url).run("Hello.")

    assert ran.code != 0
    assert "no such thing" in json.dumps(ran.events)
    assert len(upstream.requests) == 1


async def test_codex_asks_again_after_an_answer_that_was_cut(start_proxy, desk):
    cut = [begun(text_chunk("The word is")), Do.RESET]
    async with ScriptedUpstream(cut, FOUND) as upstream:
        proxy = await start_proxy(upstream.url, failover="off")
        ran = await desk(proxy.url).run("Tell me the word.")

    assert (ran.code, ran.final) == (0, f"The word is {WORD}")
    assert len(upstream.requests) == 2
