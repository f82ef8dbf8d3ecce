"""
Claude Code, run headless as a program of its own in a folder of the test's, and the chat server that it talks to.

It speaks only to 127.0.0.1: telemetry, updates and all other traffic that is not its model's is switched off, and its
environment is made here.
"""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

from tests.clients.answers import call, delta, more
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Script, event, text_chunk

DEADLINE_S = 120
KEY = "sk-test-local"
MARKER = "MARKER_7f3k"
FILE = f'print("hello {MARKER}")\n'
PROMPT = "List the files in this folder, then read hello.py, and tell me the marker word that it prints."
FINAL_TEXT = f"hello.py prints the word {MARKER}."

_HERE = Path(__file__).resolve().parent
_PACKAGE = _HERE / "js-claude/node_modules/@anthropic-ai/claude-code"


class Ended(NamedTuple):
    """How a run ended: what it wrote as one JSON object a line, and on its standard error."""

    code: int
    events: list[dict[str, Any]]
    errors: str

    @property
    def result(self) -> dict[str, Any]:
        """The last event."""
        return next(said for said in self.events if said["type"] == "result")

    def blocks(self, kind: str) -> list[dict[str, Any]]:
        """Return the content blocks of a kind, in order."""
        contents = [said["message"]["content"] for said in self.events if said["type"] in ("assistant", "user")]
        return [
            block for content in contents if isinstance(content, list) for block in content if block["type"] == kind
        ]


async def claude_code(url: str, folder: Path, **environment: str) -> Ended:
    """
    Ask Claude Code `PROMPT` in `folder`; `url` is where its API is. `environment` has its key, if not `KEY`.

    Raises:
        RuntimeError: it is not set up.
        TimeoutError: it did not end; it and all that it has started are killed.
    """
    if not _PACKAGE.exists():
        raise RuntimeError(f"{_PACKAGE} is missing: `make test-clients` sets it up")
    workspace, home = folder / "workspace", folder / "home"
    workspace.mkdir()
    home.mkdir()
    (workspace / "hello.py").write_text(FILE, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *("node", str(_PACKAGE / "cli-wrapper.cjs"), "-p", "--output-format", "stream-json", "--verbose"),
        *("--model", "devstral", "--permission-mode", "acceptEdits", "--allowedTools", "Bash Read", "--", PROMPT),
        cwd=workspace,
        env={**_settings(url, home), **(environment or {"ANTHROPIC_API_KEY": KEY})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # a group of its own: the wrapper passes no signal on
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, errors = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    lines = [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]
    return Ended(process.returncode or 0, lines, errors.decode())


def _settings(url: str, home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_MODEL": "devstral",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "devstral",
        "ANTHROPIC_SMALL_FAST_MODEL": "devstral",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "DO_NOT_TRACK": "1",
        "IS_SANDBOX": "1",  # it runs as root in a container
        "CLAUDE_CODE_MAX_RETRIES": "1",
        "CI": "1",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }


def _answer(number: int, *chunks: dict[str, Any]) -> Script:
    """An answer with an id of its own: Claude Code takes answers with the same id for one."""
    made = [event({**chunk, "id": f"chatcmpl-{number}"}) for chunk in (text_chunk("", role="assistant"), *chunks)]
    return [STREAM_HEAD, *made, DONE, STREAM_END]


#: Text and a call, then two calls at once, then the answer.
ANSWERS = (
    _answer(
        1,
        text_chunk("I look at the files first."),
        call(0, "Bash", '{"command": "ls && ', "Ab1Cd2Ef3"),
        more(0, 'cat hello.py", "description": "Look"}', "tool_calls"),
    ),
    _answer(
        2,
        call(0, "Bash", '{"command": "cat hello.py"', "Gh4Ij5Kl6"),
        more(0, "}"),
        call(1, "Bash", '{"command": "wc -l hello.py"}', "Mn7Op8Qr9"),
        delta({}, "tool_calls"),
    ),
    _answer(3, text_chunk(FINAL_TEXT), text_chunk("", finish="stop")),
)
