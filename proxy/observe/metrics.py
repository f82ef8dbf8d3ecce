"""
What is counted.

    requests_total{route, status}        request_duration_seconds{route}      in_flight_requests
    time_to_first_token_seconds          events_total                         tokens_total{direction}
    request_bytes_total                  response_bytes_total                 rules_applied_total{rule}
    errors_total{error_type}             client_disconnects_total             event_loop_lag_seconds
    worker_deaths_total                  queued_requests                      buffered_bytes
    retries_total{reason}                failovers_total{result}              shed_total{reason}
    replica_requests_total{replica}      replica_failures_total{replica}      replica_in_flight{replica}
    replica_breaker{replica, state}      replica_breaker_openings_total{replica}
    limited_total{limit}                 cache_lookups_total{result}          store_events_total{event}
    config_reloads_total                 config_reload_failures_total         proxy_overhead_seconds
    inter_token_gap_seconds              oldest_request_seconds               spans_total{result}

All names begin with `devstral_proxy_`. Labels are routes, rules and words of this program, never a client's text.

The numbers of all workers stand in one piece of shared memory, made before the first worker is forked. Each worker
adds in a row of its own, so nothing is locked; any worker can tell the sum; and what a worker counted outlives it,
because its successor goes on in the same row. prometheus-client, which has a lock for every number and files for
several processes, takes four to nine times as long; here it writes the text.
"""

import asyncio
import mmap
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from proxy.observe.layout import Family, Layout
from proxy.observe.replicas import ReplicaCounts
from proxy.observe.tracing import SPANS

#: The type of what `render()` returns.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: The label of what is outside a table.
OTHER: Final = "other"

#: Upper bounds of buckets in milliseconds: from a probe's answer to a long generation's.
_WAITS_MS: Final = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000, 300_000)
_LAGS_MS: Final = (1, 2.5, 5, 10, 20, 50, 100, 250, 500, 1000)
#: Whole milliseconds below 10: a gap is told by uvloop's clock, which has no others.
_GAPS_MS: Final = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 120_000)
_OVERHEADS_MS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000, 5000)

_STATUSES: Final = (OTHER, "1xx", "2xx", "3xx", "4xx", "5xx")
_ERROR_TYPES: Final = (
    *("server_error", "invalid_request_error", "authentication_error", "permission_error"),
    *("not_found_error", "rate_limit_error", "requests", "tokens", "insufficient_quota", OTHER),
)

#: What becomes of a stream that another replica was asked to continue.
FAILOVERS: Final = ("continued", "failed")
#: Which limit a request was refused by.
LIMITS: Final = ("requests_per_minute", "tokens_per_minute", "tokens_per_day", "max_concurrent")
#: What the cache did for a request: `bypass` is that it was not asked.
LOOKUPS: Final = ("hit", "miss", "bypass")
#: Why requests are refused.
SHED: Final = ("queue_full", "queue_timeout", "buffered_bytes")

#: The type code of the numbers, a double, and its size.
_NUMBER: Final = "d"
_NUMBER_BYTES: Final = 8
#: Rows begin at multiples of 128 bytes, so that no two workers write to one cache line.
_ROW_UNIT: Final = 16


class Finished(Protocol):
    """What is read of a request that is over. Times are milliseconds, None is "did not happen"."""

    path: str
    stream: bool | None
    status: int
    error: str | int | None
    error_type: str | None
    retried: tuple[str, ...]
    failover: str | None
    limit: str | None
    cache: str | None
    bytes_in: int
    bytes_out: int
    events: int
    duration_ms: float
    ttft_ms: float | None
    queue_ms: float | None
    upstream_ms: float | None
    rules: tuple[str, ...]
    tokens_in: int | None
    tokens_out: int | None


