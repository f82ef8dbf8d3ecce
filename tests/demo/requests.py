"""Pieces of chat requests, to be put together by tests."""

from typing import Any

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Current time",
        "parameters": {"type": "object", "properties": {}},
    },
}
TOOLS = [WEATHER, TIME]
USER = {"role": "user", "content": "Weather?"}
RESULT = {"role": "tool", "tool_call_id": "abcDEF123", "content": "sunny"}


def call(**changes: Any) -> dict[str, Any]:
    """Return a tool call with some of its keys changed."""
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    return {"id": "abcDEF123", "type": "function", "function": function} | changes


def assistant(*calls: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return an assistant message that makes `calls`."""
    return {"role": "assistant", "content": None, "tool_calls": list(calls)} | changes


def tool(changes: dict[str, Any] | None = None, **outside: Any) -> dict[str, Any]:
    """Return the weather tool with some keys of its function, or beside it, changed."""
    return {"type": "function", "function": WEATHER["function"] | (changes or {})} | outside


def chat(*messages: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    """Return a chat request; without messages, the user asks for the weather."""
    return {"model": "devstral", "messages": list(messages or (USER,))} | parameters
