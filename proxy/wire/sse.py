"""
Server-sent events: from pieces of bytes, cut anywhere, to whole events.

    stream  = *event            event = *line blank-line
    line    = ":" comment | field [":" [" "] value]      ended by LF, CRLF or CR

The format is WHATWG's (HTML, 9.2.6). What OpenAI-style streams use of it: `data` lines, comments as keep-alives, and
the payload `[DONE]` as the last event. Other fields (`event`, `id`, `retry`) carry nothing here and are dropped.
"""

import re
from typing import Final

import msgspec

from proxy.errors import UpstreamProtocolError

DONE: Final = b"[DONE]"
DONE_EVENT: Final = b"data: [DONE]\n\n"

_BOM: Final = b"\xef\xbb\xbf"
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
# A CR that is the last byte so far may be the first half of a CRLF: it ends nothing until the next byte is known.
_BLANK_LINE: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?=[^\n]))")
_LONGEST_BLANK_LINE: Final = 4


class Event(msgspec.Struct, frozen=True, gc=False):
    """
    One event. `payload` is what its data lines say, on one line, None where they say nothing; `raw` is the event as it
    came.
    """

    payload: bytes | None
    raw: bytes

    @property
    def comment(self) -> bytes:
        """Its comments as an event, b"" if it has none: keep-alives."""
        lines = [line for line in _LINE_END.split(self.raw.removeprefix(_BOM)) if line.startswith(b":")]
        return b"\n".join([*lines, b"\n"]) if lines else b""


def data_event(payload: bytes) -> bytes:
    """Return `payload`, which must not contain a line end, as one event."""
    return b"data: " + payload + b"\n\n"


class EventFramer:
    """
    Finds events in a stream of bytes.

    `receive_data` only stores; call `next_event` until it returns None. Every byte is searched once and stored once,
    however the stream is cut. At most `max_event_bytes` plus one piece is held.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._has_cr = False

    def receive_data(self, piece: bytes) -> None:
        """Store a piece of the stream."""
        if not self._has_cr and b"\r" in piece:
            self._has_cr = True
        self._buffer += piece

    def receive_eof(self) -> None:
        """The stream has ended: a CR that was the last byte was a line end of its own."""
        if self._buffer.endswith(b"\r"):
            self._buffer += b"\n"

    def next_event(self) -> Event | None:
        """
        Return the next whole event, or None until there is more data.

        Raises:
            UpstreamProtocolError: an event is longer than `max_event_bytes`.
        """
        if not self._buffer or (end := self._end_of_event()) == -1:
            return None
        return _parse(self._take(end))

    def _take(self, end: int) -> bytes:
        self._searched = 0
        if end == len(self._buffer):  # the usual case: an upstream sends each event on its own
            raw = bytes(self._buffer)
            self._buffer.clear()
        else:
            raw = bytes(self._buffer[:end])
            del self._buffer[:end]
        return raw

    def _end_of_event(self) -> int:
        """Return where the first event ends, its blank line included, or -1."""
        length, end = -1, -1
        if self._has_cr:
            if match := _BLANK_LINE.search(self._buffer, self._searched):
                length, end = match.span()
        else:
            length = self._buffer.find(b"\n\n", self._searched)
            end = length + 2 if length != -1 else -1
        if end == -1:
            # No blank line begins before this, so the search stays linear.
            self._searched = max(0, len(self._buffer) - _LONGEST_BLANK_LINE + 1)
            length = self._searched
        if length > self._max_event_bytes:
            raise UpstreamProtocolError(
                f"The model server sent an event of more than {self._max_event_bytes} bytes.", code="event_too_large"
            )
        return end


def _parse(raw: bytes) -> Event:
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        return Event(raw[6:-2] or None, raw)
    values = []
    for line in _LINE_END.split(raw.removeprefix(_BOM)):
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value.removeprefix(b" "))
    # The standard joins lines by LF. In JSON a space is the same, and keeps the payload on one line.
    # An event whose data is empty is not dispatched.
    return Event(b" ".join(values) or None, raw)