class Metrics:
    """
    The numbers of all workers. Build it before forking; a worker calls `use()` first.

    A request is `begin()`, `observe()` and `end()`; one that is refused before it runs is only observed.
    """

    def __init__(
        self,
        *,
        workers: int,
        routes: Sequence[str],
        rules: Sequence[str],
        retries: Sequence[str] = (),
        store_events: Sequence[str] = (),
    ) -> None:
        """`routes`, `rules` and `retries` are the values that these labels may have; anything else is `other`."""
        # Long: it is the list of metrics, in the order in which they are told.
        self.replicas: Final = ReplicaCounts(workers)
        layout = Layout()
        routes, rules = (*routes, OTHER), (*rules, OTHER)
        requests = layout.counter("requests", "Requests that are over.", route=routes, status=_STATUSES)
        durations = layout.histogram(
            "request_duration_seconds", "From a request's headers to its end.", _WAITS_MS, route=routes
        )
        step = 1 + len(_WAITS_MS) + 1
        self._routes: Final = {
            route: (requests + number * len(_STATUSES), durations + number * step)
            for number, route in enumerate(routes)
        }
        self._first_token: Final = layout.histogram(
            "time_to_first_token_seconds", "From a request's headers to its streamed answer's first event.", _WAITS_MS
        )
        self._gaps: Final = layout.histogram(
            "inter_token_gap_seconds", "Between two writes to a streamed answer.", _GAPS_MS
        )
        self._overhead: Final = layout.histogram(
            "proxy_overhead_seconds",
            "A request's time in the proxy: all but its turn in the queue and its model server's time.",
            _OVERHEADS_MS,
        )
        self._in_flight: Final = layout.gauge("in_flight_requests", "Requests that run now.")
        self._oldest: Final = layout.gauge("oldest_request_seconds", "How long the oldest of them has run.")
        self._events: Final = layout.counter("events", "Events of streamed answers.")
        self._bytes_in: Final = layout.counter("request_bytes", "Bytes of requests' bodies.")
        self._bytes_out: Final = layout.counter("response_bytes", "Bytes of answers' bodies.")
        self._tokens: Final = layout.counter(
            "tokens", "Tokens, as the model server counts them.", direction=("in", "out")
        )
        self._rules: Final = _places(
            rules, layout.counter("rules_applied", "Requests in which a rule changed something.", rule=rules)
        )
        self._errors: Final = _places(
            _ERROR_TYPES, layout.counter("errors", "Requests that ended in an error.", error_type=_ERROR_TYPES)
        )
        self._left: Final = layout.counter(
            "client_disconnects", "Requests whose client left before they had their answer."
        )
        self._lag: Final = layout.histogram(
            "event_loop_lag_seconds", "How late a timer runs, and everything else with it.", _LAGS_MS
        )
        retries = (*retries, OTHER)
        self._retries: Final = _places(
            retries, layout.counter("retries", "Requests that were sent once more.", reason=retries)
        )
        self._failovers: Final = _places(
            FAILOVERS, layout.counter("failovers", "Streams that broke off and were continued.", result=FAILOVERS)
        )
        self._shed: Final = _places(
            SHED, layout.counter("shed", "Requests that were refused because there were too many.", reason=SHED)
        )
        self._limits: Final = _places(
            LIMITS,
            layout.counter("limited", "Requests that a limit of who asks, or of the model, refused.", limit=LIMITS),
        )
        self._lookups: Final = _places(
            LOOKUPS,
            layout.counter("cache_lookups", "Requests for which the cache might have been asked.", result=LOOKUPS),
        )
        self._store_events: Final = _places(
            store_events, layout.counter("store_events", "What happened to the store of limits.", event=store_events)
        )
        self._spans: Final = _places(SPANS, layout.counter("spans", "Spans, by what became of them.", result=SPANS))
        self._queued: Final = layout.gauge("queued_requests", "Requests that wait for another one to end.")
        self._buffered: Final = layout.gauge("buffered_bytes", "Bytes of requests' bodies that are held now.")
        self._deaths: Final = layout.counter("worker_deaths", "Workers that ended without having been told to.")
        self._reloads: Final = layout.counter("config_reloads", "Times that the configuration was read again.")
        self._failed_reloads: Final = layout.counter(
            "config_reload_failures", "Times that a new configuration was refused, and the old one stayed."
        )
        self._families: Final = layout.families
        self._rows: Final = _shared_rows(workers, layout.size)
        self._row = self._rows[0]
        self.workers: Final = workers
        #: which of them this process is; the first is 0
        self.worker = 0

    def use(self, worker: int) -> None:
        """Count as this worker from now on; the first is 0."""
        self.worker = worker
        self._row = self._rows[worker]
        self.replicas.use(worker)

    def begin(self) -> None:
        """A request runs."""
        self._row[self._in_flight] += 1

    def end(self) -> None:
        """A request that ran does not any more."""
        self._row[self._in_flight] -= 1

    def observe(self, record: Finished) -> None:
        """Count a request that is over."""
        row = self._row
        requests, durations = self._routes.get(record.path) or self._route(record.path)
        kind = record.status // 100
        row[requests + (kind if kind < len(_STATUSES) else 0)] += 1
        _add(row, durations, _WAITS_MS, record.duration_ms)
        row[self._bytes_in] += record.bytes_in
        row[self._bytes_out] += record.bytes_out
        if record.stream:
            row[self._events] += record.events
            if record.ttft_ms is not None:
                _add(row, self._first_token, _WAITS_MS, record.ttft_ms)
        if record.upstream_ms is not None:
            spent_ms = record.duration_ms - record.upstream_ms - (record.queue_ms or 0.0)
            _add(row, self._overhead, _OVERHEADS_MS, max(0.0, spent_ms))
        if record.tokens_in is not None:
            row[self._tokens] += record.tokens_in
        if record.tokens_out is not None:
            row[self._tokens + 1] += record.tokens_out
        for rule in record.rules:
            row[self._rules.get(rule) or self._rules[OTHER]] += 1
        if record.error_type is not None:
            row[self._errors.get(record.error_type) or self._errors[OTHER]] += 1
        elif record.error == "client_disconnect":
            row[self._left] += 1
        if record.retried:
            for reason in record.retried:
                row[self._retries.get(reason) or self._retries[OTHER]] += 1
        if record.failover is not None:
            row[self._failovers[record.failover]] += 1
        if record.limit is not None:
            row[self._limits[record.limit]] += 1
        if record.cache is not None:
            row[self._lookups[record.cache]] += 1

    def _route(self, path: str) -> tuple[int, int]:
        return self._routes.get(path.rstrip("/") or "/") or self._routes[OTHER]

    def observe_gap(self, since_s: float, now_s: float) -> None:
        """Count the time between two writes to a streamed answer: 0.5 µs, measured as `Recent.add` was."""
        row, gaps = self._row, self._gaps
        gap_ms = (now_s - since_s) * 1000
        row[gaps] += gap_ms
        row[gaps + 1 + bisect_left(_GAPS_MS, gap_ms)] += 1

    def observe_loop_lag(self, late_ms: float) -> None:
        """Count a timer that ran so late."""
        _add(self._row, self._lag, _LAGS_MS, late_ms)

    def count_shed(self, reason: str) -> None:
        """A request was refused, for one of `SHED`."""
        self._row[self._shed[reason]] += 1

    def count_store_event(self, event: str) -> None:
        """Something happened to the store of limits and answers, one of those that this was made for."""
        self._row[self._store_events[event]] += 1

    def count_spans(self, result: str, count: int) -> None:
        """Something became of so many spans, one of `SPANS`. Each of these is counted in one thread alone."""
        self._row[self._spans[result]] += count

    def waiting(self, queued: int, buffered_bytes: int) -> None:
        """So many requests wait in this worker, and so many bytes of bodies are held."""
        self._row[self._queued], self._row[self._buffered] = queued, buffered_bytes

    def oldest(self, age_ms: float) -> None:
        """The oldest request of this worker has run for so long; 0 is that none runs."""
        self._row[self._oldest] = age_ms / 1000

    def forget(self, worker: int) -> None:
        """This worker is dead, and nothing runs there any more. What it counted stays."""
        for gauge in (self._in_flight, self._oldest, self._queued, self._buffered):
            self._rows[worker][gauge] = 0
        self.replicas.forget(worker)

    def count_death(self, worker: int) -> None:
        """This worker ended without having been told to."""
        self._rows[worker][self._deaths] += 1

    def count_reload(self) -> None:
        """The configuration was read again and is in effect. Only one process counts these two: the first."""
        self._rows[0][self._reloads] += 1

    def count_failed_reload(self) -> None:
        """A new configuration was refused, by this process or by a worker."""
        self._rows[0][self._failed_reloads] += 1

    def told(self) -> tuple[Sequence[Family], Sequence[float]]:
        """Return the metrics, and the row in which their sums over all workers stand; of ages it is the greatest."""
        sums = [sum(column) for column in zip(*self._rows, strict=True)]
        sums[self._oldest] = max(row[self._oldest] for row in self._rows)
        return self._families, sums

    async def render(self) -> bytes:
        """Return the sums over all workers in Prometheus' text format; its type is `CONTENT_TYPE`."""
        return await asyncio.to_thread(_as_text, self.told(), self.replicas)


def _as_text(told: tuple[Sequence[Family], Sequence[float]], replicas: ReplicaCounts) -> bytes:
    # Imported by the first scrape, in its thread: 2.6 MB and 33 ms, which start-up and the loop need not pay.
    from proxy.observe.exposition import exposition

    return exposition(*told) + exposition(*replicas.told())


def _places(values: Sequence[str], first: int) -> Mapping[str, int]:
    return {value: place for place, value in enumerate(values, first)}


def _shared_rows(count: int, size: int) -> list["memoryview[float]"]:
    """Return rows of zeros that processes forked later share with this one."""
    step = -(-size // _ROW_UNIT) * _ROW_UNIT
    numbers = memoryview(mmap.mmap(-1, count * step * _NUMBER_BYTES)).cast(_NUMBER)
    return [numbers[start : start + size] for start in range(0, count * step, step)]


def _add(row: "memoryview[float]", histogram: int, bounds: Sequence[float], amount: float) -> None:
    row[histogram] += amount
    row[histogram + 1 + bisect_left(bounds, amount)] += 1
