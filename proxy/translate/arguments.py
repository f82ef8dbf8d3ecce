"""The arguments of a call: the text of a JSON object, whatever was sent."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from proxy.translate.chat import Draft, JsonPath
from proxy.translate.options import Options
from proxy.wire.chat import encode, is_json_object

#: Whatever stands before the next bracket outside strings; a quote is the begin of a string that does not end.
#: Possessive, so that it neither goes back nor keeps places to go back to: 8 ms for 1 MiB of quotes.
_NEXT = re.compile(r"""[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"[^"{}\[\]]*+)*+([{}\[\]"]?)""", re.DOTALL)
_CLOSER = {"{": "}", "[": "]"}
#: No decoder here goes deeper than about 1,000 levels: what is open deeper cannot be mended.
_DEEPEST = 1000

#: What may be missing between a cut value and its closing brackets: a value, a member's second half,
#: the rest of a literal or of a number.
_FILLERS = ("", "null", ":null", "0", "e", "ue", "rue", "l", "ll", "ull", "se", "lse", "alse")


def arguments_to_json_text(draft: Draft, _: Options) -> JsonPath | None:
    """Arguments that are a JSON value are sent as its text, nothing as `{}`: vLLM 0.32 takes only text (Q10)."""
    changed: JsonPath | None = None
    for i, call in enumerate(draft.get("tool_calls", ())):
        arguments = call["function"]["arguments"]
        if isinstance(arguments, str) and arguments.strip():
            continue
        call["function"]["arguments"] = _as_text(arguments)
        changed = changed or ("tool_calls", i, "function", "arguments")
    return changed


def _as_text(arguments: Any) -> str:
    if isinstance(arguments, dict):
        return encode(arguments).decode()
    if arguments is None or isinstance(arguments, str):
        return "{}"
    return encode({"value": arguments}).decode()


def arguments_repaired(draft: Draft, _: Options) -> JsonPath | None:
    """Arguments that are not a JSON object are mended or wrapped: vLLM 0.32 would show the model `{}` (Q10, H4)."""
    return _each_invalid(draft, _mended)


def arguments_wrapped(draft: Draft, _: Options) -> JsonPath | None:
    """Arguments that are not a JSON object are kept as they were, under `_raw_arguments` (Q10, H4)."""
    return _each_invalid(draft, lambda text: _unwrapped(text) or _wrapped(text))


def _each_invalid(draft: Draft, mend: Callable[[str], str]) -> JsonPath | None:
    changed: JsonPath | None = None
    for i, call in enumerate(draft.get("tool_calls", ())):
        text = call["function"]["arguments"]
        if not is_json_object(text):
            call["function"]["arguments"] = mend(text)
            changed = changed or ("tool_calls", i, "function", "arguments")
    return changed


def _mended(text: str) -> str:
    """Unwrap what is JSON; else cut after the first whole object, or close what was left open; else wrap."""
    if (unwrapped := _unwrapped(text)) is not None:
        return unwrapped
    end, _ = _scan(text)
    if end is not None:
        return text[:end] if is_json_object(text[:end]) else _wrapped(text)
    for cut in dict.fromkeys((text, text.rstrip().rstrip(","))):
        missing = missing_end(cut)
        if missing is not None:
            return cut + missing
    return _wrapped(text)


def _unwrapped(text: str) -> str | None:
    """JSON that is not an object: a string that holds one is unwrapped once, any other value goes under `value`."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if isinstance(value, str) and is_json_object(value):
        return value
    return encode({"value": value}).decode()


def _wrapped(text: str) -> str:
    return encode({"_raw_arguments": text}).decode()


def missing_end(text: str) -> str | None:
    """Return what must be appended to make `text` a JSON object, or None when appending cannot."""
    end, closers = _scan(text)
    if end is not None or not closers:
        return None
    return next((f + closers for f in _FILLERS if is_json_object(text + f + closers)), None)


def _scan(text: str) -> tuple[int | None, str]:
    """Return the end of the leading object, or None and the characters that would close what is open."""
    if not text.lstrip().startswith("{"):
        return None, ""
    closers: list[str] = []
    at = 0
    while (found := _NEXT.match(text, at)) and (char := found[1]):
        at = found.end()
        if char == '"':
            return None, _closing_quote(text) + "".join(reversed(closers))
        if char in _CLOSER:
            if len(closers) == _DEEPEST:
                return None, ""
            closers.append(_CLOSER[char])
        else:
            closers.pop()
            if not closers:
                return at, ""
    return None, "".join(reversed(closers))


def _closing_quote(text: str) -> str:
    """Return what ends a string that `text` ends in: a backslash there wants a character first."""
    backslashes = len(text) - len(text.rstrip("\\"))
    return '\\"' if backslashes % 2 else '"'
