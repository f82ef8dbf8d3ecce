"""
schemathesis 4 against a running proxy, by its own /openapi.json: every operation, with data that fits and data that
does not.

The command is used, not the library: its phases and checks are documented, and its process is its own.
"""

import asyncio
import json
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from proxy.config import Tier
from proxy.demo.parameters import MODEL
from proxy.edge.call import EVENT_STREAM
from proxy.edge.openapi_request import OTHERWISE

CHAT = "POST /v1/chat/completions"
RESPONSES = "POST /v1/responses"
MESSAGES, COUNT = "POST /v1/messages", "POST /v1/messages/count_tokens"
KEY = "sk-a-key-of-this-test-0123456789"
CONFORMANCE = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_headers_conformance", "response_schema_conformance"),
)


class Tried(NamedTuple):
    """One request of a run, and its answer: names of headers are in lower case."""

    operation: str
    asked: dict[str, str]
    status: int
    headers: dict[str, str]
    text: str


# --- documents for a run


def for_the_demo(document: Any) -> Any:
    """Return the document with the demo upstream's own limits: its model, and four answers at most."""
    document = json.loads(json.dumps(document))
    schemas = document["components"]["schemas"]
    for name in ("ChatRequest", "ResponsesRequest", "MessagesRequest", "MessagesCountRequest"):
        schemas[name]["properties"]["model"]["enum"] = [MODEL, None]
    schemas["ChatRequest"]["properties"]["n"]["maximum"] = 4
    return document


def to_be_answered(document: Any) -> Any:
    """Return the document with timers of ten seconds and more, and with every other answer a stream."""
    for name, parameter in document["components"]["parameters"].items():
        if name.endswith("timeout"):
            parameter["schema"]["pattern"] = "^[1-9][0-9]{1,3}$"
    for name in ("ChatRequest", "ResponsesRequest", "MessagesRequest"):
        request = document["components"]["schemas"][name]
        request["required"].append("stream")
        request["properties"]["stream"] = {"type": "boolean"}
    return document


def demanding_a_key(document: Any) -> Any:
    """Return the document of a proxy that demands a key: it says only that one may be shown."""
    for methods in document["paths"].values():
        for operation in methods.values():
            if "security" in operation:
                operation["security"].remove({})
    return document


def of_the_proxy_alone(value: Any) -> Any:
    """Return the document without what the proxy itself does not refuse."""
    if isinstance(value, list):
        return [of_the_proxy_alone(item) for item in value]
    if not isinstance(value, dict):
        return value
    if OTHERWISE in value:
        return {}
    return {name: of_the_proxy_alone(item) for name, item in value.items()}


# --- a run


@pytest.fixture
async def proxy(start_proxy, demo):
    return await start_proxy(demo.url)


async def run(
    proxy, tmp_path: Path, change: Callable[[Any], Any], *more: str, mode: str, checks: tuple[str, ...], examples: int
):
    """
    Let schemathesis try the proxy by its document, changed; return what it tried.

    The same document gives the same requests. Fails if a check does; the message is the tool's own.
    """
    async with proxy.session.get(f"{proxy.url}/openapi.json") as response:
        document = change(await response.json())
    (tmp_path / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    report = tmp_path / "report.ndjson"
    arguments = (
        *("run", "openapi.json", "--url", proxy.url, "--mode", mode, "--checks", ",".join(checks)),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(examples), "--generation-deterministic"),
        *("--continue-on-failure", "--suppress-health-check", "all"),
        *("--report", "ndjson", "--report-ndjson-path", str(report), *more),
    )
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "--no-color", *arguments),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await command.communicate()
    assert command.returncode == 0, output.decode(errors="replace")[-8000:]
    return list(tried(report))


def tried(report: Path) -> Iterator[Tried]:
    with report.open(encoding="utf-8") as lines:
        for line in lines:
            finished = json.loads(line).get("ScenarioFinished")
            if finished is not None:
                yield from tried_in(finished["recorder"])


