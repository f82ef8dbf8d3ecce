"""
GET /openapi.json: this server described in OpenAPI 3.1, made once.

    openapi_request    what a chat takes
    openapi_answer     what a client gets
    openapi_errors     errors and headers
    openapi_examples   requests to try
    openapi_messages   Anthropic's Messages API
    openapi_responses  the Responses API

tests/edge/test_openapi.py compares it with the routes, with recorded requests and with real answers.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from proxy import __version__
from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.openapi_answer import answer_schemas
from proxy.edge.openapi_errors import (
    CHAT_HEADERS,
    EVERYWHERE,
    GUARDED,
    error_responses,
    errors_of,
    header_components,
    headers_of,
)
from proxy.edge.openapi_examples import answer_examples, request_examples, stream_example, with_curl_samples
from proxy.edge.openapi_messages import messages_headers, messages_operations, messages_responses, messages_schemas
from proxy.edge.openapi_request import DEPENDS, OTHERWISE, ref, request_schemas
from proxy.edge.openapi_responses import responses_operation, responses_schemas

Json = dict[str, Any]

_ABOUT: Final = """\
OpenAI's chat completions on Mistral models behind vLLM.

Requests are mended on the way in, answers on the way out; `x-proxy-rewrites` names the rules that changed something.
In a schema, `x-otherwise` says what becomes of a value outside it: `upstream` is passed on for the model
server to judge, `mended` is taken and repaired, `depends` is explained beside it; without that key it is a 400.
Every GET also takes HEAD. A trailing slash is dropped."""

#: Nothing, or a bearer token: whether one must be shown is the operator's setting.
_GUARD: Final[tuple[Json, ...]] = ({}, {"bearer": []})


def openapi_page(live: Iterable[str], ready: Iterable[str]) -> Callable[[Edge, Call], Awaitable[web.StreamResponse]]:
    """Return the endpoint of the document; `live` and `ready` are the paths of the two probes."""
    body = msgspec.json.encode(document(live, ready))

    async def openapi(edge: Edge, call: Call) -> web.StreamResponse:
        return await call.send(body)

    return openapi


def document(live: Iterable[str], ready: Iterable[str]) -> Json:
    """Return the document as plain values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Devstral Proxy",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "chat", "description": "OpenAI's API."},
            {"name": "probes", "description": "For balancers and supervisors; never guarded."},
            {"name": "operation", "description": "For who runs it."},
        ],
        "paths": {
            **{path: {"post": with_curl_samples(path, methods["post"])} for path, methods in _asking().items()},
            "/v1/models": {"get": _models()},
            "/health": {"get": _health()},
            **{path: {"get": _live(path)} for path in live},
            **{path: {"get": _ready(path)} for path in ready},
            "/metrics": {"get": _metrics()},
            "/version": {"get": _open("version", "Name and version", "Version")},
            "/openapi.json": {"get": _open("openapi", "This document", "Document")},
            "/": {"get": _open("index", "Where the rest is", "Index")},
        },
        "components": {
            "schemas": {**request_schemas(), **answer_schemas(), **messages_schemas(), **responses_schemas()},
            "responses": {**error_responses(), **messages_responses()},
            "headers": {**header_components(), **messages_headers()},
            "parameters": _parameters(),
            "securitySchemes": _security_schemes(),
        },
    }


# --- operations


def _asking() -> Mapping[str, Json]:
    """Return the routes that ask the model, and count what it would be asked."""
    parameters = [_parameter(name) for name in _parameters()]
    return {
        "/v1/chat/completions": {"post": _chat()},
        **messages_operations(parameters, (*_GUARD, {"apiKey": []})),
        "/v1/responses": {"post": responses_operation(parameters, _GUARD)},
    }


def _chat() -> Json:
    statuses = (*EVERYWHERE, *GUARDED, "404", "413", "415", "429", "502", "504")
    rejected = {"$ref": "#/components/responses/UpstreamRejected"}
    return {
        "operationId": "createChatCompletion",
        "summary": "Chat",
        "description": (
            "The next message of a conversation, whole or as a stream of events. Where a key is demanded, add "
            '`-H "Authorization: Bearer $KEY"` to the examples.'
        ),
        "tags": ["chat"],
        "security": list(_GUARD),
        "parameters": [_parameter(name) for name in _parameters()],
        "requestBody": {
            "required": True,
            "description": "JSON in UTF-8; no key twice, and not compressed.",
            "content": {"application/json": {"schema": ref("ChatRequest"), "examples": request_examples()}},
        },
        "responses": {
            "200": {
                "description": "The answer. A stream that fails ends in an error event and `[DONE]`.",
                "headers": headers_of(*CHAT_HEADERS),
                "content": {
                    "application/json": {"schema": ref("ChatCompletion"), "examples": answer_examples()},
                    "text/event-stream": {"schema": ref("StreamEvent"), "examples": stream_example()},
                },
            },
            **errors_of(*statuses),
            "4XX": rejected,
            "5XX": rejected,
        },
    }


