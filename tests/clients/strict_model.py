"""
A model server for agents: as strict as mistral-common and vLLM are at their strictest, and it knows what to say.

Every request passes the checks of proxy/demo/validate.py (ids of nine letters or digits, the order of roles, results
that match their calls, no unknown keys, ...) or is refused in their words. What it says depends on the turns with calls
that the conversation has:

    no tools offered   a title; to aider, which has its own form for edits, an edit of the file
    none               a sentence and a call, as text, like a server without a tool parser: `[TOOL_CALLS]name[ARGS]{…}`
    one                two calls at once, parsed
    two                the answer, which quotes the word that the tools' results have
"""

import json
import re
import time
from collections.abc import Iterator
from typing import Any, Final, Self

from aiohttp import web

from proxy.demo import answer
from proxy.demo.model import Generation, Kind, Token, tool_choice
from proxy.demo.refusal import Refusal
from proxy.demo.validate import check_request, prompt_tokens

FILE: Final = "hello.txt"
WORD: Final = re.compile(r"word-[0-9a-f]{12}")
SENTENCE: Final = "I look at the file."
EDITED: Final = "# edited by the model"

#: What clients call a tool that reads a file or runs a command. The first two that are offered are used.
READERS: Final = (
    *("shell", "bash", "Bash", "run_shell_command", "run_commands", "shell_command", "exec_command"),
    *("read_file", "read", "Read", "read_files"),
)
#: What they call their parameters; for one that takes a list there is `[]` behind the name.
PATHS: Final = ("path", "filePath", "file_path", "filepath", "absolute_path")
COMMANDS: Final = ("command", "cmd")


class StrictModel:
    """`async with StrictModel(workspace) as model`: it listens at `model.url`, and notes what it is asked."""

    def __init__(self, workspace: str, *, leak: bool = True) -> None:
        self._path = f"{workspace}/{FILE}"
        self._leak = leak
        #: the bodies that were answered, in order
        self.requests: list[dict[str, Any]] = []
        #: what was said to the others
        self.refusals: list[str] = []
        #: paths that it does not have, other than /tokenize, which the profile `auto` asks for
        self.strays: list[str] = []

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/health", self._health)
        app.router.add_route("*", "/{path:.*}", self._stray)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    @property
    def tool_requests(self) -> list[dict[str, Any]]:
        """The requests of the agent's own loop: those that offer tools."""
        return [body for body in self.requests if body.get("tools")]

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _stray(self, request: web.Request) -> web.Response:
        if request.path not in ("/tokenize", "/version", "/v1/models"):
            self.strays.append(f"{request.method} {request.path}")
        return web.json_response({"detail": "Not Found"}, status=404)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        try:
            check_request(body, max_model_len=131_072)
        except Refusal as refusal:
            self.refusals.append(refusal.message)
            return web.json_response(refusal.body(), status=refusal.status)
        self.requests.append(body)
        said = Generation(tuple(self._tokens(body)), "stop", tool_choice(body))
        frame = answer.Frame(f"chatcmpl-{len(self.requests)}", int(time.time()), body["model"], prompt_tokens(body))
        if not body.get("stream"):
            return web.json_response(answer.completion(frame, [said]))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        for chunk in answer.chunks(frame, [said], usage=usage):
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _tokens(self, body: dict[str, Any]) -> Iterator[Token]:
        """What it says to a request that passed the checks."""
        turns = sum(bool(message.get("tool_calls")) for message in body["messages"])
        if not body.get("tools"):
            yield Token(Kind.TEXT, edit(body) if "SEARCH/REPLACE" in str(body["messages"]) else "A title")
        elif turns == 0:
            yield Token(Kind.TEXT, SENTENCE)
            yield from _said(self._calls(body)[:1], as_text=self._leak)
        elif turns == 1:
            yield from _said(self._calls(body), as_text=False)
        else:
            yield Token(Kind.TEXT, final_text(words(body)))

    def _calls(self, body: dict[str, Any]) -> list[tuple[str, str]]:
        """Two calls, as (name, arguments in JSON), of the tools that read a file; of one tool if there is no other."""
        functions = {tool["function"]["name"]: tool["function"] for tool in body["tools"]}
        readers = [functions[name] for name in READERS if name in functions]
        if not readers:
            raise LookupError(f"no tool that reads a file among {sorted(functions)}")
        chosen = (readers * 2)[:2]
        return [(function["name"], json.dumps(self._arguments(function["parameters"]))) for function in chosen]

    def _arguments(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {name: self._value(name, schema["properties"][name]) for name in schema["required"]}

    def _value(self, name: str, schema: dict[str, Any]) -> Any:
        """The value for a required parameter: the file's path, a command that prints it, or words."""
        if name in PATHS:
            return self._path
        if name in COMMANDS:
            return ["cat", self._path] if schema.get("type") == "array" else f"cat {self._path}"
        lists = {"files": [{"path": self._path}], "commands": [f"cat {self._path}"]}
        return lists.get(name, False if schema.get("type") == "boolean" else "Read the file")


def _said(calls: list[tuple[str, str]], *, as_text: bool) -> Iterator[Token]:
    """The tokens of some calls: parsed, or as a server without a tool parser gives them."""
    for number, (name, arguments) in enumerate(calls):
        if as_text:
            yield Token(Kind.TEXT, f"[TOOL_CALLS]{name}[ARGS]{arguments}")
            continue
        yield Token(Kind.NAME, name, number)
        for piece in re.findall(r"(?s).{1,7}", arguments):
            yield Token(Kind.ARGUMENTS, piece, number)


def final_text(said: str) -> str:
    """The answer to a user who asked what the file says."""
    return f"The file {FILE} says: {said}."


def words(body: dict[str, Any]) -> str:
    """The words that the tools' results have, each once, in order."""
    results = " ".join(str(message["content"]) for message in body["messages"] if message["role"] == "tool")
    return ", ".join(dict.fromkeys(WORD.findall(results))) or "nothing"


def edit(body: dict[str, Any]) -> str:
    """An edit of the file in aider's form: a line above the word."""
    [line, *_] = WORD.findall(str(body["messages"]))
    return f"{FILE}\n```\n<<<<<<< SEARCH\n{line}\n=======\n{EDITED}\n{line}\n>>>>>>> REPLACE\n```\n"
