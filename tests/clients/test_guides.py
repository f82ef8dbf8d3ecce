"""
The README's guides work: each client, set up as its guide says and nothing else, uses tools through the proxy.

The proxy is a process with its default settings and a key. The model server behind it refuses whatever the strictest
mistral-common and vLLM refuse; the first call comes as text, the next two at once.
"""

import json
import re
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.clients.guides import ADDRESS, KEY, ROOT, Outcome, Place, follow, guide
from tests.clients.strict_model import EDITED, FILE, StrictModel, final_text
from tests.process.conftest import running


class Agent(NamedTuple):
    """
    A client: `name` is that of its environment, `heading` that of its guide.

    `quiet` switches off what would go elsewhere (telemetry, updates, lists of models); `alone` is what the strict
    server says when the client is pointed at it without the proxy, or what it was asked for and does not have; "" if
    nothing is refused.
    """

    name: str
    heading: str
    programs: str
    alone: str
    quiet: Mapping[str, str]


def of_npm(name: str, heading: str, alone: str, programs: str = ".bin", **quiet: str) -> Agent:
    return Agent(name, heading, f"tests/clients/js-{name}/node_modules/{programs}", alone, quiet)


def of_python(name: str, heading: str, alone: str, **quiet: str) -> Agent:
    return Agent(name, heading, f".venv-client-{name}/bin", alone, quiet)


LITELLM = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
EXTRA = "Extra inputs are not permitted"
AGENTS = [
    of_npm(
        "opencode",
        "opencode",
        "",
        "opencode-linux-x64/bin",
        OPENCODE_DISABLE_AUTOUPDATE="1",
        OPENCODE_DISABLE_MODELS_FETCH="1",
        OPENCODE_DISABLE_LSP_DOWNLOAD="1",
        OPENCODE_DISABLE_DEFAULT_PLUGINS="1",
    ),
    of_npm("cline", "Cline", "", CLINE_TELEMETRY_DISABLED="1", CLINE_NO_AUTO_UPDATE="1"),
    of_npm("continue", "Continue", "", CONTINUE_TELEMETRY_ENABLED="0", CONTINUE_METRICS_ENABLED="0"),
    # it does not heed NO_PROXY
    of_npm("qwen-code", "Qwen Code", "", HTTP_PROXY="", HTTPS_PROXY="", http_proxy="", https_proxy=""),
    of_npm("codex", "Codex CLI", "POST /v1/responses"),
    of_npm(
        "claude",
        "Claude Code",
        "POST /v1/messages",
        "@anthropic-ai/claude-code-linux-x64",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_AUTOUPDATER="1",
        DISABLE_TELEMETRY="1",
        DISABLE_ERROR_REPORTING="1",
    ),
    of_npm("codex-chat", "Codex CLI up to 0.77", f"Tool: name: {EXTRA}"),
    of_python("aider", "aider", "", AIDER_ANALYTICS="false", AIDER_CHECK_UPDATE="false", **LITELLM),
    of_python("langchain", "LangChain", "", LANGSMITH_TRACING="false"),
    of_npm("ai-sdk", "Vercel AI SDK", "", ""),
    Agent("openai", "OpenAI SDK", ".venv/bin", f"AssistantMessage: refusal: {EXTRA}", {}),
    of_python("openai-agents", "OpenAI Agents SDK", "POST /v1/responses", OPENAI_AGENTS_DISABLE_TRACING="1"),
    of_python("litellm", "LiteLLM SDK", f"AssistantMessage: provider_specific_fields: {EXTRA}", **LITELLM),
]
#: The openai SDK is in the environment of the tests; the others are set up by `make test-clients`.
PARAMS = [
    pytest.param(agent, id=agent.name, marks=() if agent.name == "openai" else pytest.mark.clients) for agent in AGENTS
]


class Desk:
    """A place to follow a guide, with a file in the project that has a word in it that nobody can guess."""

    def __init__(self, agent: Agent, folder: Path) -> None:
        programs = ROOT / agent.programs
        if not programs.exists():
            raise RuntimeError(f'{programs} is missing: `make test-clients ONLY="{agent.name}"` sets it up')
        self.word = f"word-{secrets.token_hex(6)}"
        self.place = Place(folder / "home", folder / "project", (programs,))
        for made in (self.place.home, self.place.project):
            made.mkdir()
        if programs.name == "node_modules":  # a library: a program finds it beside itself or above
            (self.place.project / "node_modules").symlink_to(programs)
        (self.place.project / FILE).write_text(f"{self.word}\n")
        for command in (
            ["git", "init", "-q"],
            ["git", "config", "user.name", "Somebody"],
            ["git", "config", "user.email", "somebody@example.invalid"],
            ["git", "add", FILE],
            ["git", "commit", "-q", "-m", "Begin"],
        ):
            subprocess.run(command, cwd=self.place.project, check=True)

    @property
    def file(self) -> str:
        return (self.place.project / FILE).read_text()


def results(body: dict[str, Any]) -> list[str]:
    return [str(message["content"]) for message in body["messages"] if message["role"] == "tool"]


def said(outcome: Outcome) -> str:
    return f"code {outcome.code}\n{outcome.out[-3000:]}\n{outcome.errors[-3000:]}"


@pytest.mark.parametrize("agent", PARAMS)
async def test_a_client_that_is_set_up_as_its_guide_says_uses_tools_through_the_proxy(agent, tmp_path):
    desk = Desk(agent, tmp_path)
    key = f"key-{secrets.token_hex(8)}"
    environment = {"PROXY_PROFILE": "auto", "PROXY_API_KEYS": key}
    async with StrictModel(str(desk.place.project)) as model, running(1, VLLM_BASE=model.url, **environment) as proxy:
        outcome = await follow(guide(agent.heading), desk.place, proxy.url, key, **agent.quiet)

    assert model.refusals == [], said(outcome)
    assert outcome.code == 0, said(outcome)
    assert model.strays == []
    if agent.name == "aider":  # it has no tools on the wire: it edits by text
        assert desk.file == f"{EDITED}\n{desk.word}\n"
        return
    assert final_text(desk.word) in outcome.out, said(outcome)
    *_, last = model.tool_requests
    assert [desk.word in result for result in results(last)] == [True, True, True], json.dumps(last["messages"][1:])


def in_short(refusal: str) -> str:
    """A refusal by pydantic in one line, any other as it is."""
    about = re.fullmatch(r"1 validation error for (\w+)\n(.+)\n  ([^\[]+) \[.*", refusal, re.S)
    return ": ".join(about.groups()) if about else refusal


@pytest.mark.parametrize("agent", PARAMS)
async def test_what_the_same_server_says_to_a_client_without_the_proxy(agent, tmp_path):
    """Its calls are parsed here: of calls that come as text, no client makes anything."""
    desk = Desk(agent, tmp_path)
    async with StrictModel(str(desk.place.project), leak=False) as model:
        outcome = await follow(guide(agent.heading), desk.place, model.url, "any", **agent.quiet)

    refusals = list(dict.fromkeys([*map(in_short, model.refusals), *model.strays]))
    assert refusals == ([agent.alone] if agent.alone else []), said(outcome)
    if agent.name != "aider":
        assert (final_text(desk.word) in outcome.out) == (not agent.alone), said(outcome)


@pytest.mark.parametrize("agent", PARAMS)
def test_a_guide_names_the_address_and_the_key(agent):
    told = guide(agent.heading)
    text = "".join([told.commands, *told.files.values(), *told.programs.values()])

    assert ADDRESS in text
    assert KEY in text
