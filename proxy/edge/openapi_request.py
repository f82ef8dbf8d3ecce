"""
What POST /v1/chat/completions takes, as JSON Schema (draft 2020-12).

The schema says what the default profile takes. A key `x-otherwise` says what becomes of a value outside it: `upstream`
is passed on for the model server to judge, `mended` is taken and repaired, `depends` is explained by the description.
Without that key it is a 400.
"""

from typing import Any

Json = dict[str, Any]

#: The key of the document, and its values; see the module.
OTHERWISE = "x-otherwise"
UPSTREAM = "upstream"
MENDED = "mended"
DEPENDS = "depends"

#: What an upstream sees as text, whatever the part is called (translate/content.py).
_TEXT_PARTS = ("text", "input_text", "output_text")
#: What `tool_choice` may say (translate/tool_choice.py).
_WORDS = ("none", "auto", "required", "any")


def ref(name: str) -> Json:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def request_schemas() -> Json:
    """Return the schemas of a chat request, by name; `ChatRequest` is the whole."""
    return {
        "ChatRequest": {
            "description": "A chat request of OpenAI's, with vLLM's own parameters; unknown ones are passed on.",
            "type": "object",
            "required": ["messages"],
            "properties": {**_of_the_proxy(), **_sampling(), **_of_vllm(), **_legacy()},
            "additionalProperties": True,
        },
        **_messages(),
        **_parts(),
        **_tools(),
        **_choices(),
        "ResponseFormat": _response_format(),
    }


def _of_the_proxy() -> Json:
    """What the proxy reads itself."""
    return {
        "model": {
            "description": "The model's name; without one, the server's only model.",
            "type": ["string", "null"],
            "examples": ["devstral"],
        },
        "messages": {
            "description": "The conversation, in any order of roles.",
            "type": "array",
            "minItems": 1,
            "items": ref("Message"),
        },
        "stream": {
            "description": "Whether the answer comes as server-sent events.",
            "anyOf": [{"type": ["boolean", "null"]}, {"enum": [0, 1]}, {"enum": ["true", "false", "0", "1"]}],
            "default": False,
        },
        "stream_options": {
            "description": "`include_usage` asks for a last chunk with token counts.",
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
            OTHERWISE: MENDED,
        },
        "tools": {
            "description": "What the model may call.",
            "type": ["array", "null"],
            "items": ref("Tool"),
        },
        "tool_choice": ref("ToolChoice"),
        "parallel_tool_calls": _passed("boolean", "Whether one turn may hold several calls."),
    }


def _sampling() -> Json:
    """OpenAI's parameters, which the model server judges."""
    return {
        "temperature": _passed("number", "0 is greedy.", minimum=0, maximum=2, examples=[0.15]),
        "top_p": _passed("number", "The probability mass to draw from; 0 is left out.", minimum=0, maximum=1),
        "n": _passed("integer", "How many choices.", minimum=1),
        "max_completion_tokens": _passed("integer", "The most tokens of the answer; below 1 is no limit."),
        "max_tokens": _passed("integer", "The older name of `max_completion_tokens`."),
        "stop": {
            "description": "Where the answer ends; up to four texts.",
            "anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}, "maxItems": 4}],
            OTHERWISE: UPSTREAM,
        },
        "presence_penalty": _passed("number", "-2 to 2.", minimum=-2, maximum=2),
        "frequency_penalty": _passed("number", "-2 to 2.", minimum=-2, maximum=2),
        "logit_bias": _passed("object", "A bias for each token id.", additionalProperties={"type": "number"}),
        "logprobs": _passed("boolean", "Whether tokens come with their probabilities."),
        "top_logprobs": _passed("integer", "How many alternatives; left out without `logprobs`.", minimum=0),
        "seed": _passed("integer", "The seed of the draw."),
        "response_format": ref("ResponseFormat"),
        "reasoning_effort": {
            "description": "How much the model thinks; left out for models that do not know it.",
            "anyOf": [{"type": ["string", "null"]}, {"type": "object", "properties": {"effort": {"type": "string"}}}],
            "examples": ["none", "high"],
            OTHERWISE: MENDED,
        },
        "user": _passed("string", "Who asks; `balance=session` keeps them on one replica."),
        "metadata": _passed("object", "Passed on."),
    }


