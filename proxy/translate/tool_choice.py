"""Rules on which tool a request wants called. The tools themselves have been through theirs."""

from typing import Any

from msgspec import UNSET

from proxy.errors import InvalidRequest
from proxy.translate.chat import Chat, JsonPath, only_with
from proxy.translate.tools import legal_name
from proxy.wire.chat import Message, joined_contents, text_content

_WORDS = ("none", "auto", "required", "any")


@only_with("tool_choice", "parallel_tool_calls", "function_call")
def null_choice_removed(chat: Chat) -> JsonPath | None:
    """`null` is left out: with `tool_choice: null` vLLM 0.32 loses the model's call (Q21, H5)."""
    nulls = [name for name in ("tool_choice", "parallel_tool_calls") if chat.read(name) is None]
    return chat.drop(*nulls)


@only_with("tools", "functions", "tool_choice", "function_call", "parallel_tool_calls")
def choice_without_tools_removed(chat: Chat) -> JsonPath | None:
    """Without tools there is nothing to choose: `When using tool_choice, tools must be set` (Q18, Q21)."""
    if chat.tools:
        return None
    return chat.drop("tools", "tool_choice", "parallel_tool_calls")


@only_with("tool_choice", "function_call")
def flat_choice_to_nested(chat: Chat) -> JsonPath | None:
    """A choice in the Responses API's form has its name at the top; vLLM wants it in `function` (Q21)."""
    choice = chat.read("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") not in ("function", "custom"):
        return None
    holder = choice.get("function") or choice.get("custom") or choice
    name = holder.get("name") if isinstance(holder, dict) else None
    if not isinstance(name, str):
        raise InvalidRequest("`tool_choice` names no function.", param="tool_choice.function.name")
    nested = {"type": "function", "function": {"name": legal_name(name)}}
    if nested == choice:
        return None
    chat.members["tool_choice"] = nested
    return ("tool_choice",)


@only_with("tool_choice", "function_call")
def allowed_tools_to_tools(chat: Chat) -> JsonPath | None:
    """
    `allowed_tools` offers the named tools alone, with its own mode (Q21).

    Raises:
        InvalidRequest: it names tools, and none of them is offered.
    """
    choice = chat.read("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return None
    inner: Any = choice.get("allowed_tools", choice)
    listed = inner.get("tools") if isinstance(inner, dict) else None
    names = {legal_name(name) for name in map(_tool_name, listed if isinstance(listed, list) else []) if name}
    chat.tools = [tool for tool in chat.tools if tool.name in names]
    if names and not chat.tools:
        raise InvalidRequest("`tool_choice` allows only functions that are not in `tools`.", param="tool_choice")
    chat.members["tool_choice"] = inner.get("mode", "auto") if isinstance(inner, dict) else "auto"
    return ("tool_choice",)


def _tool_name(item: Any) -> str | None:
    holder = item.get("function", item.get("custom", item)) if isinstance(item, dict) else None
    name = holder.get("name") if isinstance(holder, dict) else None
    return name if isinstance(name, str) else None


@only_with("tool_choice", "function_call")
def any_to_required(chat: Chat) -> JsonPath | None:
    """Mistral's word `any` is OpenAI's `required`, the only one vLLM knows (Q21)."""
    return _reword(chat, "any", "required")


@only_with("tool_choice", "function_call")
def required_to_any(chat: Chat) -> JsonPath | None:
    """OpenAI's word `required` is Mistral's `any` (Q21)."""
    return _reword(chat, "required", "any")


def _reword(chat: Chat, old: str, new: str) -> JsonPath | None:
    if chat.read("tool_choice") != old:
        return None
    chat.members["tool_choice"] = new
    return ("tool_choice",)


@only_with("tool_choice", "function_call")
def known_choice(chat: Chat) -> JsonPath | None:
    """
    A choice that is unknown, or of a tool that is not offered, is refused; changes nothing (Q21).

    Raises:
        InvalidRequest: an unknown word or form, or a tool that the request does not offer.
    """
    choice = chat.read("tool_choice")
    if choice is UNSET or (isinstance(choice, str) and choice in _WORDS):
        return None
    if not isinstance(choice, dict) or choice.get("type") != "function":
        raise InvalidRequest(
            f"`tool_choice` must be one of {', '.join(_WORDS)} or name a function.", param="tool_choice"
        )
    if choice["function"]["name"] not in {tool.name for tool in chat.tools}:
        raise InvalidRequest(
            "`tool_choice` names a function that is not in `tools`.", param="tool_choice.function.name"
        )
    return None


@only_with("tool_choice", "function_call")
def none_removes_tools(chat: Chat) -> JsonPath | None:
    """With `tool_choice: none` no tools are offered: a call would leak as text, or garble it (Q21)."""
    if chat.read("tool_choice") != "none":
        return None
    chat.tools = []
    return chat.drop("tool_choice", "parallel_tool_calls", "tools")


@only_with("tool_choice", "function_call")
def required_to_hint(chat: Chat) -> JsonPath | None:
    """`required` is `auto` and a line of instruction: vLLM 0.19 to 0.24 break the enforced path (Q21)."""
    choice = chat.read("tool_choice")
    if choice != "required" and not isinstance(choice, dict):
        return None
    name = choice["function"]["name"] if isinstance(choice, dict) else None
    hint = f"Call the tool {name} now." if name else "Call one of the tools now."
    first = chat.messages[0]
    if first.role == "system":
        first.content = joined_contents([first.content, text_content(hint)])
        chat.touch(first)
    else:
        chat.messages.insert(0, Message("system", text_content(hint)))
    chat.members["tool_choice"] = "auto"
    return ("tool_choice",)
