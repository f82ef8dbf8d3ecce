"""
What the status page shows, as one JSON object: sums over all workers where they are shared, and what this worker knows.

    all workers    rates, percentiles, in flight, queue, rules, and each replica's requests, failures and breakers
    this worker    each replica's health, zone and profile; the last requests and errors

It holds names, numbers and words of this program, as the log does: no content, no key, no client's address.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from proxy import __version__
from proxy.edge.edge import Edge
from proxy.observe.recent import Ended, Recent
from proxy.observe.window import Window

_encode: Final = msgspec.json.Encoder().encode

#: The fields of a request's record that are shown.
_SHOWN: Final = (
    *(
        "request_id",
        "trace_id",
        "principal",
        "method",
        "path",
        "model",
        "profile",
        "replica",
        "attempts",
        "retried",
        "failover",
    ),
    *("limit", "cache", "stream", "status", "error", "rules", "finish_reason", "events", "tokens_in", "tokens_out"),
    *("queue_ms", "read_ms", "translate_ms", "sent_ms", "connect_ms", "ttft_ms", "upstream_ms", "duration_ms"),
)
#: Arbitrary: more rows than anybody reads. Those that are not well come first.
_MOST_REPLICAS: Final = 200

_SPREADS: Final = {
    "ttft": "time_to_first_token_seconds",
    "gap": "inter_token_gap_seconds",
    "overhead": "proxy_overhead_seconds",
}
_API: Final = "/v1/"


def looking(edge: Edge) -> Callable[[], bytes]:
    """
    Return what tells the state of things now; call it about once a second.

    A call takes 0.9 ms on the loop with 2 workers, 4 replicas and 70 requests and errors to show, 3 ms with 16 workers
    and 100 replicas (CPython 3.11.7, 2026-11-26, two shared cores with a load of 12).
    """
    window = Window(edge.metrics.told()[0])
    ended = _Ended()

    def look() -> bytes:
        edge.metrics.oldest(edge.in_flight.oldest_ms)
        window.add(time.monotonic(), edge.metrics.told()[1])
        return _encode(_view(edge, window) | ended.told(edge.recent))

    return look


def _view(edge: Edge, window: Window) -> dict[str, Any]:
    return {
        "version": __version__,
        "at": round(time.time(), 3),
        "worker": edge.metrics.worker + 1,
        "workers": edge.metrics.workers,
        "state": "draining" if edge.in_flight.is_draining else "ok" if edge.pool.is_ready else "no_upstream",
        "lasted_s": round(window.lasted_s, 1),
        "requests": _requests(window),
        "tokens_per_s": _rounded(_by_first(window.per_second("tokens"))),
        "events_per_s": round(window.per_second("events")[()], 2),
        "in_flight": _only(window, "in_flight_requests"),
        "oldest_s": _only(window, "oldest_request_seconds"),
        "queued": _only(window, "queued_requests"),
        "spreads": {name: window.spread(metric) for name, metric in _SPREADS.items()},
        "rules": _rules(window),
        "replicas": _replicas(edge),
    }


def _only(window: Window, name: str) -> float:
    """Return the one value of a metric without labels; a client that left may make a gauge of another worker lag."""
    return round(max(0.0, window.now(name)[()]), 3)


def _requests(window: Window) -> dict[str, Any]:
    """Return how many requests to the API come, and to what ends."""
    total, by_status = 0.0, dict.fromkeys(("2xx", "4xx", "5xx"), 0.0)
    for (route, status), per_s in window.per_second("requests").items():
        if route.startswith(_API):
            total += per_s
            if status in by_status:
                by_status[status] += per_s
    done = sum(count for (route, _), count in window.now("requests").items() if route.startswith(_API))
    return {"total": int(done), "per_s": round(total, 2), "by_status": _rounded(by_status)}


def _rules(window: Window) -> list[dict[str, Any]]:
    """Return the rules that have changed something since the start, the most frequent first."""
    per_s = _by_first(window.per_second("rules_applied"))
    counts = _by_first(window.now("rules_applied"))
    applied = sorted((name for name, count in counts.items() if count), key=lambda name: (-counts[name], name))
    return [{"name": name, "count": int(counts[name]), "per_s": round(per_s[name], 2)} for name in applied]


def _replicas(edge: Edge) -> list[dict[str, Any]]:
    """Return this worker's replicas with the sums of all workers."""
    families, row = edge.metrics.replicas.told()
    sums = {family.name: {values: number for values, (number,) in family.blocks(row)} for family in families}
    shown: list[dict[str, Any]] = []
    for replica in edge.pool.replicas:
        breakers = {state: int(sums["replica_breaker"].get((replica.name, state), 0)) for state in _STATES}
        shown.append(
            {
                "name": replica.name,
                "health": replica.sight.value,
                "breaker": replica.breaker.state.name.lower(),
                "breakers": breakers,
                "zone": replica.backend.zone,
                "profile": replica.profile.name,
                "weight": round(replica.weight, 2),
                "in_flight": int(sums["replica_in_flight"].get((replica.name,), 0)),
                "requests": int(sums["replica_requests"].get((replica.name,), 0)),
                "failures": int(sums["replica_failures"].get((replica.name,), 0)),
            }
        )
    return sorted(shown, key=_calm_last)[:_MOST_REPLICAS]


def _calm_last(replica: Mapping[str, Any]) -> tuple[bool, str]:
    breakers = replica["breakers"]
    return not (breakers["open"] or breakers["half_open"]), replica["name"]


_STATES: Final = ("closed", "open", "half_open")


class _Ended:
    """The last requests as JSON, each made once: most of what is shown has been shown a second ago."""

    def __init__(self) -> None:
        self._made: dict[int, msgspec.Raw] = {}

    def told(self, recent: Recent) -> dict[str, Sequence[msgspec.Raw]]:
        """Return those that are kept now."""
        kept = {each.number: each for each in (*recent.requests, *recent.errors)}
        self._made = {number: self._made.get(number) or _as_json(each) for number, each in kept.items()}
        return {
            "recent": [self._made[each.number] for each in recent.requests],
            "errors": [self._made[each.number] for each in recent.errors],
        }


def _as_json(ended: Ended) -> msgspec.Raw:
    """Return the facts of a request; what did not happen is left out."""
    facts = {name: value for name in _SHOWN if (value := getattr(ended.record, name)) not in (None, ())}
    return msgspec.Raw(_encode({"number": ended.number, "at": round(ended.at, 3), **facts}))


def _by_first(values: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    return {first: number for (first, *_), number in values.items()}


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(number, 2) for name, number in values.items()}