def _of_vllm() -> Json:
    """vLLM's own parameters, as far as agents use them; the others ride along as unknown ones."""
    return {
        "top_k": _passed("integer", "Draw from so many tokens; -1 is all."),
        "min_p": _passed("number", "The least probability, as a share of the best.", minimum=0, maximum=1),
        "repetition_penalty": _passed("number", "Above 1 repeats less.", exclusiveMinimum=0),
        "min_tokens": _passed("integer", "The fewest tokens of the answer.", minimum=0),
        "structured_outputs": _passed("object", "A grammar that the answer follows."),
        "continue_final_message": _passed("boolean", "Go on with the last message, which is the assistant's."),
        "add_generation_prompt": _passed("boolean", "False goes with `continue_final_message`."),
        "chat_template_kwargs": _passed("object", "Left out for a Mistral tokenizer, which has no template."),
        "random_seed": _passed("integer", "Mistral's name of `seed`."),
    }


def _legacy() -> Json:
    return {
        "functions": {
            "description": "OpenAI's older form of `tools`.",
            "type": ["array", "null"],
            "items": ref("FunctionDefinition"),
            "deprecated": True,
            OTHERWISE: MENDED,
        },
        "function_call": {
            "description": "OpenAI's older form of `tool_choice`, which goes first.",
            "anyOf": [{"enum": ["none", "auto", None]}, _named()],
            "deprecated": True,
            OTHERWISE: DEPENDS,
        },
    }


def _passed(kind: str, about: str, **more: Any) -> Json:
    """Return the schema of a parameter that the model server judges; null is the same as absent."""
    return {"description": about, "type": [kind, "null"], **more, OTHERWISE: UPSTREAM}


# --- messages


def _messages() -> Json:
    roles = {"SystemMessage": ("system", "developer"), "UserMessage": ("user",), "AssistantMessage": ("assistant",)}
    roles["ToolMessage"] = ("tool", "tool_results", "function")
    return {
        "Message": {"oneOf": [ref(name) for name in roles]},
        "SystemMessage": _message("Instructions.", roles["SystemMessage"], {"content": ref("Content")}),
        "UserMessage": _message("What the user says.", roles["UserMessage"], {"content": ref("Content")}),
        "AssistantMessage": _message("What the model said.", roles["AssistantMessage"], _assistant_fields()),
        "ToolMessage": _message("The result of a call.", roles["ToolMessage"], _result_fields()),
    }


def _message(about: str, roles: tuple[str, ...], fields: Json) -> Json:
    return {
        "description": about,
        "type": "object",
        "required": ["role"],
        "properties": {"role": {"enum": list(roles)}, **fields},
        "additionalProperties": True,
    }


def _assistant_fields() -> Json:
    reasoning = {"description": "Past thoughts, kept or left out by the profile.", "type": ["string", "null"]}
    return {
        "content": ref("Content"),
        "tool_calls": {
            "description": "Its calls; nothing, in any of its forms, is none.",
            "anyOf": [{"type": "array", "items": ref("ToolCall")}, {"enum": [None, False, 0, "", {}]}],
        },
        "reasoning": {**reasoning, OTHERWISE: MENDED},
        "reasoning_content": {**reasoning, OTHERWISE: MENDED},
        "refusal": {"description": "Becomes text.", "type": ["string", "null"], OTHERWISE: MENDED},
        "prefix": {
            "description": "True on the last message: go on from here.",
            "type": ["boolean", "null"],
            OTHERWISE: MENDED,
        },
    }


def _result_fields() -> Json:
    return {
        "tool_call_id": {
            "description": "The id of the call; without one, results are paired by name and order.",
            "type": ["string", "integer", "null"],
            OTHERWISE: MENDED,
        },
        "name": {"description": "The function's name.", "type": ["string", "null"], OTHERWISE: MENDED},
        "content": {"description": "Text, parts, or any JSON value, which is sent as its text."},
    }


