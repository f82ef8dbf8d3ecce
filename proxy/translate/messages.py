"""Rules on one message: roles, legacy forms and keys. What leaves here is a canonical message."""

from typing import Any

from msgspec import UNSET, Raw, UnsetType

from proxy.errors import InvalidRequest
from proxy.translate.chat import Draft, JsonPath
from proxy.translate.options import Options
from proxy.wire.chat import FunctionCall, Message, ToolCall, encode

ROLES = ("system", "user", "assistant", "tool")

_KEYS = {
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls", "reasoning", "prefix"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}


def developer_to_system(draft: Draft, _: Options) -> JsonPath | None:
    """The role `developer` is OpenAI's newer word for `system`; mistral-common knows it from 1.13.1 only (Q3)."""
    return _rename_role(draft, "developer", "system")


def tool_results_to_tool(draft: Draft, _: Options) -> JsonPath | None:
    """The role `tool_results`, from Mistral's own early documentation, is today's `tool` (Q3)."""
    return _rename_role(draft, "tool_results", "tool")


def function_role_to_tool(draft: Draft, _: Options) -> JsonPath | None:
    """The role `function` is OpenAI's legacy word for `tool`; such a result is paired by its name (Q2)."""
    return _rename_role(draft, "function", "tool")


def _rename_role(draft: Draft, old: str, new: str) -> JsonPath | None:
    if draft.get("role") != old:
        return None
    draft["role"] = new
    return ("role",)


def function_call_to_tool_call(draft: Draft, _: Options) -> JsonPath | None:
    """An assistant's legacy `function_call` becomes its one tool call; vLLM ignores the key (Q2)."""
    call = draft.get("function_call")
    if not isinstance(call, dict) or draft["role"] != "assistant":
        return None
    del draft["function_call"]
    if not draft.get("tool_calls"):
        draft["tool_calls"] = [{"type": "function", "function": call}]
    return ("function_call",)


def refusal_to_content(draft: Draft, _: Options) -> JsonPath | None:
    """An assistant's `refusal` is text that it said; Mistral has no such field, and vLLM 0.32 drops it (Q4)."""
    refusal = draft.get("refusal")
    if draft["role"] != "assistant" or not isinstance(refusal, str) or not refusal:
        return None
    del draft["refusal"]
    content = draft.get("content")
    parts = content if isinstance(content, list) else [] if content in (None, "") else [content]
    draft["content"] = [*parts, refusal] if parts else refusal
    return ("refusal",)


def name_to_text(draft: Draft, _: Options) -> JsonPath | None:
    """A speaker's `name` is written before the text, for histories of several agents (Q4)."""
    name = draft.get("name")
    if draft["role"] not in ("user", "assistant") or not isinstance(name, str) or not name:
        return None
    del draft["name"]
    content = draft.get("content")
    if isinstance(content, str) and content:
        draft["content"] = f"{name}: {content}"
    elif isinstance(content, list) and content:
        draft["content"] = [{"type": "text", "text": f"{name}:"}, *content]
    return ("name",)


def known_call_shape(draft: Draft, _: Options) -> JsonPath | None:
    """Each call is {id, type, function}; vLLM 0.32 refuses a missing `type`, other keys and flat calls (Q4, H3)."""
    calls = draft.get("tool_calls", UNSET)
    if calls is UNSET or draft["role"] != "assistant":
        return None
    if not calls:
        del draft["tool_calls"]
        return ("tool_calls",)
    if not isinstance(calls, list):
        raise InvalidRequest("`tool_calls` must be a list.", param="tool_calls")
    changed: JsonPath | None = None
    for i, call in enumerate(calls):
        if not isinstance(call, dict):
            raise InvalidRequest("A tool call must be an object.", param=f"tool_calls[{i}]")
        shaped = _shaped_call(call)
        if shaped != call:
            calls[i] = shaped
            changed = changed or ("tool_calls", i)
    return changed


def _shaped_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict):
        custom = call.get("custom")
        if isinstance(custom, dict):  # a free-text tool: see tools.custom_tool_to_function
            function = {"name": custom.get("name"), "arguments": {"input": custom.get("input", "")}}
        else:
            function = {"name": call.get("name"), "arguments": call.get("arguments")}
    name = function.get("name")
    return {
        "id": _id_text(call.get("id")),
        "type": "function",
        "function": {"name": name if isinstance(name, str) else "", "arguments": function.get("arguments")},
    }


def _id_text(value: Any) -> str:
    """An id as text. A number is one too: dropping it would leave parallel calls to be told apart by order."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else ""


def known_result_shape(draft: Draft, _: Options) -> JsonPath | None:
    """A result's `tool_call_id` and `name` are strings or absent; null is refused by every server (H3)."""
    if draft["role"] != "tool":
        return None
    changed: JsonPath | None = None
    if not isinstance(draft.get("tool_call_id", ""), str):
        draft["tool_call_id"] = _id_text(draft["tool_call_id"])
        changed = ("tool_call_id",)
    if "name" in draft and not (isinstance(draft["name"], str) and draft["name"]):
        del draft["name"]
        changed = changed or ("name",)
    return changed


def known_keys_only(draft: Draft, _: Options) -> JsonPath | None:
    """Keys that are not Mistral's are left out: mistral-common up to 1.11.0 refuses any of them (Q4)."""
    known = _KEYS[draft["role"]]
    extra = [key for key in draft if key not in known or (key == "prefix" and draft[key] is not True)]
    for key in extra:
        del draft[key]
    return (extra[0],) if extra else None


def require_known_role(draft: Draft, _: Options) -> JsonPath | None:
    """
    A role that no table here knows is refused; changes nothing (Q3).

    Raises:
        InvalidRequest: no role, or one that no table here knows.
    """
    role = draft.get("role")
    if not isinstance(role, str):
        raise InvalidRequest("A message needs a `role` that is a string.", param="role")
    if role not in ROLES:
        raise InvalidRequest(f"Unknown role `{role[:40]}`: use one of {', '.join(ROLES)} or developer.", param="role")
    return None


def message_from(draft: Draft) -> Message:
    """
    Build the canonical message from a draft that passed the message rules.

    Raises:
        InvalidRequest: content that is neither text nor parts.
    """
    calls = [
        ToolCall(call["id"], "function", FunctionCall(call["function"]["name"], call["function"]["arguments"]))
        for call in draft.get("tool_calls", ())
    ]
    return Message(
        role=draft["role"],
        content=_content(draft.get("content", UNSET)),
        tool_calls=calls or UNSET,
        tool_call_id=draft.get("tool_call_id", UNSET),
        name=draft.get("name", UNSET),
        reasoning=draft.get("reasoning", UNSET),
        prefix=draft.get("prefix", UNSET),
    )


def _content(value: Any) -> Raw | UnsetType:
    """
    Raises:
        InvalidRequest: neither text nor parts nor null.
    """
    if value is UNSET or value is None or isinstance(value, str | list):
        return value if value is UNSET else Raw(encode(value))
    raise InvalidRequest("`content` must be a string, a list of parts or null.", param="content")
