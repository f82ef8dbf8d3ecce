"""
The command `explain`: what would be sent for a request, or what a client would get of an answer.

    0 it goes on   1 it is refused, or ends in an error   2 wrong usage, no such file   78 a bad setting
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from proxy.config import load_config
from proxy.errors import InvalidRequest, error_body
from proxy.explain.answer import explain_answer
from proxy.explain.answer_page import answer_rows, stream_rows
from proxy.explain.document import plain_of, printable
from proxy.explain.machine import answer_fields, as_json, request_fields, stream_fields
from proxy.explain.page import Row, written
from proxy.explain.request import explain_request
from proxy.explain.request_page import error_rows, request_rows
from proxy.explain.setting import APIS, Setting, expectation_of, setting_fields, setting_of, setting_rows, translated
from proxy.explain.stream import explain_stream
from proxy.printing import write_line
from proxy.translate.expectation import Expectation
from proxy.translate.profile import PROFILE_CHOICES
from proxy.usage import Usage, parser_for

Kind = Literal["request", "stream", "answer"]


class Outcome(NamedTuple):
    """What was found: the exit code, and the report in two forms."""

    code: int
    rows: Iterable[Row]
    fields: Mapping[str, Any]


_USAGE: Final = Usage(
    command="explain",
    about="""\
Show what becomes of a request body on its way upstream: each rule that changes something, why, and what it changes.
With a recorded stream (FILE.sse or --stream) or a whole answer (--answer) of an upstream: what the client gets of it.

Nothing is sent anywhere. The content of the file is printed, on purpose: mind who reads it.
Numbers, texts and names are shown as they are; white space and the order of keys are not compared.""",
    examples="""\
