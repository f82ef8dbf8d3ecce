"""
How a tool call looks when it reaches `content` as text (R3).

    M1   [TOOL_CALLS] then a JSON array or object of {name, arguments[, id]}            tokenizers v2 to v7
    M2   [TOOL_CALLS] name [CALL_ID]id? [ARGS]? {...}                                    tokenizers v11 to v15
    M3   nothing but such JSON, `{"tool_calls": [...]}` too, perhaps in a ```json fence  HF templates, improvisation
    M4   name [ARGS]? {...} at the very start                                            special tokens skipped

A marker may also be typed by the model as plain text: the name of an offered tool is what tells a call from a mention.
Sources: mistral_common 1.13.1, tokens/tokenizers/instruct.py; live vLLM 0.32 without tool flags, and in HF mode.
"""

import re
from collections.abc import Collection
from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.translate.answer_parts import FoundCall
from proxy.wire.chat import is_json_object
from proxy.wire.ids import is_nine_char_id

MARKER: Final = "[TOOL_CALLS]"
_CALL_ID: Final = "[CALL_ID]"
_ARGS: Final = "[ARGS]"
_ID_LENGTH: Final = 9

_NAME: Final = re.compile(r"[^\s\[\]{}]*")
_FENCE: Final = re.compile(r"```(?:json)?")
_FENCE_STARTS: Final = ("`", "``", "```", "```j", "```js", "```jso", "```json")
_KEYS: Final = ("name", "arguments", "parameters", "id", "type", "function", "tool_calls")

# More white space than this is no gap between two tokens. The figure is arbitrary; it bounds what is held back.
_SPACE: Final = re.compile(r"\s{0,64}")


class Verdict(IntEnum):
    """What a text can still become."""

    NO_CALL = 0
    UNDECIDED = 1
    CALL = 2


class Head(msgspec.Struct, frozen=True):
    """
    What stands before the JSON of a call.

    `body` is where the JSON starts. `name` is None where the name stands inside the JSON (M1, M3).
    """

    verdict: Verdict
    body: int = 0
    name: str | None = None
    id: str | None = None


_NO: Final = Head(Verdict.NO_CALL)
_WAIT: Final = Head(Verdict.UNDECIDED)


def marked_head(text: str, names: Collection[str]) -> Head:
    """Read `text`, which begins with the marker, as M1 or M2."""
    start = _after_space(text, len(MARKER))
    if start == len(text):
        return _WAIT
    if text[start] in "[{":
        return _json_head(text, start)
    return _named_head(text, start, names)


def named_head(text: str, names: Collection[str]) -> Head:
    """Read `text`, the start of an answer, as M4."""
    start = _after_space(text, 0)
    return _WAIT if start == len(text) else _named_head(text, start, names)


def json_head(text: str) -> Head:
    """Read `text`, the start of an answer, as M3."""
    start = _after_space(text, 0)
    if text[start:] in _FENCE_STARTS:
        return _WAIT
    if fence := _FENCE.match(text, start):
        start = _after_space(text, fence.end())
    return _json_head(text, start)


def _json_head(text: str, start: int) -> Head:
    """Read the JSON at `start` up to its first key, which tells a call from other JSON."""
    at = _after_space(text, start + 1) if text.startswith("[", start) else start
    if at == len(text):
        return _WAIT
    if text[at] != "{":
        return _NO
    at = _after_space(text, at + 1)
    if at == len(text):
        return _WAIT
    if text[at] != '"':
        return _NO
    key, closing_quote, _ = text[at + 1 :].partition('"')
    if closing_quote:
        return Head(Verdict.CALL, start) if key in _KEYS else _NO
    return _WAIT if any(known.startswith(key) for known in _KEYS) else _NO