def tried_in(recorder: Any) -> Iterator[Tried]:
    for name, interaction in recorder.get("interactions", {}).items():
        case, response = recorder["cases"][name]["value"], interaction["response"]
        assert response is not None, f"no answer: {case}"
        yield Tried(
            operation=recorder["label"],
            asked={key.lower(): values[0] for key, values in interaction["request"]["headers"].items()},
            status=response["status_code"],
            headers={key.lower(): values[0] for key, values in response["headers"].items()},
            text=b64decode((response["content"] or {}).get("$base64", "")).decode(),
        )


def is_refused_by_the_proxy(request: Tried) -> bool:
    return request.status >= 400 and "x-proxy-attempts" not in request.headers


def is_about_the_choice_of_a_tool(request: Tried) -> bool:
    """Which tools a request offers is not for a schema to know."""
    error = json.loads(request.text)["error"]
    return "tool_choice" in error["message"] or (error.get("param") or "").startswith("tool_choice")


def is_about_an_input_of_which_nothing_is_left(request: Tried) -> bool:
    """Items without a place in a chat are left out."""
    return request.operation == RESPONSES and json.loads(request.text)["error"]["param"] == "input"


def wants_no_time(request: Tried) -> bool:
    """Whether the request asks for an answer within less than a second, so that 504 may be what it gets."""
    timers = [seconds for name, seconds in request.asked.items() if name.endswith("timeout")]
    return request.status == 504 and any(seconds.startswith("0") for seconds in timers)


# --- claims


async def test_what_fits_the_document_is_answered_as_described_and_not_refused_by_the_proxy(proxy, tmp_path):
    requests = await run(
        proxy,
        tmp_path,
        lambda document: to_be_answered(for_the_demo(document)),
        mode="positive",
        checks=CONFORMANCE,
        examples=40,
    )

    assert {request.operation for request in requests} == await operations(proxy)
    judged = (CHAT, RESPONSES, MESSAGES, COUNT)
    for operation in judged:
        assert {request.status for request in requests if request.operation == operation} == {200, 400}
    assert {request.status for request in requests if request.operation not in judged} == {200}
    refused = [request for request in requests if is_refused_by_the_proxy(request)]
    refused = [request for request in refused if not is_about_the_choice_of_a_tool(request)]
    assert [request.text for request in refused if not is_about_an_input_of_which_nothing_is_left(request)] == []
    assert {"application/json", EVENT_STREAM} <= {request.headers["content-type"] for request in requests}
    assert proxy.log.lines("unexpected_error") == []


async def test_what_the_document_says_is_refused_is(proxy, tmp_path):
    requests = await run(
        proxy,
        tmp_path,
        lambda document: of_the_proxy_alone(for_the_demo(document)),
        mode="negative",
        checks=(*CONFORMANCE[1:], "negative_data_rejection", "unsupported_method", "allow_header_conformance"),
        examples=60,
    )

    assert {request.operation for request in requests} == await operations(proxy)
    assert {400, 405} <= {request.status for request in requests}
    assert [request for request in requests if request.status >= 500 and not wants_no_time(request)] == []
    assert proxy.log.lines("unexpected_error") == []


async def test_where_a_key_is_demanded_what_is_described_as_guarded_is(start_proxy, demo, tmp_path):
    proxy = await start_proxy(demo.url, auth="required", api_keys=KEY, tiers={"default": Tier(operator=True)})

    requests = await run(
        proxy,
        tmp_path,
        lambda document: demanding_a_key(to_be_answered(for_the_demo(document))),
        *("--phases", "coverage", "--header", f"Authorization: Bearer {KEY}"),
        mode="positive",
        checks=(*CONFORMANCE, "ignored_auth"),
        examples=1,
    )

    without = {request.operation for request in requests if request.status == 401}
    assert without == {CHAT, RESPONSES, MESSAGES, COUNT, "GET /v1/models", "GET /health", "GET /metrics"}


async def test_an_answer_that_is_not_as_described_is_found(proxy, tmp_path):
    """The runs above can fail."""

    def other(document):
        document["components"]["schemas"]["Version"]["properties"]["version"] = {"type": "integer"}
        return document

    with pytest.raises(AssertionError, match="Response violates schema"):
        await run(proxy, tmp_path, other, "--include-path", "/version", mode="positive", checks=CONFORMANCE, examples=1)


async def operations(proxy) -> set[str]:
    async with proxy.session.get(f"{proxy.url}/openapi.json") as response:
        paths = (await response.json())["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
