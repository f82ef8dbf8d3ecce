"""JSON text as lines that a person reads: each knows its path, and long values are shortened to where they differ."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from proxy.translate.chat import JsonPath

#: Arbitrary: what fits a line of a terminal beside its key.
LONGEST_VALUE: Final = 100
_BEFORE_DIFFERENCE: Final = 20
#: Arbitrary: no request that a model reads is nested so deeply; Python's own limit is some hundred levels more.
DEEPEST: Final = 60

#: What a terminal would obey, or would hide: controls, C1 among them, and characters that turn the direction of text.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class Number(str):
    """A number as it was written: one of 5,000 digits is no int, and 1.0 is not 1."""

    __slots__ = ()


class Line(NamedTuple):
    """A line of a JSON text: `head` is its indent and key, `value` the rest, `comma` what follows it."""

    path: JsonPath
    head: str
    value: str
    comma: str = ""

    @property
    def said(self) -> tuple[str, str]:
        """What counts when lines are compared."""
        return self.head, self.value


def plain_of(text: bytes) -> Any:
    """
    Return JSON text as plain values, numbers as they were written.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=Number)


def lines_of(value: Any, path: JsonPath = (), depth: int = 0) -> list[Line]:
    """Return plain values as indented lines; `path` is where they stand."""
    return list(_lines(value, path, "  " * depth, depth))


def _lines(value: Any, path: JsonPath, head: str, depth: int) -> Iterator[Line]:
    items: list[tuple[str, Any, JsonPath]]
    inner = "  " * (depth + 1)
    if isinstance(value, dict) and value:
        opening, closing = "{", "}"
        items = [(f"{inner}{scalar(key)}: ", item, (*path, key)) for key, item in value.items()]
    elif isinstance(value, list) and value:
        opening, closing = "[", "]"
        items = [(inner, item, (*path, i)) for i, item in enumerate(value)]
    else:
        yield Line(path, head, scalar(value))
        return
    if depth >= DEEPEST:
        yield Line(path, head, f"{opening} nested more deeply than is shown {closing}")
        return
    yield Line(path, head, opening)
    for i, (item_head, item, item_path) in enumerate(items):
        *before, last = _lines(item, item_path, item_head, depth + 1)
        yield from before
        yield last if i == len(items) - 1 else last._replace(comma=",")
    yield Line(path, "  " * depth, closing)


def scalar(value: Any) -> str:
    """Return a value that is one line of JSON, fit for a terminal."""
    if isinstance(value, Number):
        return str(value)
    return printable(json.dumps(value, ensure_ascii=False))


def inline(value: Any, depth: int = 0) -> str:
    """Return plain values on one line; members that are null are left out."""
    if depth > DEEPEST:
        return "…"
    if isinstance(value, dict):
        items = (f"{scalar(key)}: {inline(item, depth + 1)}" for key, item in value.items() if item is not None)
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(inline(item, depth + 1) for item in value)}]"
    return scalar(value)


def printable(text: str) -> str:
    """Return `text` without characters that a terminal would obey; they are written as JSON escapes."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shortened(value: str, other: str = "") -> str:
    """Return `value` as one line of at most some 150 characters, from near where it differs from `other`."""
    if len(value) <= LONGEST_VALUE:
        return value
    same = next((i for i, (ours, theirs) in enumerate(zip(value, other, strict=False)) if ours != theirs), len(other))
    start = max(0, min(same, len(value)) - _BEFORE_DIFFERENCE)
    end = start + LONGEST_VALUE
    text = ("…" if start else "") + value[start:end] + ("…" if end < len(value) else "")
    return f"{text} ({len(value) - 2:,} characters)"


def ordered_like(value: Any, model: Any, depth: int = 0) -> Any:
    """Return `value` with the keys of its objects in the order that `model` has them, and new ones last."""
    if depth > DEEPEST:
        return value
    if isinstance(value, dict) and isinstance(model, dict):
        names = [*(name for name in model if name in value), *(name for name in value if name not in model)]
        return {name: ordered_like(value[name], model.get(name), depth + 1) for name in names}
    if isinstance(value, list) and isinstance(model, list):
        models = [*model, *[None] * len(value)]
        return [ordered_like(item, like, depth + 1) for item, like in zip(value, models, strict=False)]
    return value
