"""
The checks that vLLM 0.32 makes on messages before mistral-common sees them: types, parts, who speaks last.

Each check takes the decoded body and raises a Refusal. They run in the order of `validate.CHECKS`; a check may rely on
the ones before it (after `messages_are_objects` every message is an object with a text for its role).
"""

from typing import Any

from proxy.demo.parameters import MODEL, Body
from proxy.demo.refusal import Refusal, field_refused, model_refused

#: the pydantic model that vLLM tries a role's message against; other roles go to the last one
_PARAMS = {
    "developer": "ChatCompletionDeveloperMessageParam",
    "system": "ChatCompletionSystemMessageParam",
    "user": "ChatCompletionUserMessageParam",
    "assistant": "ChatCompletionAssistantMessageParam",
    "tool": "ChatCompletionToolMessageParam",
}
_OTHER_PARAM = "CustomChatCompletionMessageParam"
_CALL_PARAM = "0.ChatCompletionMessageFunctionToolCallParam"

_TEXT_EXPECTED = "Input should be a valid string"
_OBJECT_EXPECTED = "Input should be a valid dictionary"
_REQUIRED = "Field required"

_PART_TYPES = (
    "audio_embeds, audio_url, image_embeds, image_pil, image_url, input_audio, input_image, input_text, output_text, "
    "prompt_embeds, refusal, text, thinking, tool_reference, video_embeds, video_url"
)


def _place(index: int, role: str, field: str) -> str:
    return f"messages.{index}.{_PARAMS.get(role, _OTHER_PARAM)}.{field}"


def _check_text(value: Any, place: str) -> None:
    if not isinstance(value, str):
        raise field_refused("string_type", place, _TEXT_EXPECTED, value)


def messages_are_a_list(body: Body) -> None:
    """Refuse a body without messages, with none, or with something else in their place."""
    if "messages" not in body:
        raise field_refused("missing", "messages", _REQUIRED, body)
    messages = body["messages"]
    if messages is None:
        raise Refusal("'NoneType' object is not iterable")
    if not isinstance(messages, list):
        raise field_refused("list_type", "messages", "Input should be a valid list", messages)
    if not messages:
        raise Refusal("list index out of range")


def messages_are_objects(body: Body) -> None:
    """Refuse a message that is no object, or has no role."""
    for index, message in enumerate(body["messages"]):
        if not isinstance(message, dict):
            raise field_refused("dict_type", f"messages.{index}.{_OTHER_PARAM}", _OBJECT_EXPECTED, message)
        if "role" not in message:
            raise field_refused("missing", _place(index, "", "role"), _REQUIRED, message)
        _check_text(message["role"], _place(index, "", "role"))


def contents_are_texts_or_parts(body: Body) -> None:
    """Refuse content that is neither text nor parts; null is for an assistant, and not beside `tool_calls: null`."""
    for index, message in enumerate(body["messages"]):
        content, role = message.get("content"), message["role"]
        if isinstance(content, str | list) or "content" not in message:
            continue
        if content is None and role == "assistant" and message.get("tool_calls", []) is not None:
            continue
        if isinstance(content, dict) and content:
            raise model_refused("ValidatorIterator", "0", _OBJECT_EXPECTED, "dict_type", next(iter(content)))
        raise field_refused("string_type", _place(index, role, "content"), _TEXT_EXPECTED, content)


def contents_are_present(body: Body) -> None:
    """Refuse a message without content, in vLLM's words for it: the bare KeyError."""
    for message in body["messages"]:
        if message["role"] in ("user", "system", "tool") and "content" not in message:
            raise Refusal("'content'")


def calls_are_function_calls(body: Body) -> None:
    """Refuse a tool call without id, type, name or arguments as text."""
    for index, message in enumerate(body["messages"]):
        calls = message.get("tool_calls")
        if calls is None:
            continue
        if not isinstance(calls, list):
            place = _place(index, message["role"], "tool_calls")
            raise field_refused("list_type", place, "Input should be a valid list", calls)
        for call in calls:
            _check_call(call)


