"""What the demo upstream refuses, with the exact text of the software that is imitated, and what it takes."""

import math
from typing import Any

from tests.demo.requests import RESULT, TOOLS, USER, assistant, call, chat, tool

LONG_ID = "call_abc123DEF456ghi789JKL0"
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def parts(*contents: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(contents)}


def result(**changes: Any) -> dict[str, Any]:
    return RESULT | changes


def pydantic(model: str, location: str, message: str, kind: str, shown: str, of: str) -> str:
    return (
        f"1 validation error for {model}\n{location}\n  {message} [type={kind}, input_value={shown}, input_type={of}]\n"
        f"    For further information visit https://errors.pydantic.dev/2.14/v/{kind}"
    )


def extra(model: str, location: str, shown: str, of: str) -> str:
    return pydantic(model, location, "Extra inputs are not permitted", "extra_forbidden", shown, of)


def field(kind: str, location: str, message: str, shown: str) -> str:
    return f"1 validation error:\n  {{'type': '{kind}', 'loc': '{location}', 'msg': '{message}', 'input': '{shown}'}}"


BAD_NAME = (
    "Function name was {} but must be a-z, A-Z, 0-9, or contain underscores and dashes, with a maximum length of 64."
)
BAD_ID = "Tool call id was {} but must be a-z, A-Z, 0-9, with a length of 9."
EMPTY_ASSISTANT = "Invalid assistant message: role='assistant' content='' tool_calls=None prefix=False"
ASSISTANT_LAST = (
    "Cannot set `add_generation_prompt` to True when the last message is from the assistant. "
    "Consider using `continue_final_message` instead."
)
NO_CHOICE = 'Only named tools, "none", "auto" or "required" are supported. (parameter=tool_choice)'
NO_EFFORT = "is not supported by Mistral models. Supported values are: ['none', 'high']. (parameter=reasoning_effort)"
EMPTY_TOOLS = (
    "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely. (parameter=tools)"
)
UNNAMED_CHOICE = (
    "Invalid value for `function`: `None` in `tool_choice`! "
    'Correct usage: `{"type": "function", "function": {"name": "my_function"}}` (parameter=tool_choice.function)'
)
NO_TEMPLATE = "chat_template is not supported for Mistral tokenizers. (parameter=chat_template)"
NO_PICTURES = "devstral is not a multimodal model"
CALL = "body.0.ChatCompletionMessageFunctionToolCallParam"
SAID = {"role": "assistant", "content": "Hello."}
SYSTEM = {"role": "system", "content": "Be brief."}
TURN = (USER, assistant(call()), RESULT)

