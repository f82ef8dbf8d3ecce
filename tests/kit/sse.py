"""How server-sent events are read, after the WHATWG's HTML standard, 9.2.6."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple


class Event(NamedTuple):
    """An event, or a comment: such lines keep a silent stream open."""

    data: str
    is_comment: bool = False

    @property
    def json(self) -> dict[str, Any]:
        """
        Return the object it holds; {} for anything else, such as [DONE].

        Raises:
            ValueError: it is not JSON.
        """
        if self.is_comment or self.data == "[DONE]":
            return {}
        found = json.loads(self.data)
        return found if isinstance(found, dict) else {}


class EventReader:
    """Lines end in CR, LF or CRLF; a blank one ends an event; `data` lines are joined by LF, less one leading space."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[Event]:
        """
        Yield what `piece` completes.

        Raises:
            UnicodeDecodeError: a line is not UTF-8.
        """
        *lines, self._rest = _lines(self._rest + piece)
        for line in map(bytes.decode, lines):
            if line.startswith(":"):
                yield Event(line, is_comment=True)
            elif line.startswith("data:"):
                self._data.append(line[5:].removeprefix(" "))
            elif not line and self._data:
                yield Event("\n".join(self._data))
                self._data.clear()

    @property
    def is_inside_an_event(self) -> bool:
        """Whether the stream so far ends inside an event."""
        return bool(self._rest.strip() or self._data)


def _lines(text: bytes) -> list[bytes]:
    """Split after each line end; a CR at the very end waits for its LF."""
    held = b"\r" if text.endswith(b"\r") else b""
    lines = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    lines[-1] += held
    return lines