def _parts() -> Json:
    return {
        "Content": {
            "description": "Text, or parts; null is no text.",
            "anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": ref("Part")}],
        },
        "Part": {"anyOf": [{"type": "string"}, ref("TextPart"), ref("RefusalPart"), ref("OtherPart")]},
        "TextPart": {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": list(_TEXT_PARTS)}, "text": {"type": ["string", "null"]}},
            "additionalProperties": True,
        },
        "RefusalPart": {
            "description": "Becomes text.",
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"const": "refusal"}, "refusal": {"type": ["string", "null"]}},
            "additionalProperties": True,
        },
        "OtherPart": {
            "description": "An image is passed on as `image_url`; what a model cannot read is named in a line of text.",
            "type": "object",
            "properties": {"type": {"not": {"enum": [*_TEXT_PARTS, "refusal"]}}},
            "additionalProperties": True,
            "examples": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}],
        },
        "ToolCall": {
            "description": "A call as the model gave it; other forms are mended.",
            "type": "object",
            "properties": {
                "id": {"description": "Any; becomes nine letters or digits, the same in its result."},
                "type": {"description": "`function`."},
                "function": {"description": "`name`, and `arguments` as JSON text."},
            },
            "additionalProperties": True,
            "examples": [
                {"id": "Sf7Ee8N2o", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
            ],
        },
    }


# --- tools


def _tools() -> Json:
    return {
        "Tool": {"anyOf": [ref("FunctionTool"), ref("FlatTool"), ref("OtherTool")]},
        "FunctionTool": {
            "description": "A function; `type` is `function`, also where it is missing.",
            "type": "object",
            "required": ["function"],
            "properties": {"type": {"examples": ["function"]}, "function": ref("FunctionDefinition")},
            "additionalProperties": True,
        },
        "FlatTool": {
            "description": "A function in the form of OpenAI's Responses API.",
            "type": "object",
            "required": ["name"],
            "properties": {"type": {"enum": ["function", None]}, "name": {"type": "string"}, "function": False},
            "additionalProperties": True,
        },
        "OtherTool": {
            "description": "`custom` becomes a function with one text; what OpenAI runs itself is left out.",
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"type": "string", "not": {"const": "function"}}},
            "additionalProperties": True,
            "examples": [{"type": "custom", "custom": {"name": "apply_patch"}}],
        },
        "FunctionDefinition": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {
                    "description": "Up to 64 letters, digits, `_` and `-`; another is renamed, and named back.",
                    "type": "string",
                },
                "description": {"description": "What it does."},
                "parameters": {"description": "A JSON Schema; adapted to draft 7."},
                "strict": {"description": "Kept where the upstream takes it."},
            },
            "additionalProperties": True,
        },
    }


def _named() -> Json:
    return {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}


def _choices() -> Json:
    return {
        "ToolChoice": {
            "description": "Which tool is called; without tools it is left out, whatever it is.",
            "anyOf": [
                {"enum": [*_WORDS, None]},
                ref("NamedChoice"),
                ref("AllowedTools"),
            ],
            OTHERWISE: DEPENDS,
        },
        "NamedChoice": {
            "description": "The one tool to call, which `tools` must hold; the name may also stand at the top.",
            "type": "object",
            "required": ["type"],
            "anyOf": [{"required": [name]} for name in ("function", "custom", "name")],
            "properties": {
                "type": {"enum": ["function", "custom"]},
                "function": _named(),
                "custom": _named(),
                "name": {"type": "string"},
            },
            "additionalProperties": True,
        },
        "AllowedTools": {
            "description": "Only these of the tools are offered.",
            "type": "object",
            "required": ["type"],
            "properties": {
                "type": {"const": "allowed_tools"},
                "allowed_tools": {"type": "object", "properties": {"mode": {"enum": list(_WORDS)}}},
                "mode": {"enum": list(_WORDS)},
            },
            "additionalProperties": True,
        },
    }


def _response_format() -> Json:
    return {
        "description": "The form of the answer.",
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {
            "type": {"enum": ["text", "json_object", "json_schema"]},
            "json_schema": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "schema": {"type": "object"}},
            },
        },
        "additionalProperties": True,
        OTHERWISE: UPSTREAM,
    }
