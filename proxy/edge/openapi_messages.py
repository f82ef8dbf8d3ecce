"""
What POST /v1/messages and /v1/messages/count_tokens take and answer, for the OpenAPI document.

As in openapi_request.py, a key `x-otherwise` says what becomes of a value outside a schema.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from proxy.edge.openapi_errors import CHAT_HEADERS, ERRORS, EVERYWHERE, GUARDED, headers_of
from proxy.edge.openapi_request import OTHERWISE, UPSTREAM, ref
from proxy.errors import ProxyError
from proxy.fronts.messages_answer import SIGNATURE
from proxy.fronts.messages_errors import error_object
from proxy.fronts.numbers import LARGEST

Json = dict[str, Any]

#: Blocks that only messages of that role have.
_OF_A_USER: Final = ("tool_result",)
_OF_AN_ASSISTANT: Final = ("tool_use", "thinking", "redacted_thinking")
#: Blocks with a shape of their own.
_SHAPED: Final = ("image", "document", "search_result", "tool_result")
#: Found before it is known which API a request is of.
_COMMON: Final = ("431",)
_NULLABLE: Final = ("string", "null")
_STOP_REASONS: Final = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal")


def messages_operations(parameters: Sequence[Json], security: Sequence[Json]) -> Json:
    """Return the operations by path; what they do not say is a chat's."""
    return {
        "/v1/messages": {"post": _messages(parameters, security)},
        "/v1/messages/count_tokens": {"post": _count(parameters, security)},
    }


def _messages(parameters: Sequence[Json], security: Sequence[Json]) -> Json:
    content = {
        "application/json": {"schema": ref("MessagesAnswer")},
        "text/event-stream": {"schema": ref("MessagesEvent")},
    }
    about = "The answer. A stream that fails ends in an `error` event, without `message_stop`."
    return _operation(
        "createMessage",
        "Messages API",
        "Anthropic's Messages API, by way of a chat. Server tools, prompt caching and files are not there.",
        ref("MessagesRequest"),
        {"description": about, "headers": headers_of(*CHAT_HEADERS, "request-id"), "content": content},
        parameters=list(parameters),
        security=list(security),
    )


def _count(parameters: Sequence[Json], security: Sequence[Json]) -> Json:
    return _operation(
        "countMessageTokens",
        "How many tokens a message's prompt has",
        "What the model server's tokenizer counts; where it has no `/tokenize`, an estimate that is called one.",
        ref("MessagesCountRequest"),
        {
            "description": "The number.",
            "headers": headers_of("x-proxy-rewrites", "x-proxy-attempts", "x-proxy-token-count", "request-id"),
            "content": {"application/json": {"schema": ref("MessagesCount")}},
        },
        parameters=list(parameters),
        security=list(security),
    )


def _operation(name: str, summary: str, about: str, schema: Json, answer: Json, **more: Any) -> Json:
    statuses = sorted((*EVERYWHERE, *GUARDED, "404", "413", "415", "429", "502", "504"))
    rejected = {"$ref": "#/components/responses/MessagesRejected"}
    return {
        "operationId": name,
        "summary": summary,
        "description": about,
        "tags": ["chat"],
        **more,
        "requestBody": {
            "required": True,
            "description": "JSON in UTF-8; no key twice, and not compressed.",
            "content": {"application/json": {"schema": schema, "examples": _examples()}},
        },
        "responses": {
            "200": answer,
            **{status: {"$ref": f"#/components/responses/{_name_of(status)}"} for status in statuses},
            "4XX": rejected,
            "5XX": rejected,
        },
    }


