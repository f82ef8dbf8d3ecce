"""Anthropic's SDK as judge: its types take every event and message, and an accumulator that is strict about order."""

import json
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

_events = TypeAdapter(RawMessageStreamEvent)
_KEYS = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}


def parsed(data: bytes) -> list[dict[str, Any]]:
    """Return the events of a whole stream; each has the name that its data has as type."""
    events = []
    for raw in data.split(b"\n\n")[:-1]:
        if raw.startswith(b":"):
            continue
        name, body = raw.split(b"\n")
        event = json.loads(body.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        events.append(event)
    assert data.endswith(b"\n\n") or not data
    return events


def message_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that a whole stream's events say; inputs are parsed where they can be."""
    first, *rest = events
    assert first["type"] == "message_start"
    message, raw_inputs = first["message"], {}
    open_block = None
    for event in rest:
        _events.validate_python(event)
        kind = event["type"]
        if kind == "content_block_start":
            assert open_block is None
            assert event["index"] == len(message["content"])
            open_block = event["content_block"]
            message["content"].append(open_block)
        elif kind == "content_block_delta":
            assert event["index"] == len(message["content"]) - 1
            _add(open_block, event["delta"], raw_inputs)
        elif kind == "content_block_stop":
            assert event["index"] == len(message["content"]) - 1
            open_block = None
        elif kind == "message_delta":
            assert open_block is None
            message |= event["delta"]
            message["usage"] = event["usage"]
        else:
            assert event == {"type": "message_stop"}
    assert [event["type"] for event in rest[-2:]] == ["message_delta", "message_stop"]
    for block in message["content"]:
        if block["type"] == "tool_use":
            block["input"] = _input(raw_inputs.get(id(block), ""))
    Message.model_validate(message)
    return message


def _add(block: Any, delta: dict[str, str], raw_inputs: dict[int, str]) -> None:
    if delta["type"] == "signature_delta":
        block["signature"] = delta["signature"]
        return
    assert delta["type"] == _KEYS[block["type"]]
    if block["type"] == "tool_use":
        raw_inputs[id(block)] = raw_inputs.get(id(block), "") + delta["partial_json"]
    else:
        block[block["type"]] += delta[block["type"]]


def _input(text: str) -> Any:
    try:
        return json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {"_raw_arguments": text}
