"""How a request's body is taken apart: its members and its messages, each still JSON text."""

import json
from codecs import utf_8_decode
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from proxy.errors import InvalidRequest, PayloadTooLarge

_object_decoder = msgspec.json.Decoder(dict[str, Raw])
_list_decoder = msgspec.json.Decoder(list[Raw])

_PIECE = 65536

#: Arbitrary. A value becomes an object or several, of 50 to 500 bytes: 32 MiB of `{}` were 5 GB. The largest request of
#: an agent that was recorded has 630 values; CSV or JSON inside a string is one.
MOST_VALUES = 250_000
#: Counting takes 0.35 ms a megabyte, a sixth of translating it (2026-11-26); so much of `{}` is 320 MiB of objects.
_UNCOUNTED = 2 * 1024 * 1024


def has_too_many_values(text: bytes, most: int) -> bool:
    """
    Tell whether JSON text has more than about `most` values, without making an object of one.

    It counts the commas outside strings. A text of few bytes or commas costs next to nothing.
    """
    if len(text) <= 2 * most or text.count(b",") <= most:
        return False
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if unescaped.count(b'"') > 4 * most:  # more than a key and a value at each comma
        return True
    return sum(between.count(b",") for between in unescaped.split(b'"')[::2]) > most


def decode_body(body: bytes) -> dict[str, Raw]:
    """
    Return the members of a request body, each still JSON text.

    The bytes inside strings are not looked at: `check_utf8` does that, on the whole or on parts.

    Raises:
        InvalidRequest: not JSON (NaN, lone surrogates and about 1,000 levels included), not an object, or a key
            given twice at the top level.
        PayloadTooLarge: it has more than about `MOST_VALUES` values.
        UnicodeDecodeError: a key is not UTF-8.
    """
    if len(body) > _UNCOUNTED and has_too_many_values(body, MOST_VALUES):
        raise PayloadTooLarge(f"The body has more than {MOST_VALUES} values.", param="$")
    try:
        members = _object_decoder.decode(body)
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", param="$") from None
    except msgspec.ValidationError:
        raise InvalidRequest("The body must be a JSON object.", param="$") from None
    except msgspec.DecodeError as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}.", param="$") from None
    if not _is_tight(body, members):
        _refuse_repeated_keys(body, "$")
    return members


def check_utf8(text: bytes) -> None:
    """
    Check the bytes of a body, or of a part of it. msgspec skips over strings that it does not unpack.

    Raises:
        UnicodeDecodeError: not UTF-8.
    """
    if text.isascii():
        return
    if len(text) <= _PIECE:
        text.decode()
        return
    # In pieces, because a new string of a megabyte is memory that the system has to hand out: 0.6 ms, not 1.3.
    at, end, view = 0, len(text), memoryview(text)
    while at < end:
        at += utf_8_decode(view[at : at + _PIECE], "strict", at + _PIECE >= end)[1]


def refuse_bad_utf8(body: bytes) -> None:
    """
    Raises:
        InvalidRequest: not UTF-8.
    """
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"The body is not UTF-8: byte {exc.start} cannot be decoded.", param="$") from None


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
        InvalidRequest: not a list, or an empty one.
    """
    messages = split_list(raw, "messages")
    if not messages:
        raise InvalidRequest("`messages` must hold at least one message.", param="messages")
    return messages


def refuse_repeated_keys(message: bytes, path: str) -> None:
    """
    Refuse a message that gives its role or content twice.

    Raises:
        InvalidRequest: it does. `param` is `path`.
    """
    if message.count(b'"role"') > 1 or message.count(b'"content"') > 1:
        _refuse_repeated_keys(message, path)


def _is_tight(body: bytes, members: dict[str, Raw]) -> bool:
    """
    Prove cheaply that no top-level key is given twice: the parts that were kept fill the body.

    Two spacings are known, `{"a":1,"b":2}` and `{"a": 1, "b": 2}`; any other is looked at key by key.
    """
    kept = 2 + sum(len(key.encode()) + memoryview(value).nbytes + 4 for key, value in members.items()) - 1
    if len(body) == kept:
        return True
    is_spaced = body.startswith(b": ", len(next(iter(members), "").encode()) + 3)
    return is_spaced and len(body) == kept + 2 * len(members) - 1


class _Pairs(list[tuple[str, Any]]):
    """The members of one object, as written: a key that is given twice is in it twice."""


def _refuse_repeated_keys(text: bytes, path: str) -> None:
    """
    Refuse an object that has the same key twice.

    RFC 8259, section 4: behaviour is unpredictable; which of the two counts would depend on who reads it.
    Objects further inside are their readers' affair.
    """
    try:
        # Numbers stay text: one of more than 4,300 digits is no error here.
        value = json.loads(text, object_pairs_hook=_Pairs, parse_int=str)
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", param="$") from None
    if isinstance(value, _Pairs) and (twice := _first_repeated(name for name, _ in value)) is not None:
        raise InvalidRequest(f"The key `{twice[:64]}` is given twice in one object.", param=path)


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
