"""
A request to the Responses API in the words of a chat, once the front's rules have run.

    instructions                          a system message, before all others
    message                               a message; `developer` is left to the rules of the chat
    reasoning, calls                      parts of the assistant's message that they stand beside
    *_output                              tool messages
    text.format, reasoning.effort         response_format, reasoning_effort
    max_output_tokens                     max_tokens
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from proxy.errors import InvalidRequest
from proxy.fronts.responses_asked import Asked, Json, Placed, kind_of
from proxy.fronts.responses_rules import LOCAL_SHELL, SAME_IN_CHAT, thoughts_of
from proxy.wire.chat import encode

_ROLES: Final = ("user", "assistant", "system", "developer")

#: Parts of text, and the key that holds it. Others are in the form that the rules of the chat read.
_TEXTS: Final = MappingProxyType({"input_text": "text", "output_text": "text", "text": "text"})

#: What the chat's rules read as a `stream` that is true.
_STREAMS: Final = frozenset({"true", "1"})

_LOGPROBS: Final = "message.output_text.logprobs"


class ChatRequest:
    """The chat that is asked for; `places` has, for each message and each tool, its path in the client's body."""

    def __init__(self, asked: Asked) -> None:
        self.messages: list[Json] = []
        self.places: dict[str, list[str]] = {"messages": [], "tools": [tool.path for tool in asked.tools]}
        self._asked = asked
        if asked.members.get("instructions"):
            self._add("instructions", {"role": "system", "content": asked.members["instructions"]})
        for item in asked.items:
            _SAYS[kind_of(item.value)](self, item)

    def body(self) -> bytes:
        """
        Return the body of the chat completion.

        Raises:
            InvalidRequest: a member has no meaning.
        """
        asked = self._asked
        members: Json = {name: asked.members[name] for name in SAME_IN_CHAT if name in asked.members}
        members["messages"] = self.messages
        if asked.tools:
            members["tools"] = [_tool(tool) for tool in asked.tools]
        if str(members.get("stream")).lower() in _STREAMS:
            members["stream_options"] = {"include_usage": True}
        for name, read in _READS.items():
            if asked.members.get(name) is not None:
                members |= read(asked.members[name])
        include = asked.members.get("include")
        if isinstance(include, list) and _LOGPROBS in include:
            members["logprobs"] = True
        return encode(members)

    # --- items

    def say(self, item: Placed) -> None:
        """A message."""
        path, value = item
        role = value.get("role")
        if role not in _ROLES:
            raise InvalidRequest(f"The role of a message must be one of {', '.join(_ROLES)}.", param=f"{path}.role")
        content = _content(value.get("content"), f"{path}.content")
        last = self.messages[-1] if self.messages else None
        if role == "assistant" and last is not None and last.keys() == {"role", "reasoning"}:
            last["content"] = content
        else:
            self._add(path, {"role": role, "content": content})

    def think(self, item: Placed) -> None:
        """What the model thought, before it said something or made a call."""
        self._add(item.path, {"role": "assistant", "reasoning": thoughts_of(item.value)})

    def call(self, item: Placed) -> None:
        """A call of a function, with its arguments as JSON text."""
        self._call(item, _string(item, "name"), item.value.get("arguments"))

    def custom_call(self, item: Placed) -> None:
        """A call whose input is free text: the one argument `input`, as the chat's rules give it to a function."""
        self._call(item, _string(item, "name"), encode({"input": _string(item, "input")}).decode())

    def shell_call(self, item: Placed) -> None:
        """A command that the client ran."""
        action = item.value.get("action")
        if not isinstance(action, dict):
            raise InvalidRequest("A call of the shell needs an `action`.", param=f"{item.path}.action")
        given = {name: value for name, value in action.items() if name != "type" and value not in (None, {})}
        self._call(item, LOCAL_SHELL, encode(given).decode())

    def _call(self, item: Placed, name: str, arguments: Any) -> None:
        call_id = _string(item, "call_id")
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        last = self.messages[-1] if self.messages else None
        if last is not None and last["role"] == "assistant":
            last.setdefault("tool_calls", []).append(call)
        else:
            self._add(item.path, {"role": "assistant", "tool_calls": [call]})

    def result(self, item: Placed) -> None:
        """What a call came to."""
        # The API's own `local_shell_call_output` has the call's id as its own.
        own = item.value["type"] == "local_shell_call_output" and "call_id" not in item.value
        call_id = _string(item, "id" if own else "call_id")
        content = _content(item.value.get("output"), f"{item.path}.output")
        self._add(item.path, {"role": "tool", "tool_call_id": call_id, "content": content})

    def _add(self, path: str, message: Json) -> None:
        self.messages.append(message)
        self.places["messages"].append(path)


