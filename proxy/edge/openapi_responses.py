"""
What POST /v1/responses takes and answers, for the OpenAPI document.

As in openapi_request.py, a key `x-otherwise` says what becomes of a value outside a schema.
"""

from collections.abc import Sequence
from typing import Any, Final

from proxy.edge.openapi_errors import CHAT_HEADERS, EVERYWHERE, GUARDED, errors_of, headers_of
from proxy.edge.openapi_request import DEPENDS, MENDED, OTHERWISE, UPSTREAM, ref
from proxy.fronts.responses_asked import NEEDS_A_STORE
from proxy.fronts.responses_rules import BUILT_IN_ITEMS

Json = dict[str, Any]

_TEXT_PARTS: Final = ("input_text", "output_text", "text")
#: Tools and items that have schemas of their own; others of a known type are left out.
_OWN_TOOLS: Final = ("function", "custom", "namespace")


def responses_operation(parameters: Sequence[Json], security: Sequence[Json]) -> Json:
    """Return the operation; the rest of it is a chat's."""
    statuses = (*EVERYWHERE, *GUARDED, "404", "413", "415", "429", "502", "504")
    rejected = {"$ref": "#/components/responses/UpstreamRejected"}
    return {
        "operationId": "createResponse",
        "summary": "Responses API",
        "description": (
            "OpenAI's Responses API, by way of a chat. Nothing is kept: `input` holds the whole conversation, `store` "
            "changes nothing, and there is no answer to be asked for by its id."
        ),
        "tags": ["chat"],
        "security": list(security),
        "parameters": list(parameters),
        "requestBody": {
            "required": True,
            "description": "JSON in UTF-8; no key twice, and not compressed.",
            "content": {"application/json": {"schema": ref("ResponsesRequest"), "examples": _examples()}},
        },
        "responses": {
            "200": {
                "description": "The answer. A stream that fails ends in `response.failed`.",
                "headers": headers_of(*CHAT_HEADERS),
                "content": {
                    "application/json": {"schema": ref("ResponsesAnswer")},
                    "text/event-stream": {"schema": ref("ResponsesEvent")},
                },
            },
            **errors_of(*statuses),
            "4XX": rejected,
            "5XX": rejected,
        },
    }


def _examples() -> Json:
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    call = {"type": "function_call", "call_id": "Sf7Ee8N2o", "name": "get_weather", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "Sf7Ee8N2o", "output": "18 °C, sunny"}
    question = {"role": "user", "content": "What is the weather in Paris?"}
    offer = {"model": "devstral", "tools": [tool]}
    history = [question, call, result]
    return {
        "plain": {"summary": "A question", "value": {"model": "devstral", "input": "Hi"}},
        "tool": {"summary": "With a tool", "value": {**offer, "input": [question]}},
        "result": {
            "summary": "With the result of a call, as a stream",
            "value": {**offer, "input": history, "stream": True},
        },
    }


def responses_schemas() -> Json:
    """Return the schemas, by name."""
    return {
        "ResponsesRequest": _request(),
        **_items(),
        **_said(),
        **_tools(),
        "ResponsesAnswer": _answer(),
        "ResponsesEvent": _event(),
    }


# --- the request


