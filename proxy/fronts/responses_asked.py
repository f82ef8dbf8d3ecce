"""A request to the Responses API, taken apart: what its rules change and what becomes of it as a chat."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from proxy.errors import InvalidRequest
from proxy.wire.body import check_utf8, decode_body, refuse_bad_utf8
from proxy.wire.chat import decode, is_null

Json = dict[str, Any]

#: Members that an answer repeats, and what it says without them.
ECHOED: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": None,
        "user": None,
    }
)

_BY_ID: Final = "Nothing is kept here: send the whole conversation in `input`, without"

#: What only a server that keeps answers can do, and what to do instead.
NEEDS_A_STORE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "previous_response_id": f"{_BY_ID} `previous_response_id`.",
        "conversation": f"{_BY_ID} `conversation`.",
        "prompt": "No prompts are kept here: write the prompt's text into `instructions` or `input`.",
        "background": "Answers are not kept here to be asked for later: leave `background` out, and stream instead.",
    }
)

#: Items that stand for what only the server that made them can read.
_UNREADABLE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "item_reference": f"{_BY_ID} items of type `item_reference` (AI SDK: `providerOptions.openai.store: false`).",
        "compaction": "A compacted history is encrypted, and only who made it can read it: send the items themselves.",
        "context_compaction": "A compacted history is encrypted: send the items themselves.",
        "compaction_trigger": "Histories are not compacted here: leave the item out.",
    }
)


class Called(NamedTuple):
    """What a function of the chat is to the client: an item of type `kind`, with a name and perhaps a namespace."""

    kind: str
    name: str
    namespace: str | None = None


class Placed(NamedTuple):
    """An item or a tool, and its path in the client's body."""

    path: str
    value: Json


class Said(NamedTuple):
    """
    What an answer needs of its request, which may be long: nothing else of it is kept.

    `echo` has what the answer repeats, `names` which function of the chat stands for which tool of the client, where
    they differ.
    """

    echo: Json
    names: Mapping[str, Called]
    wants_summary: bool


class Asked:
    """
    The request while the front's rules work on it; all values are plain.

    `names` says which function of the chat stands for which tool of the client, where they differ.
    """

    __slots__ = ("_echo", "items", "members", "names", "tools")

    def __init__(self, members: dict[str, Raw]) -> None:
        #: everything but input and tools
        self.members: Json = {
            name: _plain(raw, name) for name, raw in members.items() if name not in ("input", "tools")
        }
        self.items: list[Placed] = _items_of(members)
        self.tools: list[Placed] = _tools_of(members)
        self.names: dict[str, Called] = {}
        self._echo: Json = {
            name: otherwise if (raw := members.get(name)) is None or is_null(raw) else _on_one_line(raw)
            for name, otherwise in ECHOED.items()
        }

    def said(self) -> Said:
        """Return what the answer needs."""
        reasoning = self.members.get("reasoning")
        wants_summary = isinstance(reasoning, dict) and (reasoning.get("summary") or reasoning.get("generate_summary"))
        return Said(self._echo, self.names, bool(wants_summary))


def read_request(body: bytes) -> Asked:
    """
    Take a request apart.

    Raises:
        InvalidRequest: it is no JSON object, has no input, or leans on something that only a store can give.
        PayloadTooLarge: it has too many values.
    """
    try:
        check_utf8(body)
        asked = Asked(decode_body(body))
    except UnicodeDecodeError:
        refuse_bad_utf8(body)
        raise
    for name, advice in NEEDS_A_STORE.items():
        value = asked.members.get(name)
        if not (value is None or value is False or value == ""):
            raise InvalidRequest(advice, param=name)
    if not isinstance(asked.members.get("instructions"), str | None):
        raise InvalidRequest("`instructions` must be a string.", param="instructions")
    return asked


def kind_of(item: Json) -> Any:
    """Return the type of an item; one with a role needs none."""
    kind = item.get("type")
    if kind is None:
        return "message" if "role" in item else "item_reference" if "id" in item else None
    return kind


def _items_of(members: Mapping[str, Raw]) -> list[Placed]:
    given = _plain(members.get("input", Raw(b"null")), "input")
    if isinstance(given, str):
        return [Placed("input", {"type": "message", "role": "user", "content": given})]
    if not isinstance(given, list) or not given:
        more = "; `messages` are asked for at /v1/chat/completions" if "messages" in members else ""
        raise InvalidRequest(f"`input` must be a string or a list of at least one item{more}.", param="input")
    items = []
    for i, item in enumerate(given):
        path = f"input[{i}]"
        if not isinstance(item, dict):
            raise InvalidRequest("An item must be an object.", param=path)
        kind = kind_of(item)
        if not isinstance(kind, str):
            raise InvalidRequest("An item needs a `type` that is a string.", param=f"{path}.type")
        if kind in _UNREADABLE:
            raise InvalidRequest(_UNREADABLE[kind], param=path)
        items.append(Placed(path, item))
    return items


def _tools_of(members: Mapping[str, Raw]) -> list[Placed]:
    return tools_at("tools", _plain(members.get("tools", Raw(b"null")), "tools"))


def tools_at(path: str, given: Any) -> list[Placed]:
    """
    Return a list of tools, each with its place.

    Raises:
        InvalidRequest: it is no list of objects with a type.
    """
    if given is None:
        return []
    if not isinstance(given, list):
        raise InvalidRequest("Tools must be a list.", param=path)
    for i, tool in enumerate(given):
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise InvalidRequest("A tool must be an object with a `type`.", param=f"{path}[{i}]")
    return [Placed(f"{path}[{i}]", tool) for i, tool in enumerate(given)]


def _on_one_line(raw: Raw) -> Raw:
    """Return JSON text that fits into an event, without the body that it is from. Strings escape their line ends."""
    text = bytes(raw)
    return Raw(msgspec.json.format(text, indent=-1) if b"\n" in text or b"\r" in text else text)


def _plain(raw: Raw, name: str) -> Any:
    """
    Return the value of a member.

    Raises:
        InvalidRequest: a number in it is out of range, or it is nested too deeply.
    """
    try:
        return decode(raw)
    except msgspec.DecodeError:
        raise InvalidRequest("A number is out of range.", param=name) from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", param="$") from None
