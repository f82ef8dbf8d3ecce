"""
A chat request on the wire: the shapes Mistral's own clients send, and how a body is taken apart.

Only what some rule reads is decoded. A message that decodes as `Message` is in the form every Mistral
chat server accepts, so no message rule has anything to do on it, and its bytes go on as they came.
Everything else is decoded to plain dicts and repaired by the message rules first.
"""

import json
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.errors import InvalidRequest

Role = Literal["system", "user", "assistant", "tool"]


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    """What to call; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, forbid_unknown_fields=True):
    """One call of an assistant turn. vLLM 0.32 refuses a call without `type`."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
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


_QUOTE, _BRACKET = ord('"'), ord("[")

_encoder = msgspec.json.Encoder()
_any_decoder = msgspec.json.Decoder()
_text_decoder = msgspec.json.Decoder(str)
_object_decoder = msgspec.json.Decoder(dict[str, Raw])
_list_decoder = msgspec.json.Decoder(list[Raw])
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


def is_blank(content: Raw | UnsetType) -> bool:
    """Tell whether `content` is absent, null, an empty list, or a string of white space."""
    if content is UNSET:
        return True
    view = memoryview(content)
    if view[0] == _QUOTE:
        # Nearly every text starts with a visible character: two bytes settle it.
        return view[1] in b' \\"' and not _text_decoder.decode(content).strip()
    return bytes(view) in (b"null", b"[]")


def canonical_message(raw: Raw) -> Message | None:
    """Return `raw` as a `Message` when no message rule would change it, else None."""
    try:
        message = _message_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    return message if _IS_CANONICAL[message.role](message) else None


def _is_plain_text(message: Message) -> bool:
    return holds_text(message.content) and _has_only_content(message)


def _is_tool_result(message: Message) -> bool:
    return (
        holds_text(message.content)
        and message.tool_calls is UNSET
        and message.reasoning is UNSET
        and message.prefix is UNSET
    )


def _is_assistant_turn(message: Message) -> bool:
    if message.tool_calls is UNSET:
        return _is_plain_text(message)
    if message.tool_call_id is not UNSET or message.name is not UNSET:
        return False
    if message.reasoning is not UNSET or message.prefix is not UNSET or holds_parts(message.content):
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


def decode_body(body: bytes) -> dict[str, Raw]:
    """
    Return the members of a request body, each still JSON text.

    Raises:
        InvalidRequest: not UTF-8, not JSON (NaN, lone surrogates and 1,024 levels included), not an
            object, or a key given twice at the top level.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec skips over strings it does not unpack: only this checks their bytes
        members = _object_decoder.decode(body)
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"The body is not UTF-8: byte {exc.start} cannot be decoded.", param="$") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", param="$") from None
    except msgspec.ValidationError:
        raise InvalidRequest("The body must be a JSON object.", param="$") from None
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}.", param="$") from None
    if not _is_tight(body, members):
        refuse_repeated_keys(body, "$")
    return members


def split_list(raw: Raw, name: str) -> list[Raw]:
    """
    Return the items of a member that is a list, each still JSON text.

    Raises:
        InvalidRequest: not a list.
    """
    try:
        return _list_decoder.decode(raw)
    except msgspec.ValidationError:
        raise InvalidRequest(f"`{name}` must be a list of objects.", param=name) from None


def split_messages(raw: Raw) -> list[Raw]:
    """
    Return the messages of a request, each still JSON text.

    Raises:
        InvalidRequest: not a list, an empty one, or a message that gives its role or content twice.
    """
    messages = split_list(raw, "messages")
    if not messages:
        raise InvalidRequest("`messages` must hold at least one message.", param="messages")
    text = bytes(raw)
    if text.count(b'"role"') > len(messages) or text.count(b'"content"') > len(messages):
        refuse_repeated_keys(text, "messages")
    return messages


def _is_tight(body: bytes, members: dict[str, Raw]) -> bool:
    """
    Prove cheaply that no top-level key is given twice: the parts that were kept fill the body.

    Two spacings are known, `{"a":1,"b":2}` and `{"a": 1, "b": 2}`; any other is looked at key by key.
    """
    kept = 2 + sum(len(key.encode()) + memoryview(value).nbytes + 4 for key, value in members.items()) - 1
    return len(body) in (kept, kept + 2 * len(members) - 1)


def refuse_repeated_keys(text: bytes, path: str) -> None:
    """
    Refuse JSON text in which an object has the same key twice (RFC 8259, section 4: behaviour is
    unpredictable; which of the two counts would depend on who reads it).
    """

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidRequest(f"The key `{twice[:64]}` is given twice in one object.", param=path)
        return found

    try:
        json.loads(text, object_pairs_hook=members)
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", param="$") from None
    except ValueError:  # a whole number of more than 4,300 digits
        raise InvalidRequest("The body holds a number that is too long to read.", param=path) from None