def _request() -> Json:
    return {
        "description": "Members that neither this API nor vLLM's sampling knows are left out.",
        "type": "object",
        "required": ["input"],
        "properties": {
            "model": {"type": ["string", "null"], "examples": ["devstral"]},
            "input": {
                "description": "Text, or the conversation; something of it must be left for a chat.",
                "anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": ref("ResponsesItem")}],
            },
            "instructions": {"description": "Go before all else.", "type": ["string", "null"]},
            "stream": {
                "description": "Whether the answer comes as server-sent events.",
                "anyOf": [{"type": ["boolean", "null"]}, {"enum": [0, 1]}, {"enum": ["true", "false", "0", "1"]}],
                "default": False,
            },
            "tools": {"type": ["array", "null"], "items": ref("ResponsesTool")},
            "tool_choice": ref("ResponsesToolChoice"),
            "text": _text(),
            "reasoning": {
                "description": "How much the model thinks; with `summary` its thoughts come as summaries.",
                "type": ["object", "null"],
                "properties": {"effort": {"examples": ["high"]}, "summary": {"examples": ["auto"]}},
            },
            "max_output_tokens": _passed("integer", "The most tokens of the answer."),
            "temperature": _passed("number", "0 is greedy.", minimum=0, maximum=2),
            "top_p": _passed("number", "The probability mass to draw from.", minimum=0, maximum=1),
            "top_logprobs": _passed("integer", "How many alternatives come with each token.", minimum=0, maximum=20),
            "parallel_tool_calls": _passed("boolean", "Whether one turn may hold several calls."),
            "seed": _passed("integer", "The seed of the draw; of vLLM, as others of its parameters."),
            "user": _passed("string", "Who asks; `balance=session` keeps them on one replica."),
            "include": {
                "description": "`message.output_text.logprobs` asks for probabilities; the rest is not made here.",
                "type": ["array", "null"],
                "items": {"type": "string"},
                OTHERWISE: MENDED,
            },
            "store": {"description": "Nothing is kept, whatever it says.", "type": "boolean", OTHERWISE: MENDED},
            "truncation": {"description": "Nothing is cut.", "enum": ["disabled", None], OTHERWISE: MENDED},
            **{name: {"enum": [None, False, ""]} for name in NEEDS_A_STORE},
        },
        "additionalProperties": True,
    }


def _passed(kind: str, about: str, **more: Any) -> Json:
    return {"description": about, "type": [kind, "null"], **more, OTHERWISE: UPSTREAM}


def _text() -> Json:
    return {
        "description": "The form of the answer.",
        "type": ["object", "null"],
        "properties": {
            "format": {
                "type": ["object", "null"],
                "required": ["type"],
                "properties": {
                    "type": {"enum": ["text", "json_object", "json_schema"]},
                    "name": {"type": "string", OTHERWISE: UPSTREAM},
                    "schema": {"type": "object", OTHERWISE: UPSTREAM},
                },
            }
        },
    }


def _object(about: str, required: Sequence[str], properties: Json, **more: Any) -> Json:
    return {"description": about, "type": "object", "required": list(required), "properties": properties, **more}


def _items() -> Json:
    string = {"type": "string"}
    of_call = {"call_id": string, "name": string}
    output = {"output": ref("ResponsesContent")}
    return {
        "ResponsesItem": {
            "anyOf": [
                ref("ResponsesMessage"),
                _object("Thoughts; encrypted ones are left out.", ["type"], _typed("reasoning")),
                _object("A call.", ["type", *of_call], _typed("function_call", **of_call)),
                _object("A call.", ["type", *of_call, "input"], _typed("custom_tool_call", **of_call, input=string)),
                _object(
                    "A command that the client ran.",
                    ["type", "call_id", "action"],
                    _typed("local_shell_call", call_id=string, action={"type": "object"}),
                ),
                _object(
                    "What a call came to.",
                    ["type", "call_id", "output"],
                    {
                        "type": {
                            "enum": ["function_call_output", "custom_tool_call_output", "local_shell_call_output"]
                        },
                        "call_id": string,
                        **output,
                    },
                ),
                _object(
                    "The same, with the call's id as its own.",
                    ["type", "id", "output"],
                    _typed("local_shell_call_output", id=string, call_id=False, **output),
                ),
                _object(
                    "More tools.",
                    ["type"],
                    _typed("additional_tools", tools={"type": ["array", "null"], "items": ref("ResponsesTool")}),
                ),
                _object(
                    "What OpenAI's own tools leave; it is left out.",
                    ["type"],
                    {"type": {"enum": sorted(BUILT_IN_ITEMS)}},
                ),
            ]
        },
    }


