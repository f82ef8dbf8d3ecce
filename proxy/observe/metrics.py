"""
What is counted.

The list of metrics is `Metrics.__init__`, and the README's table is made from it. All names begin with
`devstral_proxy_`. Labels are routes, rules and words of this program, never a client's text.

The numbers of all workers stand in one piece of shared memory, made before the first worker is forked. Each worker
adds in a row of its own, so nothing is locked; any worker can tell the sum; and what a worker counted outlives it,
because its successor goes on in the same row. prometheus-client, which has a lock for every number and files for
several processes, takes four to nine times as long; here it writes the text.

Replicas (replicas.py) and models (models.py) come and go, so they have memory of their own. Times to the first token,
gaps and tokens are kept there, by model, and are told from there as sums too: nothing is counted twice.
"""

import asyncio
import os
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

from proxy.config import Config, checked_backends
from proxy.observe.finished import Finished
from proxy.observe.layout import Family, Layout, collapsed
from proxy.observe.models import GAPS_MS, NO_CHATS, WAITS_MS, ModelCounts
from proxy.observe.replicas import ReplicaCounts
from proxy.observe.shared import OTHER, shared_rows
from proxy.observe.tracing import SPANS

#: The type of what `render()` returns.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Upper bounds of buckets in milliseconds.
_LAGS_MS: Final = (1, 2.5, 5, 10, 20, 50, 100, 250, 500, 1000)
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