#: what is sent, and the text it earns
REFUSALS: list[tuple[str, Any, str]] = [
    # the body
    (
        "a list for a body",
        [],
        field(
            "model_attributes_type",
            "body",
            "Input should be a valid dictionary or object to extract fields from",
            "<list of 0 items>",
        ),
    ),
    ("no messages", {"model": "devstral"}, field("missing", "body.messages", "Field required", "<dict of 1 items>")),
    ("messages null", {"messages": None}, "'NoneType' object is not iterable"),
    ("messages a text", {"messages": "hi"}, field("list_type", "body.messages", "Input should be a valid list", "hi")),
    ("messages empty", {"messages": []}, "list index out of range"),
    (
        "a message that is a text",
        {"messages": ["hi"]},
        field(
            "dict_type", "body.messages.0.CustomChatCompletionMessageParam", "Input should be a valid dictionary", "hi"
        ),
    ),
    (
        "no role",
        chat({"content": "x"}),
        field(
            "missing", "body.messages.0.CustomChatCompletionMessageParam.role", "Field required", "<dict of 1 items>"
        ),
    ),
    # roles and their order
    ("developer", chat({"role": "developer", "content": "d"}, USER), "Unknown message role: developer"),
    ("function", chat({"role": "function", "name": "f", "content": "d"}, USER), "Unknown message role: function"),
    ("user after tool", chat(*TURN, USER), "Unexpected role 'user' after role 'tool'"),
    ("system after tool", chat(*TURN, SYSTEM, USER), "Unexpected role 'system' after role 'tool'"),
    ("system after assistant", chat(USER, SAID, SYSTEM, USER), "Unexpected role 'system' after role 'assistant'"),
    ("tool after user", chat(USER, RESULT), "Unexpected role 'tool' after role 'user'"),
    ("tool after system", chat(SYSTEM, RESULT), "Unexpected role 'tool' after role 'system'"),
    ("only a result", chat(RESULT), "Conversation must start with a user message or system message"),
    ("assistant last", chat(USER, SAID), ASSISTANT_LAST),
    ("prefix", chat(USER, SAID | {"prefix": True}), ASSISTANT_LAST),
    (
        "assistant last, no prompt added",
        chat(USER, SAID, add_generation_prompt=False),
        "Expected last role User or Tool (or Assistant with prefix or continue_final_message set to True) "
        "for serving but got assistant",
    ),
    (
        "continued and prompted",
        chat(USER, SAID, continue_final_message=True),
        "Cannot set both `add_generation_prompt` and `continue_final_message` to True.",
    ),
    (
        "the user's message continued",
        chat(USER, continue_final_message=True, add_generation_prompt=False),
        "Cannot set `continue_final_message` to True when the last message is not from the assistant.",
    ),
    # content
    (
        "user content null",
        chat({"role": "user", "content": None}),
        field(
            "string_type",
            "body.messages.0.ChatCompletionUserMessageParam.content",
            "Input should be a valid string",
            "None",
        ),
    ),
    (
        "tool content null",
        chat(USER, assistant(call()), result(content=None)),
        field(
            "string_type",
            "body.messages.2.ChatCompletionToolMessageParam.content",
            "Input should be a valid string",
            "None",
        ),
    ),
    (
        "assistant content and calls null",
        chat(USER, {"role": "assistant", "content": None, "tool_calls": None}, USER),
        field(
            "string_type",
            "body.messages.1.ChatCompletionAssistantMessageParam.content",
            "Input should be a valid string",
            "None",
        ),
    ),
    ("user content missing", chat({"role": "user"}), "'content'"),
    ("tool content missing", chat(USER, assistant(call()), {"role": "tool", "tool_call_id": "abcDEF123"}), "'content'"),
    (
        "tool content an object",
        chat(USER, assistant(call()), result(content={"a": 1})),
        pydantic("ValidatorIterator", "0", "Input should be a valid dictionary", "dict_type", "'a'", "str"),
    ),
    ("assistant empty", chat(USER, {"role": "assistant", "content": ""}, USER), EMPTY_ASSISTANT),
    ("assistant without content", chat(USER, {"role": "assistant"}, USER), EMPTY_ASSISTANT),
    ("assistant without calls", chat(USER, assistant(), USER), EMPTY_ASSISTANT),
    ("assistant of empty parts", chat(USER, {"role": "assistant", "content": []}, USER), EMPTY_ASSISTANT),
    # parts
    (
        "part a text",
        chat(parts("a")),
        pydantic(
            "ValidatorIterator",
            "0.ChatCompletionContentPartTextParam",
            "Input should be a valid dictionary",
            "dict_type",
            "'a'",
            "str",
        ),
    ),
    (
        "input_text",
        chat(parts({"type": "input_text", "text": "a"})),
        pydantic(
            "ValidatorIterator",
            "0.ChatCompletionContentPartTextParam.type",
            "Input should be 'text'",
            "literal_error",
            "'input_text'",
            "str",
        ),
    ),
    (
        "refusal",
        chat(USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, USER),
        "'refusal' is not a valid ChunkTypes",
    ),
    ("image", chat(parts(PICTURE)), NO_PICTURES),
    ("image in a result", chat(USER, assistant(call()), result(content=[PICTURE])), NO_PICTURES),
    (
        "image as a text",
        chat(parts({"type": "image_url", "image_url": "data:x"})),
        pydantic(
            "ChatCompletionContentPartImageParam",
            "image_url",
            "Input should be a valid dictionary",
            "dict_type",
            "'data:x'",
            "str",
        ),
    ),
    ("audio", chat(parts({"type": "input_audio", "input_audio": {}})), NO_PICTURES),
    (
        "file",
        chat(parts({"type": "file", "file": {}})),
        "Unsupported chat content part type: 'file'. Supported types: audio_embeds, audio_url, image_embeds, "
        "image_pil, image_url, input_audio, input_image, input_text, output_text, prompt_embeds, refusal, text, "
        "thinking, tool_reference, video_embeds, video_url",
    ),
    (
        "thinking as a list",
        chat(USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": []}]}, USER),
        "sequence item 0: expected str instance, list found",
    ),
    (
        "thinking",
        chat(USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "t"}]}, USER),
        "Think not implemented for tokenizer < V13.",
    ),
    # keys that are not Mistral's
    ("name of a user", chat(USER | {"name": "bob"}), extra("UserMessage", "name", "'bob'", "str")),
    ("name null", chat(USER | {"name": None}), extra("UserMessage", "name", "None", "NoneType")),
    ("name of a system", chat(SYSTEM | {"name": "s"}, USER), extra("SystemMessage", "name", "'s'", "str")),
    (
        "reasoning",
        chat(USER, SAID | {"reasoning_content": "y"}, USER),
        extra("AssistantMessage", "reasoning_content", "'y'", "str"),
    ),
    (
        "key of a result",
        chat(USER, assistant(call()), result(is_error=False)),
        extra("ToolMessage", "is_error", "False", "bool"),
    ),
    (
        "cache_control of a part",
        chat(parts({"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}})),
        extra("TextChunk", "cache_control", "{'type': 'ephemeral'}", "dict"),
    ),
    (
        "a long value is shortened",
        chat(USER | {"metadata": "x" * 60}),
        extra("UserMessage", "metadata", f"'{'x' * 24}...{'x' * 23}'", "str"),
    ),
    ("index of a call", chat(USER, assistant(call(index=0)), RESULT), extra("ToolCall", "index", "0", "int")),
    (
        "parsed_arguments",
        chat(USER, assistant(call(function={"name": "f", "arguments": "{}", "parsed_arguments": None})), RESULT),
        extra("ToolCall", "function.parsed_arguments", "None", "NoneType"),
    ),
    # calls
    (
        "call without id",
        chat(USER, assistant({"type": "function", "function": {"name": "f", "arguments": "{}"}}), RESULT),
        field("missing", f"{CALL}.id", "Field required", "<dict of 2 items>"),
    ),
    (
        "call with id null",
        chat(USER, assistant(call(id=None)), RESULT),
        field("string_type", f"{CALL}.id", "Input should be a valid string", "None"),
    ),
    (
        "call without type",
        chat(USER, assistant({"id": "abcDEF123", "function": {"name": "f", "arguments": "{}"}}), RESULT),
        field("missing", f"{CALL}.type", "Field required", "<dict of 2 items>"),
    ),
    (
        "custom call",
        chat(USER, assistant({"id": "abcDEF123", "type": "custom", "custom": {}}), RESULT),
        "chat completions only support assistant tool_calls of type 'function'. (parameter=tool_calls)",
    ),
    (
        "arguments an object",
        chat(USER, assistant(call(function={"name": "f", "arguments": {"a": 1}})), RESULT),
        field("string_type", f"{CALL}.function", "Input should be a valid string", "<dict of 1 items>"),
    ),
    (
        "arguments missing",
        chat(USER, assistant(call(function={"name": "f"})), RESULT),
        field("missing", f"{CALL}.function", "Field required", "<dict of 1 items>"),
    ),
    ("result without id", chat(USER, assistant(call()), {"role": "tool", "content": "x"}), "'tool_call_id'"),
    # ids and pairs
    ("long id", chat(USER, assistant(call(id=LONG_ID)), result(tool_call_id=LONG_ID)), BAD_ID.format(LONG_ID)),
    ("short id", chat(USER, assistant(call(id="a1")), result(tool_call_id="a1")), BAD_ID.format("a1")),
    (
        "id with a dash",
        chat(USER, assistant(call(id="a-1234567")), result(tool_call_id="a-1234567")),
        BAD_ID.format("a-1234567"),
    ),
    ("id null as a word", chat(USER, assistant(call(id="null")), result(tool_call_id="null")), BAD_ID.format("null")),
    ("result of nothing", chat(USER, SAID, RESULT), "Unexpected tool call id abcDEF123 in tool results"),
    (
        "result of another call",
        chat(USER, assistant(call()), result(tool_call_id="zzzzzzzz9")),
        "Unexpected tool call id zzzzzzzz9 in tool results",
    ),
    ("two results", chat(USER, assistant(call()), RESULT, RESULT), "Duplicate tool call id abcDEF123 in tool results"),
    (
        "two calls of one id",
        chat(USER, assistant(call(), call()), RESULT),
        "Duplicate tool call id abcDEF123 in assistant message",
    ),
    (
        "result missing",
        chat(USER, assistant(call(), call(id="xyzXYZ987")), RESULT, SAID, USER),
        "Not the same number of function calls and responses",
    ),
    (
        "split turn",
        chat(USER, assistant(call()), SAID, RESULT),
        "Not the same number of function calls and responses",
    ),
    (
        "calls in message 0 are not counted",
        chat(assistant(call()), RESULT),
        "Unexpected tool call id abcDEF123 in tool results",
    ),
    # names
    ("name of a tool", chat(tools=[tool({"name": "get.weather"})]), BAD_NAME.format("get.weather")),
    ("name too long", chat(tools=[tool({"name": "a" * 65})]), BAD_NAME.format("a" * 65)),
    (
        "name in the history",
        chat(USER, assistant(call(function={"name": "", "arguments": "{}"})), RESULT),
        BAD_NAME.format(""),
    ),
    ("name of a result", chat(USER, assistant(call()), result(name="a b")), BAD_NAME.format("a b")),
    # tools
    ("tools empty", chat(tools=[]), EMPTY_TOOLS),
    (
        "tool of another type",
        chat(tools=[{"type": "web_search"}]),
        "1 validation error:\n  {'type': 'literal_error', 'loc': 'body.tools.0.type', 'msg': \"Input should be "
        "'function'\", 'input': 'web_search', 'ctx': {'expected': \"'function'\"}}",
    ),
    (
        "flat tool",
        chat(tools=[{"type": "function", "name": "f", "parameters": {}}]),
        field("missing", "body.tools.0.function", "Field required", "<dict of 3 items>"),
    ),
    (
        "parameters a text",
        chat(tools=[tool({"parameters": "x"})]),
        field("dict_type", "body.tools.0.function.parameters", "Input should be a valid dictionary", "x"),
    ),
    (
        "parameters missing",
        chat(tools=[{"function": {"name": "f"}}]),
        pydantic("Tool", "function.parameters", "Field required", "missing", "{'name': 'f'}", "dict"),
    ),
    (
        "description null",
        chat(tools=[tool({"description": None})]),
        pydantic("Tool", "function.description", "Input should be a valid string", "string_type", "None", "NoneType"),
    ),
    ("key beside function", chat(tools=[tool(name="x")]), extra("Tool", "name", "'x'", "str")),
    ("key of a function", chat(tools=[tool({"returns": 1})]), extra("Tool", "function.returns", "1", "int")),
    (
        "type of a schema",
        chat(tools=[tool({"parameters": {"type": "objekt"}})]),
        "Invalid tool schema: 'objekt' is not valid under any of the given schemas",
    ),
    (
        "draft-4 required",
        chat(tools=[tool({"parameters": {"properties": {"a": {"required": True}}}})]),
        "Invalid tool schema: True is not of type 'array'",
    ),
    # tool_choice
    ("choice any", chat(tools=TOOLS, tool_choice="any"), f"Invalid value for `tool_choice`: any! {NO_CHOICE}"),
    ("choice without a name", chat(tools=TOOLS, tool_choice={"type": "function", "name": "get_time"}), UNNAMED_CHOICE),
    (
        "choice of no tool",
        chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "nope"}}),
        "The tool specified in `tool_choice` does not match any of the specified `tools` (parameter=tool_choice)",
    ),
    (
        "choice without tools",
        chat(tool_choice="auto"),
        "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)",
    ),
    # parameters
    ("template", chat(chat_template="x"), NO_TEMPLATE),
    ("template arguments", chat(chat_template_kwargs={}), NO_TEMPLATE),
    ("effort medium", chat(reasoning_effort="medium"), f"reasoning_effort=medium {NO_EFFORT}"),
    ("effort high", chat(reasoning_effort="high"), "reasoning_effort='high' is not supported for this model"),
    (
        "stream options without stream",
        chat(stream_options={"include_usage": True}),
        "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
    ),
    (
        "top_logprobs",
        chat(top_logprobs=3),
        "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)",
    ),
    (
        "json_schema without a schema",
        chat(response_format={"type": "json_schema"}),
        "When response_format type is 'json_schema', the 'json_schema' field must be provided. "
        "(parameter=response_format)",
    ),
    (
        "temperature 5",
        chat(temperature=5),
        "temperature must be in [0, 2], got 5.0. (parameter=temperature, value=5.0)",
    ),
    (
        "temperature -1",
        chat(temperature=-1),
        "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
    ),
    (
        "temperature NaN",
        chat(temperature=math.nan),
        "temperature must be a finite number, got nan. (parameter=temperature, value=nan)",
    ),
    ("top_p 0", chat(top_p=0), "top_p must be in (0, 1], got 0.0. (parameter=top_p, value=0.0)"),
    ("penalty 3", chat(frequency_penalty=3), "frequency_penalty must be in [-2, 2], got 3.0."),
    ("max_tokens 0", chat(max_tokens=0), "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"),
    ("n 0", chat(n=0), "n must be at least 1, got 0. (parameter=n, value=0)"),
    ("n 17", chat(n=17), "n must be at most 16, got 17. (parameter=n, value=17)"),
    (
        "five stops",
        chat(stop=list("abcde")),
        field("too_long", "body.stop", "List should have at most 4 items after validation, not 5", "<list of 5 items>"),
    ),
    ("an empty stop", chat(stop=[""]), "stop cannot contain an empty string."),
    (
        "bias out of the vocabulary",
        chat(logit_bias={"999999": 1}),
        "token_id(s) [999999] in logit_bias contain out-of-vocab token ids. Vocabulary size: 131072 "
        "(parameter=logit_bias, value=[999999])",
    ),
    (
        "max_tokens over the context",
        chat(max_tokens=5000),
        "max_tokens=5000 cannot be greater than max_model_len=4096. Please request fewer output tokens. "
        "(parameter=max_tokens, value=5000)",
    ),
    (
        "prompt over the context",
        chat({"role": "user", "content": "word " * 5000}),
        "This model's maximum context length is 4096 tokens. However, your prompt contains 5003 input tokens, which "
        "exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
        "(parameter=input_tokens, value=5003)",
    ),
]