def _examples() -> Json:
    tool = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
    call = {"type": "tool_use", "id": "Sf7Ee8N2o", "name": "get_weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "Sf7Ee8N2o", "content": "18 °C, sunny"}
    question = {"role": "user", "content": "What is the weather in Paris?"}
    asked = {"model": "devstral", "max_tokens": 1024, "messages": [question]}
    history = [question, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return {
        "plain": {"summary": "A question", "value": asked},
        "call": {"summary": "With a tool, as a stream", "value": {**asked, "tools": [tool], "stream": True}},
        "result": {"summary": "With its result", "value": {**asked, "tools": [tool], "messages": history}},
    }


# --- errors and headers


def messages_responses() -> Json:
    """Return the errors in Anthropic's shape, for `components.responses`."""
    described = {
        _name_of(status): {
            "description": error.about,
            "headers": headers_of(*error.headers, "request-id"),
            "content": {"application/json": {"schema": ref("MessagesError"), "example": _example(int(status), error)}},
        }
        for status, error in ERRORS.items()
        if status not in _COMMON
    }
    other = {"application/json": {"schema": ref("MessagesError")}}
    about = "Another error of the model server: its own status."
    rejected = {"description": about, "headers": headers_of("Retry-After", "request-id"), "content": other}
    return {**described, "MessagesRejected": rejected}


def messages_headers() -> Json:
    """Return the headers that only these answers have, for `components.headers`."""
    return {
        "request-id": {"description": "As `x-request-id`, under Anthropic's name.", "schema": {"type": "string"}},
        "x-proxy-token-count": {
            "description": "Whether a tokenizer has counted.",
            "schema": {"enum": ["exact", "estimate"]},
        },
    }


def _name_of(status: str) -> str:
    name = ERRORS[status].name
    return name if status in _COMMON else f"Messages{name}"


def _example(status: int, error: Any) -> Any:
    failure = ProxyError(msgspec.json.decode(error.example)["error"]["message"])
    failure.status = status
    return msgspec.json.decode(error_object(failure, "req_0123456789abcdef"))


# --- schemas


def messages_schemas() -> Json:
    """Return the schemas, by name."""
    return {
        "MessagesRequest": _request(("messages", "max_tokens"), {"max_tokens": {"type": "integer", **_LIMIT}}),
        "MessagesCountRequest": _request(("messages",), {"max_tokens": {"type": ["integer", "null"], **_LIMIT}}),
        **_turns(),
        "MessagesTool": {"anyOf": [_own_tool(), _server_tool()]},
        "MessagesFormat": _format(),
        "MessagesAnswer": _answer(),
        "MessagesEvent": _event(),
        "MessagesError": _error(),
        "MessagesCount": _object("A number of tokens.", ("input_tokens",), {"input_tokens": _NUMBER}),
    }


_LIMIT: Final = {"description": "The most tokens of the answer.", "minimum": 1, "maximum": LARGEST}
_NUMBER: Final = {"type": "integer", "minimum": 0}


def _object(about: str, required: Sequence[str], properties: Json, **more: Any) -> Json:
    return {"description": about, "type": "object", "required": list(required), "properties": properties, **more}


def _maybe(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _request(required: Sequence[str], limit: Json) -> Json:
    return _object(
        "Members that have no counterpart in a chat are left out.",
        required,
        {
            "model": {"type": list(_NULLABLE), "examples": ["devstral"]},
            "messages": {"type": "array", "minItems": 1, "items": ref("MessagesTurn")},
            **limit,
            "system": _maybe(_content("MessagesSystemBlock")),
            "stream": {"description": "Whether the answer comes as events.", "type": ["boolean", "null"]},
            "tools": {"type": ["array", "null"], "items": ref("MessagesTool")},
            "tool_choice": _maybe(_choice()),
            "temperature": _passed("number", minimum=0, maximum=2),
            "top_p": _passed("number", minimum=0, maximum=1),
            "top_k": _passed("integer"),
            "stop_sequences": {"type": ["array", "null"], "items": {"type": "string"}},
            "metadata": _maybe(_object("`user_id` is `user`.", (), {"user_id": {"type": list(_NULLABLE)}})),
            "thinking": _maybe(
                _object("A high effort, or none.", ("type",), {"type": {"enum": ["enabled", "disabled", "adaptive"]}})
            ),
            "output_config": _maybe(
                _object(
                    "`effort` is `reasoning_effort`, `format` is `response_format`.",
                    (),
                    {"effort": {"type": list(_NULLABLE)}, "format": _maybe(ref("MessagesFormat"))},
                )
            ),
            "output_format": _maybe(ref("MessagesFormat")),
        },
        additionalProperties=True,
    )


def _passed(kind: str, **more: Any) -> Json:
    return {"type": [kind, "null"], **more, OTHERWISE: UPSTREAM}


def _format() -> Json:
    schema = {"type": "object", OTHERWISE: UPSTREAM}
    return _object("The form of the answer.", ("type", "schema"), {"type": {"const": "json_schema"}, "schema": schema})


def _choice() -> Json:
    words = _object("What it may do.", ("type",), {"type": {"enum": ["auto", "any", "none"]}, **_choice_fields()})
    named = _object("The tool that it must call.", ("type", "name"), {"type": {"const": "tool"}, **_choice_fields()})
    named["properties"]["name"] = {"type": "string"}
    return {"anyOf": [words, named]}


def _choice_fields() -> Json:
    return {"name": {"type": list(_NULLABLE)}, "disable_parallel_tool_use": {"type": ["boolean", "null"]}}


def _own_tool() -> Json:
    fields = {"name": {"type": "string"}, "type": {"enum": ["custom", None]}, **_tool_fields()}
    return _object("A function of the client's.", ("name",), fields)


def _server_tool() -> Json:
    kind = {"type": "string", "not": {"const": "custom"}, "examples": ["web_search_20250305"]}
    return _object(
        "A tool that Anthropic defines is left out.",
        ("type",),
        {"type": kind, "name": {"type": list(_NULLABLE)}, **_tool_fields()},
    )


def _tool_fields() -> Json:
    return {
        "description": {"type": list(_NULLABLE)},
        "input_schema": {"description": "A JSON Schema; adapted to draft 7."},
        "strict": {"type": ["boolean", "null"]},
    }


# --- messages and blocks


def _turns() -> Json:
    roles = {"user": "MessagesUserBlock", "assistant": "MessagesAssistantBlock", "system": "MessagesSystemBlock"}
    turns = [
        _object(f"What the {role} says.", ("role", "content"), {"role": {"const": role}, "content": _content(block)})
        for role, block in roles.items()
    ]
    return {
        "MessagesTurn": {"oneOf": turns},
        "MessagesUserBlock": _block("A piece of a user's message.", _OF_AN_ASSISTANT),
        "MessagesAssistantBlock": _block("A piece of an assistant's message.", _OF_A_USER),
        "MessagesSystemBlock": _block("A piece of instructions.", (*_OF_A_USER, *_OF_AN_ASSISTANT)),
        "MessagesInnerBlock": _block(
            "A piece of a result.", (*_OF_A_USER, *_OF_AN_ASSISTANT), "MessagesInnermostBlock"
        ),
        "MessagesInnermostBlock": _block("A piece of a piece.", (*_OF_A_USER, *_OF_AN_ASSISTANT), None),
    }


def _content(block: str) -> Json:
    return {"anyOf": [{"type": "string"}, {"type": "array", "items": ref(block)}]}


def _block(about: str, foreign: Sequence[str], inner: str | None = "MessagesInnerBlock") -> Json:
    """Return a block's schema: not those of another role, and with `inner` blocks inside, or none."""
    kinds = [_other_block(foreign), _image()]
    kinds.append(_document(inner))
    if inner is not None:
        kinds.append(_search_result(inner))
        if "tool_result" not in foreign:
            kinds.append(_tool_result(inner))
    return {"description": about, "anyOf": kinds}


def _fields(**own: Json) -> Json:
    texts = ("text", "thinking", "id", "name", "tool_use_id", "title", "context", "tool_name")
    return {**{name: {"type": list(_NULLABLE)} for name in texts}, "is_error": {"type": ["boolean", "null"]}, **own}


def _other_block(foreign: Sequence[str]) -> Json:
    excluded = sorted({*_SHAPED, *foreign})
    kind = {"type": "string", "not": {"enum": excluded}, "examples": ["text", "tool_use"]}
    return _object(
        "Text, a call, a thought; what cannot be read is a line that names it.", ("type",), _fields(type=kind)
    )


def _image() -> Json:
    return _object(
        "An image.", ("type", "source"), _fields(type={"const": "image"}, source=_source({"type": "string"}))
    )


def _document(inner: str | None) -> Json:
    read = {"enum": ["text", "content"]}
    sources = [_source({"type": "string", "not": read})]
    if inner is not None:
        sources.append(_source(read, content=_maybe(_content(inner))))
    return _object(
        "Its text, or a line that names it.",
        ("type", "source"),
        _fields(type={"const": "document"}, source={"anyOf": sources}),
    )


def _source(kind: Json, **own: Json) -> Json:
    texts = {name: {"type": list(_NULLABLE)} for name in ("media_type", "data", "url")}
    return _object("What it is made of.", ("type",), {"type": kind, **texts, **own})


def _search_result(inner: str) -> Json:
    kind = {"const": "search_result"}
    own = _fields(type=kind, source={"type": "string"}, content=_maybe(_content(inner)))
    return _object("Title, source and text.", ("type",), own)


def _tool_result(inner: str) -> Json:
    own = _fields(type={"const": "tool_result"}, tool_use_id={"type": "string"}, content=_maybe(_content(inner)))
    return _object("The result of a call.", ("type", "tool_use_id"), own)


# --- answers


def _answer() -> Json:
    return _object(
        "A whole answer.",
        ("id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"),
        {
            "id": {"type": "string", "pattern": "^msg_"},
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": {"type": "string"},
            "content": {"type": "array", "items": {"oneOf": _answer_blocks()}},
            "stop_reason": {"enum": list(_STOP_REASONS)},
            "stop_sequence": {"type": list(_NULLABLE)},
            "usage": _usage(),
        },
        additionalProperties=False,
    )


def _answer_blocks() -> list[Json]:
    text = {"type": "string"}
    signed = {"thinking": text, "signature": {"const": SIGNATURE}}
    call = {"id": text, "name": text, "input": {"type": "object"}}
    return [
        _object("What it thought.", ("type", *signed), {"type": {"const": "thinking"}, **signed}),
        _object("What it said.", ("type", "text"), {"type": {"const": "text"}, "text": text}),
        _object("What it calls.", ("type", *call), {"type": {"const": "tool_use"}, **call}),
    ]


def _usage() -> Json:
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    return _object(
        "Tokens; what came from the prefix cache is not among `input_tokens`.", names, dict.fromkeys(names, _NUMBER)
    )


def _event() -> Json:
    names = ("message_start", "message_delta", "message_stop", "error")
    blocks = tuple(f"content_block_{part}" for part in ("start", "delta", "stop"))
    data = {"type": "string", "contentMediaType": "application/json"}
    return _object(
        "One event; its data has its name as `type`. `message_stop` or `error` is last.",
        ("event", "data"),
        {"event": {"enum": [*names, *blocks]}, "data": data},
    )


def _error() -> Json:
    said = _object("What is wrong.", ("type", "message"), {"type": {"type": "string"}, "message": {"type": "string"}})
    return _object(
        "Every error, of the proxy or of the model server.",
        ("type", "error", "request_id"),
        {"type": {"const": "error"}, "error": said, "request_id": {"type": list(_NULLABLE)}},
        additionalProperties=False,
    )
