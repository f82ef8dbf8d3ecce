"""What becomes of a recorded stream: each event that came, what goes out for it, and how it ends."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from proxy.errors import ProxyError
from proxy.explain.differences import Change, changed_paths
from proxy.translate.expectation import Expectation
from proxy.translate.stream import State, StreamTranslator
from proxy.wire.completion import Usage
from proxy.wire.sse import DONE, EventFramer, parse_event

Outcome = Literal["passed", "changed", "silent"]

#: How a stream ends for its client, in words. In no other state is one whose data has ended, if nobody resumes it.
ENDINGS: Final[Mapping[State, str]] = MappingProxyType(
    {
        State.CLOSED: "complete: the client gets its finish reason and [DONE]",
        State.FAILED: "failed: the client gets an error event and [DONE]",
    }
)


class EventReport(NamedTuple):
    """
    What one event became. `came` is b"" for what comes out after the last one.

    `rules` are those that changed something for the first time in this stream. `marks` are the places that differ,
    or how many events came out: events with the same marks were changed in the same way.
    """

    number: int
    came: bytes
    out: bytes
    rules: tuple[str, ...]
    marks: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """Whether it passed as it came, became something else, or brought nothing out."""
        if self.out == self.came:
            return "passed"
        return "changed" if self.out else "silent"


class StreamReport(NamedTuple):
    """A stream, event by event, and what is known at its end."""

    events: tuple[EventReport, ...]
    state: State
    finish_reasons: tuple[str, ...]
    usage: Usage | None
    rules: tuple[str, ...]
    error: ProxyError | None
    wants_whole: bool


def explain_stream(data: bytes, expectation: Expectation) -> StreamReport:
    """Return what a client gets of the upstream's stream `data`, whose end is the end of the connection."""
    translator = StreamTranslator(expectation)
    events: list[EventReport] = []
    known: tuple[str, ...] = ()
    for number, raw in enumerate(pieces_of(data), start=1):
        out = translator.receive(raw)
        new = tuple(rule for rule in translator.rules_applied if rule not in known)
        known = translator.rules_applied
        events.append(EventReport(number, raw, out, new, _marks(raw, out)))
    if last := translator.receive_eof():
        events.append(EventReport(len(events) + 1, b"", last, (), _marks(b"", last)))
    return StreamReport(
        tuple(events),
        translator.state,
        translator.finish_reasons,
        translator.usage,
        translator.rules_applied,
        translator.error,
        translator.wants_whole,
    )


def pieces_of(data: bytes) -> Iterator[bytes]:
    """Cut a stream into its events; the last piece may be the start of one that was cut off."""
    framer = EventFramer(len(data) + 1)
    framer.receive_data(data)
    at = 0
    while (raw := framer.next_raw()) is not None:
        at += len(raw)
        yield raw
    if at < len(data):
        yield data[at:]


def payloads_of(out: bytes) -> list[bytes]:
    """Return what the events in `out` say, comments and `[DONE]` as they are."""
    events = [parse_event(raw) for raw in pieces_of(out)]
    return [event.raw.strip() if event.payload is None else event.payload for event in events]


def one_change(came: bytes, out: bytes) -> Change | None:
    """Return an event that became one other as a change; None where it is not as simple as that."""
    before, after = payloads_of(came), payloads_of(out)
    if len(before) != 1 or len(after) != 1 or not (_is_object(before[0]) and _is_object(after[0])):
        return None
    return Change((), (), before[0], after[0])


def _is_object(payload: bytes) -> bool:
    return payload.startswith(b"{") and payload.endswith(b"}")


def _marks(came: bytes, out: bytes) -> tuple[str, ...]:
    if out == came:
        return ()
    try:
        change = one_change(came, out)
        if change is not None:
            return tuple(changed_paths([change]))
    except (ValueError, RecursionError):  # what came is no JSON, or none to be shown
        pass
    return (f"{len(payloads_of(out))} out", *(["end"] if DONE in out else []))


def usage_facts(usage: Usage | None) -> dict[str, Any]:
    """Return the counters that are known, by name."""
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {name: value for name in names if usage and (value := getattr(usage, name)) is not None}