ACCEPTED: list[tuple[str, Any]] = [
    ("plain", chat()),
    ("model missing", {"messages": [USER]}),
    ("two users, two systems", chat(SYSTEM, SYSTEM, USER, USER)),
    ("system after user", chat(USER, SYSTEM)),
    ("assistant first", chat(SAID, USER)),
    ("parts everywhere", chat(parts({"type": "text", "text": "x"}), assistant(call()), result(content=[]))),
    ("text and call", chat(USER, assistant(call(), content="Let me see"), RESULT)),
    (
        "results in another order",
        chat(USER, assistant(call(), call(id="xyzXYZ987")), result(tool_call_id="xyzXYZ987"), RESULT),
    ),
    ("the last results may be missing", chat(USER, assistant(call(), call(id="xyzXYZ987")), RESULT)),
    ("an empty assistant beside a full one", chat(USER, SAID, {"role": "assistant", "content": ""}, USER)),
    ("arguments that are no JSON", chat(USER, assistant(call(function={"name": "f", "arguments": '{"a'})), RESULT)),
    ("continued", chat(USER, SAID, continue_final_message=True, add_generation_prompt=False)),
    ("strict, true and null", chat(tools=[tool({"strict": True}), tool({"strict": None})])),
    ("tools null", chat(tools=None)),
    ("numbers as text", chat(temperature="0.5", max_tokens="40", stream="false")),
    ("unknown parameters", chat(store=True, metadata={}, safe_prompt=True)),
]
