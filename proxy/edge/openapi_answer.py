"""What a client gets, as JSON Schema (draft 2020-12): whole answers, events of a stream, errors, and the own pages."""

from typing import Any

from proxy.edge.openapi_request import ref

Json = dict[str, Any]

_FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")


def answer_schemas() -> Json:
    """Return the schemas of all answers, by name."""
    return {**_completion(), **_chunk(), **_shared(), **_stream(), **_error(), **_pages()}


def _object(about: str, required: tuple[str, ...], fields: Json, **more: Any) -> Json:
    """Return an object's schema; fields that it does not name ride along."""
    return {"description": about, "type": "object", "required": list(required), "properties": fields, **more}


def _completion() -> Json:
    return {
        "ChatCompletion": _object(
            "A whole answer.",
            ("id", "object", "created", "model", "choices"),
            {
                "id": {"type": "string"},
                "object": {"const": "chat.completion"},
                "created": {"description": "Seconds since 1970.", "type": "integer"},
                "model": {"type": "string"},
                "choices": {"type": "array", "minItems": 1, "items": ref("Choice")},
                "usage": {"anyOf": [ref("Usage"), {"type": "null"}]},
            },
        ),
        "Choice": _object(
            "One answer of `n`.",
            ("index", "message", "finish_reason"),
            {
                "index": {"type": "integer", "minimum": 0},
                "message": ref("AnswerMessage"),
                "finish_reason": {"enum": list(_FINISH_REASONS)},
                "logprobs": {"type": ["object", "null"]},
            },
        ),
        "AnswerMessage": _object(
            "What the model said.",
            ("role", "content"),
            {
                "role": {"const": "assistant"},
                "content": {"description": "Null beside calls.", "type": ["string", "null"]},
                "tool_calls": {"type": "array", "minItems": 1, "items": ref("AnswerCall")},
                **_thoughts(),
            },
        ),
        "AnswerCall": {
            "description": "A call; `custom` where the tool was declared so.",
            "type": "object",
            "required": ["id", "type"],
            "oneOf": [{"required": ["function"]}, {"required": ["custom"]}],
            "properties": {
                "id": {"type": "string", "minLength": 1},
                "type": {"enum": ["function", "custom"]},
                "function": _object(
                    "`arguments` is JSON text.",
                    ("name", "arguments"),
                    {"name": {"type": "string"}, "arguments": {"type": "string"}},
                ),
                "custom": _object(
                    "`input` is free text.",
                    ("name", "input"),
                    {"name": {"type": "string"}, "input": {"type": "string"}},
                ),
            },
        },
    }


def _chunk() -> Json:
    return {
        "ChatCompletionChunk": _object(
            "One event of a stream; the first four fields are the same in all of them.",
            ("id", "object", "created", "model", "choices"),
            {
                "id": {"type": "string"},
                "object": {"const": "chat.completion.chunk"},
                "created": {"description": "Seconds since 1970.", "type": "integer"},
                "model": {"type": "string"},
                "choices": {"description": "Empty beside `usage`.", "type": "array", "items": ref("ChunkChoice")},
                "usage": {"anyOf": [ref("Usage"), {"type": "null"}]},
            },
        ),
        "ChunkChoice": _object(
            "What one of `n` answers goes on with.",
            ("index", "delta", "finish_reason"),
            {
                "index": {"type": "integer", "minimum": 0},
                "delta": ref("Delta"),
                "finish_reason": {"description": "Set in the last one.", "enum": [*_FINISH_REASONS, None]},
                "logprobs": {"type": ["object", "null"]},
            },
        ),
        "Delta": _object(
            "A piece of the message; `role` is in the first.",
            (),
            {
                "role": {"const": "assistant"},
                "content": {"type": ["string", "null"]},
                "tool_calls": {"type": "array", "minItems": 1, "items": ref("CallDelta")},
                **_thoughts(),
            },
        ),
        "CallDelta": _object(
            "A piece of a call: `id` and `name` come once, `arguments` are put together.",
            ("index",),
            {
                "index": {"description": "Which call.", "type": "integer", "minimum": 0},
                "id": {"type": "string", "minLength": 1},
                "type": {"enum": ["function", "custom"]},
                "function": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
                },
                "custom": {"type": "object"},
            },
        ),
    }


def _thoughts() -> Json:
    about = "The model's thoughts, under the names that `reasoning_field` gives them."
    return {
        "reasoning": {"description": about, "type": ["string", "null"]},
        "reasoning_content": {"description": about, "type": ["string", "null"]},
        "function_call": {"description": "Only for a request with `functions`.", "type": ["object", "null"]},
        "refusal": {"type": ["string", "null"]},
    }


def _shared() -> Json:
    count = {"type": "integer", "minimum": 0}
    return {
        "Usage": _object(
            "Tokens.",
            ("prompt_tokens", "completion_tokens", "total_tokens"),
            {"prompt_tokens": count, "completion_tokens": count, "total_tokens": count},
        )
    }


def _stream() -> Json:
    # OpenAPI 3.2 describes an event as this object (its section on server-sent events); 3.1 has no words for it.
    return {
        "StreamEvent": _object(
            "One event; its data is a chunk, an error in place of the rest, or `[DONE]`, which is last.",
            ("data",),
            {
                "data": {
                    "type": "string",
                    "anyOf": [
                        {"const": "[DONE]"},
                        {
                            "contentMediaType": "application/json",
                            "contentSchema": {"anyOf": [ref("ChatCompletionChunk"), ref("Error")]},
                        },
                    ],
                },
                "event": {"const": "message"},
            },
        )
    }


def _error() -> Json:
    return {
        "Error": _object(
            "Every error, of the proxy or of the model server.",
            ("error",),
            {
                "error": _object(
                    "What is wrong.",
                    ("message", "type", "param", "code"),
                    {
                        "message": {"type": "string"},
                        "type": {"description": "Who is at fault, in OpenAI's words.", "type": "string"},
                        "param": {"description": "The JSON path or the header.", "type": ["string", "null"]},
                        "code": {"type": ["string", "integer", "null"]},
                    },
                    additionalProperties=False,
                )
            },
            additionalProperties=False,
        )
    }


def _pages() -> Json:
    text = {"type": "string"}
    count = {"type": "integer", "minimum": 0}
    replica = {"name": text, "sight": text, "breaker": text, "profile": text, "in_flight": count}
    return {
        "ModelList": _object(
            "The model servers' own list.",
            ("object", "data"),
            {
                "object": {"const": "list"},
                "data": {"type": "array", "items": _object("A model.", ("id",), {"id": text})},
            },
        ),
        "Live": _object("The process runs.", ("status",), {"status": {"const": "ok"}}),
        "Ready": _object(
            "Whether requests are taken.",
            ("status",),
            {"status": {"enum": ["ok", "no_upstream", "draining"]}},
        ),
        "Health": _object(
            "What the proxy knows of itself and of the model servers.",
            ("status", "version", "in_flight", "queued", "replicas"),
            {
                "status": {"enum": ["ok", "no_upstream", "draining"]},
                "version": text,
                "in_flight": count,
                "queued": count,
                "replicas": {"type": "array", "items": _object("A model server.", tuple(replica), replica)},
            },
        ),
        "Version": _object("Name and version.", ("name", "version"), {"name": text, "version": text}),
        "Index": _object(
            "Name, version, and where the rest is.",
            ("name", "version", "links"),
            {"name": text, "version": text, "links": {"type": "object", "additionalProperties": text}},
        ),
        "Document": _object("An OpenAPI document.", ("openapi", "info", "paths"), {"openapi": text}),
    }
