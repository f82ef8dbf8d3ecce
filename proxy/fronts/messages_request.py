"""
A request of Anthropic's Messages API becomes a chat completion request.

    system ------------> the first message          max_tokens, temperature, top_p, top_k --> the same
    messages ----------> messages                   stop_sequences ---> stop
    tools, tool_choice > tools, tool_choice         metadata.user_id -> user
    thinking, output_config.effort --> reasoning_effort       output_config.format --> response_format

Roles, ids, pairs and what else Mistral's servers demand are left to the rules of chat completions.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import UNSET

from proxy.errors import InvalidRequest
from proxy.fronts.messages_blocks import (
    BETWEEN,
    Said,
    document_to_line,
    redacted_thinking_dropped,
    unreadable_block_to_line,
)
from proxy.fronts.messages_wire import (
    MEMBERS,
    Block,
    Format,
    Request,
    Tool,
    ToolChoice,
    Turn,
    blocks_of,
    decode_request,
    refused,
)
from proxy.fronts.rewrites import Rewrites
from proxy.wire.body import decode_body, refuse_bad_utf8
from proxy.wire.chat import encode, is_null

_BILLING: Final = "x-anthropic-billing-header"


class ChatRequest(msgspec.Struct, frozen=True):
    """The chat completion's body; the sequences that end the answer; the rules that changed something."""

    body: bytes
    model: str
    stop: tuple[str, ...]
    rules: tuple[str, ...]


def chat_request(body: bytes, *, strict: bool, counts: bool = False) -> ChatRequest:
    """
    Translate one request; with `counts` one that only counts its tokens, and need not say how many the answer may have.

    Raises:
        InvalidRequest: it cannot be translated, or `strict` is set and a rule would change it.
    """
    if not body.isascii():
        refuse_bad_utf8(body)
    try:
        members = decode_body(body)
        request = decode_request(body)
        return _translated(request, members, Rewrites(strict=strict), counts=counts)
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", param="$") from None


