"""
A chat completion becomes a message of Anthropic's API.

    reasoning ---> thinking       content ---> text       tool_calls ---> tool_use, arguments parsed
    finish_reason -> stop_reason  usage -----> input_tokens, cache_read_input_tokens, output_tokens
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import Raw

from proxy.errors import UpstreamProtocolError
from proxy.fronts.numbers import counter
from proxy.wire.chat import encode, is_json_object
from proxy.wire.completion import Call, Message

#: Signs every thinking block. Nothing checks it: clients leave a thought without one out of the next request.
SIGNATURE: Final = "devstral-proxy"
#: The one key of a tool's input whose arguments are no JSON object; the same as `translate/arguments.py` gives them.
_RAW: Final = "_raw_arguments"

_STOP_REASONS: Final[Mapping[str | None, str]] = MappingProxyType(
    {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "function_call": "tool_use",
        "content_filter": "refusal",
    }
)


class AnswerChoice(msgspec.Struct, gc=False):
    """One choice; `stop_reason` is vLLM's word for the sequence that ended it."""

    index: int = 0
    message: Message = msgspec.field(default_factory=Message)
    finish_reason: str | None = None
    stop_reason: Any = None


class Answer(msgspec.Struct, gc=False):
    """A whole chat completion."""

    choices: list[AnswerChoice]
    id: str | None = None
    model: str | None = None
    usage: dict[str, Any] | None = None


_decoder: Final = msgspec.json.Decoder(Answer)


def whole_message(body: bytes, model: str, stop: Collection[str]) -> bytes:
    """
    Return the message for a whole completion. `model` is the request's, `stop` are its stop sequences.

    Raises:
        UpstreamProtocolError: it is no completion.
    """
    try:
        answer = _decoder.decode(body)
        choice = next(choice for choice in answer.choices if choice.index == 0)
    except (msgspec.DecodeError, RecursionError, StopIteration):
        problem = "The model server sent a completion that cannot be read."
        raise UpstreamProtocolError(problem, code="malformed_upstream_answer") from None
    message = envelope(answer.id, answer.model or model)
    message["content"] = _blocks(choice.message)
    message |= ending(choice.finish_reason, choice.stop_reason, stop)
    message["usage"] = usage_of(answer.usage)
    return encode(message)


def envelope(completion_id: str | None, model: str) -> dict[str, Any]:
    """Return a message without content that has not ended."""
    return {
        "id": "msg_" + (completion_id or "").removeprefix("chatcmpl-"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage_of(None),
    }


def ending(finish: str | None, stopped_by: Any, stop: Collection[str]) -> dict[str, str | None]:
    """Return why a message ended. Which sequence did only vLLM says; another server's `stop` is the end of a turn."""
    if finish == "stop" and isinstance(stopped_by, str) and stopped_by in stop:
        return {"stop_reason": "stop_sequence", "stop_sequence": stopped_by}
    return {"stop_reason": _STOP_REASONS.get(finish, "end_turn"), "stop_sequence": None}


def usage_of(usage: Mapping[str, Any] | None) -> dict[str, int]:
    """Return usage in Anthropic's words, where what came from the cache is not among `input_tokens`; 0 is unknown."""
    counters = usage or {}
    details = counters.get("prompt_tokens_details")
    cached = counter(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
    return {
        "input_tokens": max(0, counter(counters.get("prompt_tokens")) - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": counter(counters.get("completion_tokens")),
    }


def _blocks(message: Message) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if thought := thought_in(message):
        blocks.append({"type": "thinking", "thinking": thought, "signature": SIGNATURE})
    if text := text_in(message):
        blocks.append({"type": "text", "text": text})
    return blocks + [tool_use(call, _input(call)) for call in message.tool_calls or ()]


def thought_in(message: Message) -> str:
    """Return the reasoning of a message or delta, which often has it under both names."""
    return message.reasoning or message.reasoning_content or ""


def text_in(message: Message) -> str:
    """Return the text of a message or delta; a refusal is text too."""
    content = message.content
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        content = "".join(text for text in texts if isinstance(text, str))
    return content or (message.refusal if isinstance(message.refusal, str) else "")


def arguments_of(call: Call) -> str:
    """Return the arguments of a call, or a part of them. Not every server writes them as text."""
    arguments = call.function.arguments if call.function else None
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return encode(arguments).decode()


def tool_use(call: Call, given: Any) -> dict[str, Any]:
    """Return a call as a block. The id stays: clients take any, and the next turn's rules know it again."""
    name = call.function.name if call.function else None
    return {"type": "tool_use", "id": str(call.id or ""), "name": name or "", "input": given}


def _input(call: Call) -> Any:
    """Return what a tool is called with, as the model wrote it; what is no object is put into one (Q10, R8)."""
    text = arguments_of(call)
    if not text.strip():
        return {}
    return Raw(text.encode()) if is_json_object(text) else {_RAW: text}