_SAYS: Final[Mapping[str, Callable[[ChatRequest, Placed], None]]] = MappingProxyType(
    {
        "message": ChatRequest.say,
        "reasoning": ChatRequest.think,
        "function_call": ChatRequest.call,
        "custom_tool_call": ChatRequest.custom_call,
        "local_shell_call": ChatRequest.shell_call,
        "function_call_output": ChatRequest.result,
        "custom_tool_call_output": ChatRequest.result,
        "local_shell_call_output": ChatRequest.result,
    }
)


def _string(item: Placed, name: str) -> str:
    """Return a member of an item or a tool; it must be a string."""
    value = item.value.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f"`{name}` must be a string.", param=f"{item.path}.{name}")
    return value


def _content(given: Any, path: str) -> Any:
    """Return a content as a chat has it: text where there is nothing else, else parts."""
    if isinstance(given, str):
        return given
    if not isinstance(given, list):
        raise InvalidRequest("A content must be a string or a list of parts.", param=path)
    parts = [_part(part, f"{path}[{i}]") for i, part in enumerate(given)]
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Any, path: str) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise InvalidRequest("A part must be an object with a `type`.", param=path)
    key = _TEXTS.get(kind)
    if key is not None:
        text = part.get(key)
        if not isinstance(text, str):
            raise InvalidRequest("The text of a part must be a string.", param=f"{path}.{key}")
        return {"type": "text", "text": text}
    if kind == "input_image" and isinstance(url := part.get("image_url"), str) and url:
        return {"type": "image_url", "image_url": {"url": url}}
    return {**part}


# --- the other members


def _tool(tool: Placed) -> Json:
    """Return a tool of the chat. The rules of the chat refuse one that makes no sense."""
    value = tool.value
    name = _string(tool, "name")
    if value["type"] == "custom":
        return {"type": "custom", "custom": {"name": name, "description": value.get("description")}}
    known = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: value[name] for name in known if value.get(name) is not None}}


def _tool_choice(choice: Any) -> Json:
    if isinstance(choice, dict) and choice.get("type") in ("function", "custom"):
        return {"tool_choice": {"type": "function", "function": {"name": choice.get("name")}}}
    return {"tool_choice": choice}  # a word, or `allowed_tools`: the rules of the chat read both


def _text(text: Any) -> Json:
    if not isinstance(text, dict):
        raise InvalidRequest("`text` must be an object.", param="text")
    form = text.get("format")
    if form is None:
        return {}
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"response_format": {"type": kind}}
    if kind == "json_schema":
        named = {name: form[name] for name in ("name", "description", "schema", "strict") if form.get(name) is not None}
        return {"response_format": {"type": kind, "json_schema": named}}
    raise InvalidRequest("`text.format` must be of type text, json_object or json_schema.", param="text.format.type")


def _reasoning(reasoning: Any) -> Json:
    if not isinstance(reasoning, dict):
        raise InvalidRequest("`reasoning` must be an object.", param="reasoning")
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


_READS: Final[Mapping[str, Callable[[Any], Json]]] = MappingProxyType(
    {
        "tool_choice": _tool_choice,
        "text": _text,
        "reasoning": _reasoning,
        "max_output_tokens": lambda most: {"max_tokens": most},
        "top_logprobs": lambda most: {"logprobs": True, "top_logprobs": most} if most else {},
    }
)
