"""
A chat request's messages on the wire: the form that Mistral's own clients send.

Only what some rule reads is decoded. A message that decodes as `Message` is in the form every Mistral
chat server accepts, so no message rule has anything to do on it, and its bytes go on as they came.
Everything else is decoded to plain dicts and repaired by the message rules first.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

Role = Literal["system", "user", "assistant", "tool"]

# gc=False: a message holds no reference back to itself, and a long history is thousands of objects that the
# garbage collector would walk through again and again.


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What to call; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One call of an assistant turn. vLLM 0.32 refuses a call without `type`."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """
    One message in the form that Mistral's servers accept.

    `content` stays JSON text: a string, a list of parts, or null beside tool calls. It is unpacked only by
    the few rules that join or read it (`text_of`, `parts_of`).
    """

    role: Role
    content: Raw | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    prefix: bool | UnsetType = UNSET

    @property
    def calls(self) -> list[ToolCall]:
        """The tool calls of an assistant turn, or an empty list."""
        return self.tool_calls if self.tool_calls is not UNSET else []


_QUOTE, _BRACKET, _NULL = ord('"'), ord("["), ord("n")  # what a JSON value starts with tells its type

_encoder = msgspec.json.Encoder()
_any_decoder = msgspec.json.Decoder()
_text_decoder = msgspec.json.Decoder(str)
_object_decoder = msgspec.json.Decoder(dict[str, Raw])
_message_decoder = msgspec.json.Decoder(Message)

encode = _encoder.encode
decode = _any_decoder.decode


def text_content(text: str) -> Raw:
    """Return `text` as a message's content."""
    return Raw(_encoder.encode(text))


def parts_content(parts: list[Any]) -> Raw:
    """Return a list of content parts as a message's content."""
    return Raw(_encoder.encode(parts))


def holds_text(content: Raw | UnsetType) -> bool:
    """Tell whether `content` is a JSON string."""
    return content is not UNSET and memoryview(content)[0] == _QUOTE


def holds_parts(content: Raw | UnsetType) -> bool:
    """Tell whether `content` is a JSON list."""
    return content is not UNSET and memoryview(content)[0] == _BRACKET


def is_null(raw: Raw | UnsetType) -> bool:
    """Tell whether JSON text is null."""
    return raw is not UNSET and memoryview(raw)[0] == _NULL


def text_of(content: Raw | UnsetType) -> str:
    """Return the text of a string content; "" for anything else."""
    return _text_decoder.decode(content) if content is not UNSET and holds_text(content) else ""


def parts_of(content: Raw | UnsetType) -> list[Any]:
    """Return content as a list of parts: a string is one text part, null and absent are none."""
    if content is UNSET:
        return []
    value = _any_decoder.decode(content)
    if isinstance(value, list):
        return value
    return [{"type": "text", "text": value}] if value else []


def visible_text(content: Raw | UnsetType) -> str:
    """Return all the text in content: the string, or the text parts with a blank line between."""
    if not holds_parts(content):
        return text_of(content)
    return "\n\n".join(part["text"] for part in parts_of(content) if part.get("type") == "text" and part["text"])


def joined_contents(contents: list[Raw | UnsetType]) -> Raw | UnsetType:
    """Return several contents as one: texts with a blank line between, or all their parts in a row."""
    said = [content for content in contents if not is_blank(content)]
    if len(said) < 2:
        return said[0] if said else contents[0]
    if any(holds_parts(content) for content in said):
        return parts_content([part for content in said for part in parts_of(content)])
    return text_content("\n\n".join(map(text_of, said)))


def is_blank(content: Raw | UnsetType) -> bool:
    """Tell whether `content` is absent, null, an empty list, or a string of white space."""
    if content is UNSET:
        return True
    view = memoryview(content)
    if view[0] == _QUOTE:
        # Nearly every text starts with a visible character: two bytes settle it.
        return view[1] in b' \\"' and not _text_decoder.decode(content).strip()
    return view[0] == _NULL or (view[0] == _BRACKET and view.nbytes == 2)


def decode_message(raw: Raw) -> Message:
    """Return the message that was decoded from `raw`, or encoded to it, before."""
    return _message_decoder.decode(raw)


# What a message weighs beside its values, written as compact JSON: {"role":"","content":} and the two ids.
_FRAME, _ID_FRAME, _NAME_FRAME = 22, 18, 10
# A second role or content is at least this long: ,"role":"user" or ,"content":0
_SECOND_KEY = 12


def gives_keys_once(message: Message, size: int) -> bool:
    """
    Prove cheaply that a message of `size` bytes, decoded to `message`, has its role and content once.

    What was kept fills it: counting the keys in 1 MB of results costs 0.9 ms. False is no proof of the contrary:
    other spacing, escapes and calls are not reckoned with.
    """
    if message.tool_calls is not UNSET or message.content is UNSET:
        return False
    least = _FRAME + len(message.role) + memoryview(message.content).nbytes
    if message.tool_call_id is not UNSET:
        least += _ID_FRAME + len(message.tool_call_id)
    if message.name is not UNSET:
        least += _NAME_FRAME + len(message.name)
    return size < least + _SECOND_KEY


def canonical_message(raw: Raw) -> Message | None:
    """Return `raw` as a `Message` when no message rule would change it, else None."""
    try:
        message = _message_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    return message if is_canonical(message) else None


def is_canonical(message: Message) -> bool:
    """Tell whether no message rule would change `message`."""
    return _IS_CANONICAL[message.role](message)


def _is_plain_text(message: Message) -> bool:
    return holds_text(message.content) and _has_only_content(message)


def _is_tool_result(message: Message) -> bool:
    return (
        holds_text(message.content)
        and message.tool_calls is UNSET
        and message.reasoning is UNSET
        and message.prefix is UNSET
        and message.name != ""
    )


def _is_assistant_turn(message: Message) -> bool:
    if message.tool_calls is UNSET:
        return _is_plain_text(message)
    if message.tool_call_id is not UNSET or message.name is not UNSET:
        return False
    if message.reasoning is not UNSET or message.prefix is not UNSET:
        return False
    if not (message.content is UNSET or holds_text(message.content) or is_null(message.content)):
        return False
    return bool(message.tool_calls) and all(is_json_object(c.function.arguments) for c in message.tool_calls)


def _has_only_content(message: Message) -> bool:
    return (
        message.tool_calls is UNSET
        and message.tool_call_id is UNSET
        and message.name is UNSET
        and message.reasoning is UNSET
        and message.prefix is UNSET
    )


_IS_CANONICAL = {
    "system": _is_plain_text,
    "user": _is_plain_text,
    "assistant": _is_assistant_turn,
    "tool": _is_tool_result,
}


def is_json_object(text: str) -> bool:
    """Tell whether `text` is the text of a JSON object."""
    try:
        _object_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True