def _check_call(call: Any) -> None:
    if not isinstance(call, dict):
        raise field_refused("dict_type", _CALL_PARAM, _OBJECT_EXPECTED, call)
    for key in ("id", "type"):
        if key not in call:
            raise field_refused("missing", f"{_CALL_PARAM}.{key}", _REQUIRED, call)
        _check_text(call[key], f"{_CALL_PARAM}.{key}")
    if call["type"] != "function":
        message = "chat completions only support assistant tool_calls of type 'function'. (parameter=tool_calls)"
        raise Refusal(message, param="tool_calls")
    function = call.get("function")
    if not isinstance(function, dict):
        raise field_refused("missing", f"{_CALL_PARAM}.function", _REQUIRED, function)
    for key in ("name", "arguments"):
        if key not in function:
            raise field_refused("missing", f"{_CALL_PARAM}.function", _REQUIRED, function)
        _check_text(function[key], f"{_CALL_PARAM}.function")


def results_name_their_call(body: Body) -> None:
    """Refuse a tool result without `tool_call_id`, in vLLM's words for it: the bare KeyError."""
    for index, message in enumerate(body["messages"]):
        if message["role"] != "tool":
            continue
        if message.get("tool_call_id") is None:
            raise Refusal("'tool_call_id'")
        _check_text(message["tool_call_id"], _place(index, "tool", "tool_call_id"))


def parts_are_text(body: Body) -> None:
    """Refuse every part but text: Devstral takes no pictures here, and a v11 tokenizer no thinking."""
    for message in body["messages"]:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                model = "0.ChatCompletionContentPartTextParam"
                raise model_refused("ValidatorIterator", model, _OBJECT_EXPECTED, "dict_type", part)
            _check_part(part, message["role"])


def _check_part(part: dict[str, Any], role: str) -> None:
    """Raise what a part's type earns; a text part must hold a text."""
    kind = part.get("type")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            field = "0.ChatCompletionContentPartTextParam.text"
            raise model_refused("ValidatorIterator", field, _TEXT_EXPECTED, "string_type", part.get("text"))
        return
    if kind == "image_url" and not isinstance(part.get("image_url"), dict):
        picture = part.get("image_url")
        raise model_refused("ChatCompletionContentPartImageParam", "image_url", _OBJECT_EXPECTED, "dict_type", picture)
    if kind in ("image_url", "input_audio"):
        raise Refusal(f"{MODEL} is not a multimodal model")
    if kind == "thinking" and isinstance(part.get("thinking"), list):
        raise Refusal("sequence item 0: expected str instance, list found")
    if kind == "thinking":
        raise Refusal("Think not implemented for tokenizer < V13.")
    if kind == "refusal" and role == "assistant":
        raise Refusal("'refusal' is not a valid ChunkTypes")
    if kind == "input_text":
        field = "0.ChatCompletionContentPartTextParam.type"
        raise model_refused("ValidatorIterator", field, "Input should be 'text'", "literal_error", kind)
    raise Refusal(f"Unsupported chat content part type: {kind!r}. Supported types: {_PART_TYPES}")


def generation_prompt_fits(body: Body) -> None:
    """
    Refuse an assistant message at the end, unless it is to be continued.

    That takes `continue_final_message: true` and `add_generation_prompt: false` together (vLLM, tokenizers/mistral.py);
    `prefix` is not known there. The last text is mistral-common's (1.7 to 1.11).
    """
    continued = bool(body.get("continue_final_message"))
    prompted = bool(body.get("add_generation_prompt", True))
    assistant_last = body["messages"][-1]["role"] == "assistant"
    if prompted and continued:
        raise Refusal("Cannot set both `add_generation_prompt` and `continue_final_message` to True.")
    if prompted and assistant_last:
        raise Refusal(
            "Cannot set `add_generation_prompt` to True when the last message is from the assistant. "
            "Consider using `continue_final_message` instead."
        )
    if continued and not assistant_last:
        raise Refusal("Cannot set `continue_final_message` to True when the last message is not from the assistant.")
    if assistant_last and not continued:
        raise Refusal(
            "Expected last role User or Tool (or Assistant with prefix or continue_final_message set to True) "
            "for serving but got assistant"
        )