def _translated(request: Request, members: Mapping[str, Any], rewrites: Rewrites, *, counts: bool) -> ChatRequest:
    if request.max_tokens is None and not counts:
        raise refused("max_tokens", "Field required")
    foreign_members_dropped(members, rewrites)
    chat: dict[str, Any] = {} if request.model is None else {"model": request.model}
    chat["messages"] = _messages(request, rewrites)
    _add_tools(chat, request, rewrites)
    if (limit := request.max_tokens) is not None:
        if limit != int(limit):
            raise refused("max_tokens", "Input should be a whole number")
        chat["max_tokens"] = int(limit)
    for name in ("temperature", "top_p", "top_k"):
        value = getattr(request, name)
        if not (value is UNSET or is_null(value)):
            chat[name] = value
    if request.stop_sequences:
        chat["stop"] = request.stop_sequences
    if request.metadata is not None and request.metadata.user_id:
        chat["user"] = request.metadata.user_id
    thinking_budget_dropped(request, rewrites)
    if (effort := _effort(request)) is not None:
        chat["reasoning_effort"] = effort
    if (wanted := _format(request)) is not None:
        schema = {"name": "output", "schema": wanted.schema, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    last = chat["messages"][-1]
    if last["role"] == "assistant" and last["content"] and "tool_calls" not in last:
        # Anthropic's way of having an answer begin with given words; this is vLLM's.
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return ChatRequest(encode(chat), request.model or "", tuple(request.stop_sequences or ()), rewrites.names)


# --- messages


def _messages(request: Request, rewrites: Rewrites) -> list[dict[str, Any]]:
    messages = []
    if request.system:
        system = billing_header_dropped(blocks_of(request.system), rewrites)
        content = Said(rewrites, "system").hear(system, "system").content
        if content:
            messages.append({"role": "system", "content": content})
    if not request.messages:
        raise refused("messages", "at least one message is required")
    for i, turn in enumerate(request.messages):
        said = Said(rewrites, turn.role).hear(blocks_of(turn.content), f"messages[{i}].content")
        messages += _FORMS[turn.role](turn, said)
    return messages


def _user(turn: Turn, said: Said) -> list[dict[str, Any]]:
    """Results come first, whatever stood before them: no message may stand between a call and its result."""
    if said.results and not said.parts:
        return said.results
    return [*said.results, {"role": turn.role, "content": said.content}]


def _assistant(turn: Turn, said: Said) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant", "content": said.content}
    if said.calls:
        message["tool_calls"] = said.calls
    if said.thoughts:
        message["reasoning"] = BETWEEN.join(said.thoughts)
    return [message]


_FORMS: Final[Mapping[str, Callable[[Turn, Said], list[dict[str, Any]]]]] = MappingProxyType(
    {"user": _user, "assistant": _assistant, "system": _user}
)


# --- tools


def _add_tools(chat: dict[str, Any], request: Request, rewrites: Rewrites) -> None:
    places = server_tools_dropped(request.tools or [], rewrites)
    tools = [_function(tool, path, rewrites) for path, tool in places.items()]
    if (asked := request.tool_choice) is not None and asked.type == "tool" and asked.name is None:
        raise refused("tool_choice", "name: Field required")
    choice = choice_of_server_tool_dropped(request, {tool.name for tool in places.values()}, rewrites)
    if not tools:
        return
    chat["tools"] = tools
    if choice is None:
        return
    named = {"type": "function", "function": {"name": choice.name}}
    chat["tool_choice"] = named if choice.type == "tool" else _CHOICES[choice.type]
    if choice.disable_parallel_tool_use:
        chat["parallel_tool_calls"] = False


_CHOICES: Final = MappingProxyType({"auto": "auto", "any": "required", "none": "none"})


def _function(tool: Tool, path: str, rewrites: Rewrites) -> dict[str, Any]:
    if tool.name is None:
        raise refused(path, "name: Field required")
    input_examples_dropped(tool, path, rewrites)
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.input_schema is not UNSET:
        function["parameters"] = tool.input_schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


# --- parameters


def _effort(request: Request) -> str | None:
    """Return how much the model is to think: that it is or is not to counts more than how much."""
    kind = request.thinking.type if request.thinking else None
    if kind == "disabled":
        return "none"
    if kind == "enabled":
        return "high"
    return request.output_config.effort if request.output_config else None


def _format(request: Request) -> Format | None:
    return (request.output_config.format if request.output_config else None) or request.output_format


# --- rules: what is lost


def foreign_members_dropped(members: Mapping[str, Any], rewrites: Rewrites) -> None:
    """Members that have no counterpart (`context_management`, `mcp_servers`, `container`, …) are left out."""
    name = next((name for name in members if name not in MEMBERS), None)
    rewrites.ran(foreign_members_dropped, name)


def billing_header_dropped(system: list[Block], rewrites: Rewrites) -> list[Block]:
    """Claude Code's line for Anthropic's billing is left out of `system`: it differs from turn to turn."""
    kept, found = [], False
    for block in system:
        text = block.text or ""
        if text.startswith(_BILLING):
            found = True
            text = text.partition("\n")[2]
            if not text.strip():
                continue
            block = msgspec.structs.replace(block, text=text)
        kept.append(block)
    rewrites.ran(billing_header_dropped, "system" if found else None)
    return kept


def server_tools_dropped(tools: list[Tool], rewrites: Rewrites) -> Mapping[str, Tool]:
    """Tools that Anthropic defines (`web_search_…`, `bash_…`, `text_editor_…`) are left out: they have no schema."""
    places = {f"tools[{i}]": tool for i, tool in enumerate(tools)}
    own = {path: tool for path, tool in places.items() if tool.type in (None, "custom")}
    rewrites.ran(server_tools_dropped, next((path for path in places if path not in own), None))
    return own


def choice_of_server_tool_dropped(
    request: Request, offered: Collection[str | None], rewrites: Rewrites
) -> ToolChoice | None:
    """A `tool_choice` of a tool that is left out, or of none where no tools are, is left to the model."""
    choice = request.tool_choice
    if choice is None:
        return None
    is_listed = any(tool.name == choice.name for tool in request.tools or ())
    if offered and (choice.type != "tool" or choice.name in offered or not is_listed):
        return choice
    rewrites.ran(choice_of_server_tool_dropped, "tool_choice")
    return ToolChoice("auto", disable_parallel_tool_use=choice.disable_parallel_tool_use)


def thinking_budget_dropped(request: Request, rewrites: Rewrites) -> None:
    """`thinking.budget_tokens` is left out: that the model is to think is all that can be said, as a high effort."""
    has_budget = request.thinking is not None and request.thinking.budget_tokens is not UNSET
    rewrites.ran(thinking_budget_dropped, "thinking.budget_tokens" if has_budget else None)


def input_examples_dropped(tool: Tool, path: str, rewrites: Rewrites) -> None:
    """A tool's `input_examples` are left out: chat completions have no place for them."""
    rewrites.ran(input_examples_dropped, None if tool.input_examples is UNSET else f"{path}.input_examples")


#: In the order in which they run.
MESSAGES_RULES: Final[tuple[Callable[..., Any], ...]] = (
    foreign_members_dropped,
    billing_header_dropped,
    document_to_line,
    redacted_thinking_dropped,
    unreadable_block_to_line,
    server_tools_dropped,
    input_examples_dropped,
    choice_of_server_tool_dropped,
    thinking_budget_dropped,
)