#: What was mended in a model's calls, or could not be, in the order in which README.md explains it.
MALFORMED: Final = (
    *("no_arguments", "object", "markers", "trailing_text", "name"),
    *("closed", "cut", "invalid", "no_name"),
)
#: The code of an answer that has a call without a name: it is an error, and nothing of it was mended.
_NO_NAME: Final = "malformed_tool_call"


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
        upstream_errors: Sequence[str] = (),
    ) -> None:
        """`routes`, `rules` and the others are the values that labels may have; anything else is `other`."""
        # Long: it is the list of metrics, in the order in which they are told.
        self.models: Final = ModelCounts(workers, _ERROR_TYPES[:-1])
        self.replicas: Final = ReplicaCounts(workers, self.models.learn)
        layout = Layout()
        routes, rules = (*routes, OTHER), (*rules, OTHER)
        requests = layout.counter("requests", "Requests that are over.", route=routes, status=_STATUSES)
        durations = layout.histogram(
            "request_duration_seconds", "From a request's headers to its end.", WAITS_MS, route=routes
        )
        step = 1 + len(WAITS_MS) + 1
        self._routes: Final = {
            route: (requests + number * len(_STATUSES), durations + number * step)
            for number, route in enumerate(routes)
        }
        self._first_token: Final = layout.histogram(
            "time_to_first_token_seconds", "From a request's headers to its streamed answer's first event.", WAITS_MS
        )
        self._gaps: Final = layout.histogram(
            "inter_token_gap_seconds", "Between two writes of events to a streamed answer.", GAPS_MS
        )
        self._overhead: Final = layout.histogram(
            "proxy_overhead_seconds",
            "A request's time in the proxy: all but its turn in the queue and its model server's time.",
            _OVERHEADS_MS,
        )
        self._in_flight: Final = layout.gauge(
            "in_flight_requests",
            "Requests that are here now: those that run, wait for a place or are read, and probes and scrapes.",
        )
        self._oldest: Final = layout.gauge("oldest_request_seconds", "How long the oldest of them has run.")
        self._upstream_errors: Final = _places(
            (*upstream_errors, OTHER),
            layout.counter(
                "upstream_errors",
                "What went wrong with model servers, once for each time that a request was sent.",
                kind=(*upstream_errors, OTHER),
            ),
        )
        self._recovered: Final = layout.counter(
            "recovered_calls", "Calls that the model server sent as text, and that became tool calls."
        )
        self._malformed: Final = _places(
            MALFORMED,
            layout.counter(
                "malformed_calls", "Calls of the model that were not as they should be, mended or not.", kind=MALFORMED
            ),
        )
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
        self._queue_waits: Final = layout.histogram(
            "queue_wait_seconds", "How long a request waited for another one to end, if it had to.", WAITS_MS
        )
        self._queued: Final = layout.gauge("queued_requests", "Requests that wait for another one to end.")
        self._buffered: Final = layout.gauge("buffered_bytes", "Bytes of requests' bodies that are held now.")
        self._cached: Final = layout.gauge("cache_bytes", "Bytes of answers that are kept in memory now.")
        self._cached_entries: Final = layout.gauge("cache_entries", "Answers that are kept in memory now.")
        self._most_in_flight: Final = layout.gauge(
            "max_in_flight_requests", "The most requests that run at once: `max_in_flight` of each worker, together."
        )
        self._most_queued: Final = layout.gauge(
            "max_queued_requests", "The most requests that wait: `max_queue` of each worker, together."
        )
        self._most_buffered: Final = layout.gauge(
            "max_buffered_bytes", "The most bytes of bodies that are held: `max_buffered_bytes` of each, together."
        )
        self._workers: Final = layout.gauge("workers", "Workers that there should be.")
        self._ready: Final = layout.gauge(
            "ready_workers", "Workers that know a model server to work with, and are not about to end."
        )
        self._draining: Final = layout.gauge("draining_workers", "Workers that are about to end.")
        self._deaths: Final = layout.counter("worker_deaths", "Workers that ended without having been told to.")
        self._reloads: Final = layout.counter("config_reloads", "Times that the configuration was read again.")
        self._failed_reloads: Final = layout.counter(
            "config_reload_failures", "Times that a new configuration was refused, and the old one stayed."
        )
        self._families: Final = layout.families
        self._rows: Final = shared_rows(workers, layout.size)
        self._row = self._rows[0]
        self._row[self._workers] = workers
        #: what is 0 where nothing runs
        self._gauges: Final = (
            *(self._in_flight, self._oldest, self._queued, self._buffered, self._cached, self._cached_entries),
            *(self._most_in_flight, self._most_queued, self._most_buffered, self._ready, self._draining),
        )
        #: the process that made this, and each worker's, or 0
        self._parent: Final = os.getpid()
        self._pids: Final = shared_rows(1, workers)[0]
        if workers == 1:
            self._pids[0] = self._parent
        self.workers: Final = workers
        #: which of them this process is; the first is 0
        self.worker = 0

    def use(self, worker: int) -> None:
        """Count as this worker from now on; the first is 0."""
        self.worker = worker
        self._row = self._rows[worker]
        self._pids[worker] = os.getpid()
        self.models.use(worker)
        self.replicas.use(worker)

    def apply(self, config: Config) -> None:
        """These settings are in effect in this worker."""
        row = self._row
        row[self._most_in_flight], row[self._most_queued] = config.max_in_flight, config.max_queue
        row[self._most_buffered] = config.max_buffered_bytes
        self.models.learn(config.models)
        for backend in checked_backends(config):
            self.models.learn(backend.models)

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
        _add(row, durations, WAITS_MS, record.duration_ms)
        row[self._bytes_in] += record.bytes_in
        row[self._bytes_out] += record.bytes_out
        if record.model is not None and record.path.rstrip("/") not in NO_CHATS:
            self.models.observe(record)
        if record.stream:
            row[self._events] += record.events
        if record.queue_ms is not None:
            _add(row, self._queue_waits, WAITS_MS, record.queue_ms)
        if record.upstream_ms is not None:
            spent_ms = record.duration_ms - record.upstream_ms - (record.queue_ms or 0.0)
            _add(row, self._overhead, _OVERHEADS_MS, max(0.0, spent_ms))
        for rule in record.rules:
            row[self._rules.get(rule) or self._rules[OTHER]] += 1
        if record.error_type is not None:
            row[self._errors.get(record.error_type) or self._errors[OTHER]] += 1
            if record.error == _NO_NAME:
                row[self._malformed["no_name"]] += 1
        elif record.error == "client_disconnect":
            row[self._left] += 1
        if record.retried:
            for reason in record.retried:
                row[self._retries.get(reason) or self._retries[OTHER]] += 1
        if record.upstream_errors:
            for word in record.upstream_errors:
                row[self._upstream_errors.get(word) or self._upstream_errors[OTHER]] += 1
        if record.calls_recovered:
            row[self._recovered] += record.calls_recovered
        if record.calls_malformed:
            for word in record.calls_malformed:
                row[self._malformed[word]] += 1
        if record.failover is not None:
            row[self._failovers[record.failover]] += 1
        if record.limit is not None:
            row[self._limits[record.limit]] += 1
        if record.cache is not None:
            row[self._lookups[record.cache]] += 1

    def _route(self, path: str) -> tuple[int, int]:
        return self._routes.get(path.rstrip("/") or "/") or self._routes[OTHER]

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

    def caching(self, entries: int, held_bytes: int) -> None:
        """So many answers are kept in this worker's memory."""
        self._row[self._cached_entries], self._row[self._cached] = entries, held_bytes

    def standing(self, *, is_ready: bool, is_draining: bool) -> None:
        """Whether new requests should come to this worker, and whether it is about to end."""
        self._row[self._ready], self._row[self._draining] = is_ready, is_draining

    def forget(self, worker: int) -> None:
        """This worker is dead, and nothing runs there any more. What it counted stays."""
        for gauge in self._gauges:
            self._rows[worker][gauge] = 0
        self._pids[worker] = 0
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
        for _, of_model in self.models.summed():
            self._add_model(sums, of_model)
        return self._families, sums

    def _add_model(self, sums: list[float], of_model: Sequence[float]) -> None:
        kept = self.models.families
        for name, at, bounds in (("firsts", self._first_token, WAITS_MS), ("gaps", self._gaps, GAPS_MS)):
            [(_, block)] = kept[name].blocks(of_model)
            for place, number in enumerate(collapsed(block, kept[name].bounds_ms, bounds), at):
                sums[place] += number
        for place, (_, (tokens, *_)) in enumerate(kept["tokens"].blocks(of_model), self._tokens):
            sums[place] += tokens

    @property
    def processes(self) -> Mapping[str, int]:
        """The process that looks after the workers, if it is one of its own, and each worker that lives, by number."""
        living = {str(number): int(pid) for number, pid in enumerate(self._pids, 1) if pid}
        return living if self.workers == 1 else {"supervisor": self._parent, **living}

    async def render(self) -> bytes:
        """Return the sums over all workers in Prometheus' text format; its type is `CONTENT_TYPE`."""
        return await asyncio.to_thread(_as_text, self)


def _as_text(metrics: Metrics) -> bytes:
    # Imported by the first scrape, in its thread: 2.6 MB and 33 ms, which start-up and the loop need not pay.
    from proxy.observe.exposition import exposition
    from proxy.observe.genai import genai
    from proxy.observe.processes import processes

    families = exposition(*metrics.told()), exposition(*metrics.replicas.told())
    return b"".join((*families, genai(metrics.models), processes(metrics.processes)))


def _places(values: Sequence[str], first: int) -> Mapping[str, int]:
    return {value: place for place, value in enumerate(values, first)}


def _add(row: "memoryview[float]", histogram: int, bounds: Sequence[float], amount: float) -> None:
    row[histogram] += amount
    row[histogram + 1 + bisect_left(bounds, amount)] += 1
