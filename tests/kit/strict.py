"""
A stand-in for a strict model server: vLLM with mistral-common up to 1.11.0 and a v11 tokenizer.

The checks are those that agents run into; the texts are mistral-common's (protocol/instruct/validator.py).
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

from tests.fakes import whole
from tests.kit.model import Call, Script, usual

_NINE: Final = re.compile(r"[a-zA-Z0-9]{9}")

_MAY_FOLLOW: Final = {
    "system": {"system", "user", "assistant"},
    "user": {"system", "user", "assistant"},
    "assistant": {"user", "assistant", "tool"},
    "tool": {"tool", "assistant"},
}
_KEYS: Final = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "assistant": {"role", "content", "tool_calls", "prefix"},
    "tool": {"role", "content", "tool_call_id", "name"},
}
_TOOL_KEYS: Final = {"name", "description", "parameters"}


def strict(call: Call) -> Script:
    """Return the usual answer to a legal request, else the 400 that names the first fault."""
    fault = next(faults(call.json), None)
    if fault is None:
        return usual(call)
    return [whole({"error": {"message": fault, "type": "BadRequestError", "param": None, "code": 400}}, 400)]


def faults(body: dict[str, Any]) -> Iterator[str]:
    """Yield what mistral-common would say of this request."""
    messages = body["messages"]
    for message in messages:
        if message["role"] not in _KEYS:
            yield f"Unknown message role: {message['role']}"
            return
    yield from _keys(messages, body.get("tools") or ())
    yield from _order(messages)
    yield from _pairs(messages)
    yield from _assistants(messages)


def _keys(messages: list[dict[str, Any]], tools: Any) -> Iterator[str]:
    for message in messages:
        if extra := message.keys() - _KEYS[message["role"]]:
            yield f"{sorted(extra)[0]}: Extra inputs are not permitted"
    for tool in tools:
        if extra := (tool.keys() - {"type", "function"}) | (tool["function"].keys() - _TOOL_KEYS):
            yield f"{sorted(extra)[0]}: Extra inputs are not permitted"


def _order(messages: list[dict[str, Any]]) -> Iterator[str]:
    roles = [message["role"] for message in messages]
    for before, after in pairwise(roles):
        if after not in _MAY_FOLLOW[before]:
            yield f"Unexpected role '{after}' after role '{before}'"
    if roles[-1] == "assistant":
        yield "Expected last role User or Tool (or Assistant with prefix) for serving but got assistant"


def _pairs(messages: list[dict[str, Any]]) -> Iterator[str]:
    expected: list[str] = []
    for message in [*messages, {"role": "end"}]:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in expected:
                yield f"Unexpected tool call id {message.get('tool_call_id')} in tool results"
            else:
                expected.remove(message["tool_call_id"])
            continue
        if expected:
            yield "Not the same number of function calls and responses"
        expected = [call["id"] for call in message.get("tool_calls") or ()]
        for id_ in expected:
            if not _NINE.fullmatch(id_):
                yield f"Tool call id was {id_} but must be a-z, A-Z, 0-9, with a length of 9."


def _assistants(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        if message["role"] == "assistant" and not message.get("content") and not message.get("tool_calls"):
            yield f"Invalid assistant message: {message}"
