"""How a request's body is taken apart: its members and its messages, each still JSON text."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw

from proxy.errors import InvalidRequest

_object_decoder = msgspec.json.Decoder(dict[str, Raw])
_list_decoder = msgspec.json.Decoder(list[Raw])


def decode_body(body: bytes) -> dict[str, Raw]:
    """
    Return the members of a request body, each still JSON text.

    Raises:
        InvalidRequest: not UTF-8, not JSON (NaN, lone surrogates and about 1,000 levels included), not an
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
        _refuse_repeated_keys(body, "$")
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
        _refuse_repeated_keys(text, "messages")
    return messages


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
    Refuse an object, or a list with an object, that has the same key twice.

    RFC 8259, section 4: behaviour is unpredictable; which of the two counts would depend on who reads it.
    Objects further inside are their readers' affair.
    """
    try:
        # Numbers stay text: one of more than 4,300 digits is no error here.
        value = json.loads(text, object_pairs_hook=_Pairs, parse_int=str)
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", param="$") from None
    for i, pairs in enumerate([value] if isinstance(value, _Pairs) else value):
        if isinstance(pairs, _Pairs) and (twice := _first_repeated(name for name, _ in pairs)) is not None:
            where = path if isinstance(value, _Pairs) else f"{path}[{i}]"
            raise InvalidRequest(f"The key `{twice[:64]}` is given twice in one object.", param=where)


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
