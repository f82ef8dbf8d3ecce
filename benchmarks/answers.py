"""Answers as vLLM sends them, for measuring translation without a network. src/answers.h holds those of the mock."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

_ENVELOPE: Final = {
    "id": "chatcmpl-4f1c0d5e8a7b4c6d9e2f1a3b5c7d9e0f",
    "object": "chat.completion.chunk",
    "created": 1767225600,
    "model": "mock",
}
_CALL: Final = {"id": "chatcmpl-tool-9a8b7c6d5e4f3a2b1c0d", "type": "function"}


def whole_answer() -> bytes:
    """Return a text answer of 0.8 KB."""
    message = {"role": "assistant", "content": "The quick brown fox jumps over the lazy dog. " * 3}
    unused = ("refusal", "annotations", "audio", "function_call", "reasoning")
    choice = {
        "index": 0,
        "message": {**message, **dict.fromkeys(unused), "tool_calls": []},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": None,
    }
    usage = {"prompt_tokens": 123, "total_tokens": 223, "completion_tokens": 100, "prompt_tokens_details": None}
    rest = ("service_tier", "system_fingerprint", "prompt_logprobs", "prompt_token_ids", "kv_transfer_params")
    whole = {**_ENVELOPE, "object": "chat.completion", "choices": [choice], "usage": usage, **dict.fromkeys(rest)}
    return json.dumps(whole, separators=(",", ":")).encode()


def text_stream(pieces: int) -> list[bytes]:
    """Return the events of an answer in plain text."""
    return _stream([{"content": f" word{i}"} for i in range(pieces)], "stop")


def call_stream(pieces: int) -> list[bytes]:
    """Return the events of a tool call whose arguments come in that many pieces."""
    arguments = ['{"path": "', *(f" word{i}" for i in range(pieces)), '"}']
    name = {"tool_calls": [{**_CALL, "index": 0, "function": {"name": "read_file", "arguments": ""}}]}
    return _stream(
        [name, *({"tool_calls": [{"index": 0, "function": {"arguments": a}}]} for a in arguments)], "tool_calls"
    )


def leaked_stream(pieces: int) -> list[bytes]:
    """Return the events of a tool call that the server took for text: it has to be found and put together."""
    texts = ["[TOOL_CALLS]", "read", "_file", "[ARGS]", '{"path": "', *(f" word{i}" for i in range(pieces)), '"}']
    return _stream([{"content": text} for text in texts], "stop")


def thought_stream(pieces: int) -> list[bytes]:
    """Return the events of thoughts and a short answer: every one is rewritten, to have both names of the field."""
    return _stream([*({"reasoning": f" word{i}"} for i in range(pieces)), {"content": "Yes."}], "stop")


STREAMS: Final[Mapping[str, Callable[[int], list[bytes]]]] = MappingProxyType(
    {
        "plain text": text_stream,
        "tool call": call_stream,
        "leaked tool call": leaked_stream,
        "reasoning": thought_stream,
    }
)


def _stream(deltas: list[dict[str, Any]], finish_reason: str) -> list[bytes]:
    deltas = [{"role": "assistant", "content": ""}, *deltas]
    events = [_event({"delta": delta, "finish_reason": None}) for delta in deltas]
    last = {"delta": {"content": ""}, "finish_reason": finish_reason, "stop_reason": None}
    usage = {"choices": [], "usage": {"prompt_tokens": 123, "total_tokens": 323, "completion_tokens": 200}}
    return [*events, _event(last), _data({**_ENVELOPE, **usage}), b"data: [DONE]\n\n"]


def _event(choice: dict[str, Any]) -> bytes:
    return _data({**_ENVELOPE, "choices": [{"index": 0, **choice, "logprobs": None, "token_ids": None}]})


def _data(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"
