"""Fuzz target: the framer of server-sent events (proxy.wire.sse)."""

import zlib
from typing import NamedTuple

from proxy.errors import UpstreamProtocolError
from proxy.wire.sse import Event, EventFramer
from tests.fuzz.reference import BOM, payloads, pieces

#: Small, so that inputs of a few hundred bytes reach it.
LIMIT = 300
#: The longest blank line: it comes after the event's own bytes.
BLANK_LINE = 4


class Framed(NamedTuple):
    """The events of one stream, and the message of the error that ended them."""

    events: list[Event]
    error: str | None


def check(data: bytes) -> None:
    """Assert what holds for every stream of bytes."""
    at_once = framed([data])
    assert framed(pieces(data, 1)) == at_once, "byte by byte, other events"
    assert framed(pieces(data, 2 + zlib.crc32(data) % 61)) == at_once, "in pieces, other events"
    raw = b"".join(event.raw for event in at_once.events)
    assert (data + b"\n" if data.endswith(b"\r") else data).startswith(raw), "the events are not the stream"
    assert at_once.error or len(data) - len(raw) <= LIMIT + BLANK_LINE, "more is held than the limit"
    for event in at_once.events:
        _check_event(event)
    if BOM not in data[1:]:  # the framer drops one at the start of any event, the standard only at the stream's
        _check_payloads(at_once, payloads(data))


def framed(cuts: list[bytes]) -> Framed:
    """Frame a stream cut like this, to its end or to an error, after which nothing more may come."""
    framer = EventFramer(LIMIT)
    events: list[Event] = []
    try:
        for cut in cuts:
            framer.receive_data(cut)
            events += iter(framer.next_event, None)
        framer.receive_eof()
        events += iter(framer.next_event, None)
    except UpstreamProtocolError as error:
        failure = error
    else:
        return Framed(events, None)
    assert failure.code == "event_too_large"
    _check_stays_failed(framer)
    return Framed(events, failure.message)


def _check_stays_failed(framer: EventFramer) -> None:
    framer.receive_data(b"\n\ndata: x\n\n")
    try:
        event = framer.next_event()
    except UpstreamProtocolError:
        return
    raise AssertionError(f"after an error came {event}")


def _check_event(event: Event) -> None:
    assert len(event.raw) <= LIMIT + BLANK_LINE
    assert event.payload is None or not {*b"\r\n"} & {*event.payload}, "a payload is on one line"
    if event.comment:
        *lines, last, end = event.comment.split(b"\n")
        assert (last, end) == (b"", b"")
        assert all(line.startswith(b":") and b"\r" not in line for line in lines)


def _check_payloads(found: Framed, expected: list[bytes]) -> None:
    given = [event.payload for event in found.events if event.payload is not None]
    if found.error is None:
        assert given == expected, "other payloads than the standard's"
    else:
        assert given == expected[: len(given)], "other payloads than the standard's, before an error"
