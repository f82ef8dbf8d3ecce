"""What is written down about one request: one canonical log line, made of facts and never of content."""

import time
from typing import Final

import msgspec

from proxy.errors import ProxyError
from proxy.observe.logs import Lines

#: Arbitrary: the longest text of a client's own choosing (path, model) that a log line repeats.
_LONGEST_TEXT: Final = 200

# nginx's code for a client that left before it had its answer; it is never sent.
CLIENT_CLOSED_REQUEST: Final = 499


def clipped(text: str) -> str:
    """Return `text`, cut to what a message or a log line may repeat of a client's own words."""
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


class Record(msgspec.Struct, kw_only=True):
    """The fields of the line, in its order. Times are milliseconds, sizes are bytes, None is "did not happen"."""

    request_id: str
    #: of the trace that the request is part of, and of its own span there (wire/trace_context.py)
    trace_id: str | None = None
    span_id: str | None = None
    client_ip: str | None
    principal: str | None = None
    method: str
    path: str
    model: str | None = None
    profile: str | None = None
    replica: str | None = None
    attempts: int = 0
    retried: tuple[str, ...] = ()
    #: what went wrong with model servers, once for each time that it was sent (upstream/error_kind.py)
    upstream_errors: tuple[str, ...] = ()
    failover: str | None = None
    queue_ms: float | None = None
    read_ms: float | None = None
    translate_ms: float | None = None
    limit: str | None = None
    cache: str | None = None
    stream: bool | None = None
    status: int = 0
    error: str | int | None = None
    error_type: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    events: int = 0
    duration_ms: float = 0
    #: when it went to a model server, counted from its headers as `ttft_ms` is
    sent_ms: float | None = None
    #: of the last attempt that had a connection, an idle one or a new one
    connect_ms: float | None = None
    ttft_ms: float | None = None
    upstream_ms: float | None = None
    rules: tuple[str, ...] = ()
    #: calls that came as text, and what was wrong with calls: once for each call that had it
    calls_recovered: int = 0
    calls_malformed: tuple[str, ...] = ()
    finish_reason: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    #: the share of requests like this one that have a line; it stands for 1 / `sample` of them
    sample: float = 1


class Stopwatch:
    """Milliseconds since the request's headers were read, and the laps that it went through one after the other."""

    __slots__ = ("_lapped", "laps", "started")

    def __init__(self) -> None:
        #: in seconds of `time.perf_counter()`, as the ends of laps
        self.started = self._lapped = time.perf_counter()
        #: name, begin and end of each
        self.laps: list[tuple[str, float, float]] = []

    def ms(self) -> float:
        """Return the time since the start, to a microsecond."""
        return int((time.perf_counter() - self.started) * 1e6) / 1000  # a fifth of what round() takes

    def lap(self, name: str) -> float:
        """What began with the last lap's end, or the start, is over; return how long it took."""
        began, now = self._lapped, time.perf_counter()
        self._lapped = now
        self.laps.append((name, began, now))
        return int((now - began) * 1e6) / 1000


def note_error(record: Record, error: ProxyError) -> None:
    """Write down what went wrong. A status that was already sent stays."""
    record.error = error.kind if error.code is None else error.code
    record.error_type = error.kind


def note_client_left(record: Record) -> None:
    """Write down that the client closed its connection first; this is nobody's failure."""
    record.status = CLIENT_CLOSED_REQUEST
    record.error = "client_disconnect"
    record.error_type = None


def write(lines: Lines, record: Record) -> None:
    """Write the line: level warning when the server's side failed, else info."""
    is_failure = record.error_type == "server_error" or record.status >= 500
    lines.write("warning" if is_failure else "info", "request", msgspec.structs.asdict(record))