def _models() -> Json:
    rejected = {"$ref": "#/components/responses/UpstreamRejected"}
    return _page(
        "listModels",
        "The models",
        "chat",
        {
            "200": _answer("The model servers' lists, as one.", "ModelList", "x-proxy-attempts"),
            **errors_of(*EVERYWHERE, *GUARDED, "404", "429", "502", "504"),
            "4XX": rejected,
            "5XX": rejected,
        },
        parameters=[_parameter(name) for name in _OF_ANY_UPSTREAM_REQUEST],
        security=list(_GUARD),
    )


def _health() -> Json:
    return _page(
        "health",
        "What the proxy knows",
        "operation",
        {"200": _answer("Also while no model server can be reached.", "Health"), **errors_of(*EVERYWHERE, *GUARDED)},
        security=list(_GUARD),
    )


def _metrics() -> Json:
    text = {"description": "Prometheus' text format.", "headers": headers_of()}
    return _page(
        "metrics",
        "Numbers, summed over workers",
        "operation",
        {
            "200": {**text, "content": {"text/plain": {"schema": {"type": "string"}}}},
            **errors_of(*EVERYWHERE, *GUARDED),
        },
        security=list(_GUARD),
    )


def _live(path: str) -> Json:
    responses = {"200": _answer("It does.", "Live"), **errors_of(*EVERYWHERE)}
    return _page(_operation_id("live", path), "Whether the process runs", "probes", responses)


def _ready(path: str) -> Json:
    responses = {
        "200": _answer("It is.", "Ready"),
        "503": _answer("It is not.", "Ready"),
        **errors_of(*EVERYWHERE),
    }
    return _page(_operation_id("ready", path), "Whether it is ready for requests", "probes", responses)


def _open(name: str, summary: str, schema: str) -> Json:
    """Return the operation of a page for anybody."""
    return _page(name, summary, "operation", {"200": _answer(f"{summary}.", schema), **errors_of(*EVERYWHERE)})


def _page(name: str, summary: str, tag: str, responses: Json, **more: Any) -> Json:
    parameters = {"parameters": [_parameter("x-request-id")]}
    return {"operationId": name, "summary": summary, "tags": [tag], **parameters, **more, "responses": responses}


def _answer(about: str, schema: str, *headers: str) -> Json:
    content = {"application/json": {"schema": ref(schema)}}
    return {"description": about, "headers": headers_of(*headers), "content": content}


def _operation_id(name: str, path: str) -> str:
    """Return an id that no other path has: `live_livez`."""
    return f"{name}{path.replace('/', '_')}"


# --- what every request may say


def _parameter(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


#: Headers that mean something wherever a model server is asked.
_OF_ANY_UPSTREAM_REQUEST: Final = (
    *("x-request-id", "traceparent", "tracestate"),
    *("x-proxy-timeout", "x-proxy-first-byte-timeout", "x-proxy-between-bytes-timeout"),
)


def _parameters() -> Json:
    return {
        "x-request-id": _header(
            "x-request-id",
            "A name for the request, of up to 128 letters, digits, `.`, `_` and `-`; another is replaced.",
            {"type": "string"},
        ),
        "traceparent": _header(
            "traceparent",
            "W3C trace context: model servers are asked as a part of that trace. One that is none is ignored.",
            {"type": "string"},
        ),
        "tracestate": _header(
            "tracestate", "What goes with `traceparent`, passed on up to 512 characters.", {"type": "string"}
        ),
        "x-proxy-timeout": _seconds("x-proxy-timeout", "The longest that the whole answer may take."),
        "x-proxy-first-byte-timeout": _seconds(
            "x-proxy-first-byte-timeout", "The longest wait for the answer's beginning."
        ),
        "x-proxy-between-bytes-timeout": _seconds(
            "x-proxy-between-bytes-timeout", "The longest silence inside the answer."
        ),
        "x-proxy-priority": _header(
            "x-proxy-priority", "`batch` waits behind all others.", {"enum": ["interactive", "batch"]}
        ),
        "x-proxy-cache": _header(
            "x-proxy-cache",
            "`use` lets the answer come from the cache, `bypass` does not; read only where there is one.",
            {"enum": ["use", "bypass"], OTHERWISE: DEPENDS},
        ),
        "Cache-Control": _header(
            "Cache-Control",
            "`no-store` keeps away from the cache, `no-cache` has the answer made anew and kept.",
            {"type": "string"},
        ),
        "User-Agent": _header(
            "User-Agent",
            "Mistral's own clients and @ai-sdk/mistral, which cannot put calls together, get each call in one piece.",
            {"type": "string"},
        ),
    }


def _seconds(name: str, about: str) -> Json:
    schema = {"type": "string", "pattern": r"^(?!0+(\.0+)?$)[0-9]{1,9}(\.[0-9]{1,9})?$"}
    return _header(name, f"{about} In seconds, at most `longest_timeout_s`.", {**schema, "examples": ["30"]})


def _header(name: str, about: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "description": about, "schema": schema}


def _security_schemes() -> Json:
    # No scheme of type openIdConnect: it would need the address of the operator's issuer, which is a setting.
    return {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": (
                "An API key, or a JSON Web Token from an OpenID Connect or OAuth 2 issuer that the operator names in "
                "`issuers`. With `auth=open` none is asked for."
            ),
        },
        "apiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "x-api-key",
            "description": "The same key, where Anthropic's clients put it.",
        },
    }