def _said() -> Json:
    string = {"type": "string"}
    return {
        "ResponsesMessage": _object(
            "What somebody said; `type` may be missing.",
            ["role", "content"],
            {
                "type": {"enum": ["message", None]},
                "role": {"enum": ["user", "assistant", "system", "developer"]},
                "content": ref("ResponsesContent"),
            },
        ),
        "ResponsesContent": {
            "anyOf": [
                string,
                {
                    "type": "array",
                    "items": {
                        "anyOf": [
                            _object("Text.", ["type", "text"], {"type": {"enum": list(_TEXT_PARTS)}, "text": string}),
                            _object(
                                "A refusal is text; an image or a file is what it is in a chat.",
                                ["type"],
                                {"type": {"type": "string", "not": {"enum": list(_TEXT_PARTS)}}},
                                examples=[{"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}],
                            ),
                        ]
                    },
                },
            ]
        },
    }


def _typed(kind: str, **properties: Any) -> Json:
    return {"type": {"const": kind}, **properties}


def _tools() -> Json:
    string = {"type": "string"}
    own = _object(
        "A function, or a custom tool with free text as its input.",
        ["type", "name"],
        {"type": {"enum": ["function", "custom"]}, "name": string},
    )
    inner = {
        "type": ["array", "null"],
        "items": _object("A tool.", ["type", "name"], {"type": string, "name": string}),
    }
    return {
        "ResponsesTool": {
            "anyOf": [
                own,
                _object("Tools under one name.", ["type", "name"], _typed("namespace", name=string, tools=inner)),
                _object(
                    "`local_shell` is a function here; tools that OpenAI runs are left out.",
                    ["type"],
                    {"type": {"type": "string", "not": {"enum": list(_OWN_TOOLS)}}},
                ),
            ]
        },
        "ResponsesToolChoice": {
            "description": "Which tool is called; without tools, and for one that is not offered here, it is left out.",
            "anyOf": [
                {"enum": ["none", "auto", "required", None]},
                _object(
                    "The one tool to call.",
                    ["type", "name"],
                    {"type": {"enum": ["function", "custom"]}, "name": string},
                ),
                _object(
                    "Only these of the tools are offered.",
                    ["type", "mode", "tools"],
                    _typed("allowed_tools", mode={"enum": ["auto", "required"]}, tools={"type": "array"}),
                ),
            ],
            OTHERWISE: DEPENDS,
        },
    }


# --- the answer


def _answer() -> Json:
    number = {"type": "integer", "minimum": 0}
    usage = _object(
        "What it cost.",
        ["input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details", "total_tokens"],
        {"input_tokens": number, "output_tokens": number, "total_tokens": number},
    )
    return _object(
        "A whole answer; what the request said is repeated in it.",
        ["id", "object", "created_at", "status", "model", "output", "error", "incomplete_details", "usage"],
        {
            "id": {"type": "string", "pattern": "^resp_"},
            "object": {"const": "response"},
            "created_at": {"description": "Seconds since 1970.", "type": "integer"},
            "status": {"enum": ["completed", "incomplete", "failed", "in_progress"]},
            "model": {"type": "string"},
            "output": {
                "type": "array",
                "items": _object("A message, thoughts, or a call.", ["id", "type"], {"id": {"type": "string"}}),
            },
            "error": {"type": ["object", "null"], "required": ["code", "message"]},
            "incomplete_details": {
                "type": ["object", "null"],
                "properties": {"reason": {"enum": ["max_output_tokens", "content_filter"]}},
            },
            "usage": {"anyOf": [usage, {"type": "null"}]},
            "store": {"const": False},
        },
    )


def _event() -> Json:
    event = {"type": "object", "required": ["type", "sequence_number"]}
    return _object(
        "One event; the last is `response.completed`, `response.incomplete` or `response.failed`.",
        ["event", "data"],
        {
            "event": {"type": "string", "pattern": r"^response\."},
            "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": event},
        },
    )