devstral-proxy explain request.json                           with the settings that `serve` would have
devstral-proxy explain request.json --profile mistral-api     with another profile's rules
devstral-proxy explain request.json --option bridge=never     with one option changed
jq .request saved.json | devstral-proxy explain - --full      standard input; nothing shortened, the whole result too
devstral-proxy explain request.json --api messages            what Claude Code sent; --api responses: what Codex did
devstral-proxy explain request.json --json | jq .body         for programs
devstral-proxy explain answer.sse --request request.json      a stream, as recorded with curl -N
devstral-proxy explain answer.sse --tool get_weather          without its request: say which tools it offered
devstral-proxy explain --answer answer.json --request request.json""",
    codes={
        0: "it goes on",
        1: "it is refused or ends in an error",
        2: "wrong usage or no such file",
        78: "a bad setting",
    },
)
_PROFILE: Final = f"{', '.join(PROFILE_CHOICES)}; else the setting PROXY_PROFILE, or that of the upstreams"


def explain(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """
    Run `explain ARGUMENTS`; return the exit code. `--help` and wrong usage leave by SystemExit.

    Raises:
        ConfigError: the settings, of which profile and options count here, cannot be used.
    """
    parser = explain_parser()
    given = parser.parse_args(arguments)
    if given.file == given.request == "-":
        parser.error("only one of FILE and --request can be standard input")
    kind = _kind_of(given)
    if kind == "request" and (given.request or given.tool):
        parser.error("--request and --tool go with an answer: use --answer, --stream or FILE.sse")
    config = load_config(_settings(given), environ, lambda path: Path(path).read_text(encoding="utf-8"))
    setting = setting_of(config, profile=given.profile or "", user_agent=given.user_agent, api=given.api)
    body = _read(given.file, parser)
    request_body = _read(given.request, parser) if given.request else None
    try:
        found = _found(kind, body, request_body, setting, given)
        text = _report(found, kind, given, setting, len(body), is_coloured=_is_coloured(given, environ))
    except RecursionError:
        print("devstral-proxy: it is nested too deeply to be shown", file=sys.stderr)
        return 1
    write_line(text.removesuffix("\n"))
    if hint := hint_for(kind, body, setting.api, is_refused=bool(found.code)):
        print(f"devstral-proxy: {hint}", file=sys.stderr)
    return found.code


def explain_parser() -> argparse.ArgumentParser:
    """Return what reads the arguments."""
    parser = parser_for(_USAGE)
    add = parser.add_argument
    add("file", metavar="FILE", help="a request body in JSON, a stream, or an answer; - is standard input")
    add("--stream", action="store_true", help="FILE is a stream of server-sent events, whatever it is called")
    add("--answer", action="store_true", help="FILE is a whole answer")
    add("--request", metavar="FILE", default="", help="the client's request that the stream or answer belongs to")
    add("--tool", metavar="NAME", action="append", default=[], help="a tool that was offered, if there is no --request")
    add("--profile", metavar="NAME", help=_PROFILE)
    add("--option", metavar="NAME=VALUE", action="append", default=[], help="change one option of the profile")
    add("--strict", action="store_true", help="refuse what a rule would change, and show what that is")
    add("--api", choices=tuple(APIS), default="chat", help="what the client speaks; else it is chat completions")
    add("--user-agent", metavar="TEXT", default="", help="the client's User-Agent: some get calls in one piece")
    add("--config", metavar="FILE", help="read the settings from this TOML file")
    add("--full", action="store_true", help="shorten nothing, and show the whole result")
    add("--json", action="store_true", help="print JSON")
    add("--no-color", action="store_true", help="no colours on a terminal; so does the variable NO_COLOR")
    return parser


def _kind_of(given: argparse.Namespace) -> Kind:
    if given.answer:
        return "answer"
    return "stream" if given.stream or given.file.endswith(".sse") else "request"


def _settings(given: argparse.Namespace) -> list[str]:
    """Return the flags of the proxy itself that these arguments stand for."""
    flags = [f"--option={option}" for option in given.option]
    flags += [f"--{name}={value}" for name in ("profile", "config") if (value := getattr(given, name)) is not None]
    return [*flags, "--strict"] if given.strict else flags


def _read(path: str, parser: argparse.ArgumentParser) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as exc:
        parser.error(f"cannot read {path}: {exc.strerror or type(exc).__name__}")


# --- what is found


def _found(kind: Kind, body: bytes, request_body: bytes | None, setting: Setting, given: argparse.Namespace) -> Outcome:
    if kind == "request":
        return _of_request(body, setting, given.full)
    try:
        request = None if request_body is None else translated(request_body, setting)
    except InvalidRequest as error:
        return Outcome(1, _no_such_request(error), {"error": {"status": error.status, "message": error.message}})
    expectation = expectation_of(setting, request, tuple(given.tool))
    found = _of_stream if kind == "stream" else _of_answer
    outcome = found(body, expectation, given.full)
    return outcome._replace(rows=[*_asked(expectation, is_known=request is not None), *outcome.rows])


def _of_request(body: bytes, setting: Setting, full: bool) -> Outcome:
    report = explain_request(
        body, setting.profile, strict=setting.strict, user_agent=setting.user_agent, front=setting.front()
    )
    return Outcome(int(report.error is not None), request_rows(report, full=full), request_fields(report))


def _of_stream(data: bytes, expectation: Expectation, full: bool) -> Outcome:
    report = explain_stream(data, expectation)
    return Outcome(int(report.error is not None), stream_rows(report, full=full), stream_fields(report))


def _of_answer(body: bytes, expectation: Expectation, full: bool) -> Outcome:
    report = explain_answer(body, expectation)
    return Outcome(int(report.error is not None), answer_rows(report, full=full), answer_fields(report))


def _asked(expectation: Expectation, *, is_known: bool) -> Iterator[Row]:
    """Say what is known of the request that an answer belongs to: leaked calls are told by the tools it offered."""
    tools = ", ".join(map(printable, expectation.tool_names.values())) or "none"
    if is_known:
        yield Row("text", f"request  tools {tools}; tool_choice {expectation.tool_choice}")
    else:
        yield Row("note", f"request  not given; taken as one with usage wanted and these tools: {tools}")
        yield Row("note", "         --request FILE gives it, --tool NAME names a tool that it offered")
    yield Row("text", "")


def _no_such_request(error: InvalidRequest) -> Iterator[Row]:
    yield Row("bad", f"refused: there is no answer to this request. The client gets HTTP {error.status}:")
    yield from error_rows(error_body(error))


def hint_for(kind: Kind, body: bytes, api: str, *, is_refused: bool) -> str:
    """Return what somebody may have meant whose file did not go through, or would go another way; else ""."""
    if kind == "request" and (other := api_of(body)) not in ("", api):
        return f"this looks like a request to {APIS[other]}: --api {other} explains one"
    if not is_refused:
        return ""
    start = body.lstrip(b"\xef\xbb\xbf \t\r\n")[:8]
    if kind != "stream" and start.startswith((b"data:", b"event:", b":")):
        return "this looks like a recorded stream: --stream explains one"
    if kind == "stream" and start.startswith(b"{"):
        return "this looks like JSON: --answer explains a whole answer, no flag a request"
    if kind == "request" and b'"choices"' in body and b'"messages"' not in body:
        return "this looks like an answer: --answer explains one"
    return ""


def api_of(body: bytes) -> str:
    """Return whose request a body is by members that chat completions do not have; "" where none tells."""
    try:
        members = plain_of(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(members, dict):
        return ""
    if "messages" not in members:
        return "responses" if "input" in members else ""
    tools = members.get("tools")
    has_schema = isinstance(tools, list) and any(isinstance(tool, dict) and "input_schema" in tool for tool in tools)
    return "messages" if has_schema or "system" in members else ""


# --- what is printed


def _report(
    found: Outcome, kind: Kind, given: argparse.Namespace, setting: Setting, size: int, *, is_coloured: bool
) -> str:
    if given.json:
        return as_json({"kind": kind, "file": given.file, **setting_fields(setting)}, dict(found.fields))
    name = "standard input" if given.file == "-" else printable(given.file)
    title = Row("title", f"{kind:8} {name} ({size:,} bytes)")
    return written([title, *setting_rows(setting), *found.rows], coloured=is_coloured)


def _is_coloured(given: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    """Colours are for a terminal, and not wanted where NO_COLOR says so (no-color.org)."""
    is_wanted = not given.no_color and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return is_wanted and sys.stdout.isatty()