def _named_head(text: str, start: int, names: Collection[str]) -> Head:
    match = _NAME.match(text, start)
    written = match.group() if match else ""
    end = start + len(written)
    if end == len(text):
        return _WAIT if could_be_known(written, names) else _NO
    name, call_id = known_name(written, names)
    if name is None:
        return _NO
    end = _after_space(text, end)
    if text.startswith(_CALL_ID, end):
        id_end = end + len(_CALL_ID) + _ID_LENGTH
        if id_end >= len(text):
            return _WAIT
        call_id = text[end + len(_CALL_ID) : id_end]
        end = _after_space(text, id_end)
    if text.startswith(_ARGS, end):
        end = _after_space(text, end + len(_ARGS))
    if text.startswith("{", end):
        return Head(Verdict.CALL, end, name, call_id)
    rest = text[end:]
    return _WAIT if _CALL_ID.startswith(rest) or _ARGS.startswith(rest) else _NO


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def known_name(written: str, names: Collection[str]) -> tuple[str | None, str | None]:
    """
    Return the offered tool that `written` means, and the id glued to it; (None, None) if it means none.

    Older parsers leave `[ARGS]` in the name (vllm#39294); tokenizer v11's parser glues the call's id to it.
    """
    name = written.strip().removesuffix(_ARGS).strip()
    if name in names:
        return name, None
    if name[:-_ID_LENGTH] in names and is_nine_char_id(name[-_ID_LENGTH:]):
        return name[:-_ID_LENGTH], name[-_ID_LENGTH:]
    return None, None


def is_start_of_name(written: str, names: Collection[str]) -> bool:
    """Whether `written` is not the name of an offered tool, but the start of one (H8)."""
    return written not in names and any(name.startswith(written) for name in names)


def could_be_known(written: str, names: Collection[str]) -> bool:
    """Whether more letters could make `written` the name of an offered tool, an id glued to it or not."""
    return any(
        name.startswith(written) or (written.startswith(name) and len(written) <= len(name) + _ID_LENGTH)
        for name in names
    )


class _Entry(msgspec.Struct):
    """A call as JSON: flat as Mistral writes it, nested as OpenAI does. vLLM's own schema says `parameters`."""

    name: str | None = None
    arguments: Raw | UnsetType = UNSET
    parameters: Raw | UnsetType = UNSET
    id: Any = None
    function: "_Entry | None" = None


class _Wrapper(msgspec.Struct):
    tool_calls: list[_Entry]


_LIST: Final = msgspec.json.Decoder(list[_Entry])
_WRAPPER: Final = msgspec.json.Decoder(_Wrapper)
_ENTRY: Final = msgspec.json.Decoder(_Entry)
_STRING: Final = msgspec.json.Decoder(str)


def calls_in_json(text: str, names: Collection[str]) -> list[FoundCall]:
    """Return the calls that the JSON `text` spells, or none at all unless every entry is a call of an offered tool."""
    entries = _decoded(_LIST, text)
    if entries is None:
        wrapper = _decoded(_WRAPPER, text)
        entries = wrapper.tool_calls if wrapper is not None else None
    if entries is None:
        entry = _decoded(_ENTRY, text)
        entries = [entry] if entry is not None else []
    calls = [_call_from(entry, names) for entry in entries]
    return [call for call in calls if call is not None] if None not in calls else []


def _call_from(entry: _Entry, names: Collection[str]) -> FoundCall | None:
    inner = entry.function or entry
    name, glued_id = known_name(inner.name or "", names)
    arguments = _object_text(inner.parameters if inner.arguments is UNSET else inner.arguments)
    if name is None or arguments is None:
        return None
    call_id = entry.id if isinstance(entry.id, str) and is_nine_char_id(entry.id) else glued_id
    return FoundCall(name, arguments, call_id)


def _object_text(raw: Raw | UnsetType) -> str | None:
    """Return arguments as the text of a JSON object, as it was written; None if they are none."""
    if isinstance(raw, UnsetType):
        return None
    text = bytes(raw).decode()
    if text.startswith('"'):
        text = _decoded(_STRING, text)
    return text if text is not None and is_json_object(text) else None


def _decoded(decoder: Any, text: str) -> Any:
    """Return `text` decoded, or None if it is not JSON of the decoder's type."""
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
