"""
How many workers, pods and bytes so many streams need: arithmetic on what was measured.

    python -m benchmarks.sizing --streams 1000000 --events-per-s 40

Nothing is measured here. The figures are those of benchmarks/results (paced.json, memory.json, peers.json), and the
metrics that this version has; what a kernel needs for a connection is a constant below. Each row of the answer names
what it is made of, so that a figure of your own can be put in its place. deploy/README.md, "Sizing", says what this
leaves out.
"""

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from benchmarks import outcome
from benchmarks.report import RESULTS
from proxy.config import Config
from proxy.observe.replicas import PLACES
from proxy.process.limits import open_files_needed
from proxy.process.serve import new_metrics

#: Linux 6.18, from /proc/slabinfo: TCP 2,368, sock_inode_cache 832, filp 192, dentry 192, eventpoll_epi 128 bytes.
#: Bytes that wait in a socket come on top; a stream whose client reads has none.
SOCKET_BYTES: Final = 3712
SOCKETS_PER_STREAM: Final = 2
#: A line of the log for a streamed request (2026-11-26, 616 bytes; names of models and replicas make it longer).
LOG_LINE_BYTES: Final = 620
#: An event of a few characters as vLLM sends it and as it goes out, with its frame.
EVENT_BYTES: Final = 200
#: Linux's default range of local ports, 32768 to 60999, for one address talking to one address and port.
LOCAL_PORTS: Final = 28_232


class Plan(NamedTuple):
    """What is asked for. `events_per_answer` says how often a stream ends and the next request comes."""

    streams: int
    events_per_s: float = 40.0
    events_per_answer: int = 400
    body: str = "agentic-next"
    busy: float = 0.6
    workers_per_pod: int = 4
    streams_per_replica: int = 32


class Measured(NamedTuple):
    """What the stored results say of one worker: CPU in µs, memory in MB."""

    event_us: float
    request_us: float
    idle_mb: float
    stream_kb: float
    series: int
    series_per_replica: int


def measured(body: str, busy: float) -> Measured:
    """
    Return the figures that the arithmetic starts from.

    The busier a worker is, the more events it finds at once and the less each costs: the cost is that at which one is
    `busy`, between the measured numbers of paced streams. Opening a stream of a small request is in it, so
    `request_us` is what a request of this kind costs above a small one.

    Raises:
        KeyError: there is no such body in the results.
    """
    paced, memory, peers = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("paced", "memory", "peers"))
    loads = [(row["processors_used"], row["events_per_second"]) for row in paced["rows"] if row["program"] == "proxy"]
    [held] = [row for row in memory["rows"] if row["program"] == "proxy"]
    request_us, short_us = (peers["cases"][case]["programs"]["proxy"]["cpu_us"] for case in (body, "short"))
    fixed, with_one = asyncio.run(_series(0)), asyncio.run(_series(1))
    return Measured(
        event_us=busy / events_per_s_at(busy, loads) * 1e6,
        request_us=max(0.0, request_us - short_us),
        idle_mb=held["idle_rss_mb"],
        stream_kb=(held["streams_rss_mb"] - held["idle_rss_mb"]) / held["streams"] * 1000,
        series=fixed,
        series_per_replica=with_one - fixed,
    )


def events_per_s_at(busy: float, loads: Sequence[tuple[float, float]]) -> float:
    """Return the events/s at which a worker is `busy`: on the line between two measured loads, or beyond the last."""
    below, above = (0.0, 0.0), (0.0, 0.0)
    for load in sorted(loads):
        below, above = above, load
        if load[0] >= busy:
            break
    return below[1] + (busy - below[0]) / (above[0] - below[0]) * (above[1] - below[1])


async def _series(replicas: int) -> int:
    """Return how many series a scrape has with so many replicas."""
    metrics = new_metrics()
    for number in range(replicas):
        metrics.replicas.tally(f"replica-{number}")
    return sum(not line.startswith(b"#") for line in (await metrics.render()).splitlines())


def sized(plan: Plan) -> dict[str, Any]:
    """Return what the plan needs, by name; each name has its unit."""
    found = measured(plan.body, plan.busy)
    requests_per_s = plan.streams * plan.events_per_s / plan.events_per_answer
    events_per_s = plan.streams * plan.events_per_s
    cores = (events_per_s * found.event_us + requests_per_s * found.request_us) / 1e6
    per_worker = Config().max_in_flight
    workers = max(math.ceil(cores / plan.busy), math.ceil(plan.streams / per_worker))
    pods = math.ceil(workers / plan.workers_per_pod)
    replicas = math.ceil(plan.streams / plan.streams_per_replica)
    cells = math.ceil(replicas / PLACES)
    per_cell = math.ceil(replicas / cells)
    return {
        "streams": plan.streams,
        "requests_per_s": requests_per_s,
        "events_per_s": events_per_s,
        "busy_cores": cores,
        "workers": workers,
        "pods": pods,
        "streams_per_worker": math.ceil(plan.streams / workers),
        "worker_gb": workers * found.idle_mb / 1000,
        "stream_gb": plan.streams * found.stream_kb / 1e6,
        "kernel_gb": plan.streams * SOCKETS_PER_STREAM * SOCKET_BYTES / 1e9,
        "files_per_worker": SOCKETS_PER_STREAM * math.ceil(plan.streams / workers),
        "files_at_the_bounds": open_files_needed(Config()),
        "conntrack_per_pod": SOCKETS_PER_STREAM * math.ceil(plan.streams / pods),
        "replicas": replicas,
        "cells": cells,
        "health_checks_per_replica_per_s": workers / cells / Config().health_interval_s,
        "network_gb_per_s": SOCKETS_PER_STREAM * events_per_s * EVENT_BYTES / 1e9,
        "log_mb_per_s": requests_per_s * LOG_LINE_BYTES / 1e6,
        "series": pods * (found.series + found.series_per_replica * per_cell),
        "balancer_addresses": math.ceil(plan.streams / pods / LOCAL_PORTS),
    }


def spelled(value: float) -> str:
    """Return a figure as tables have it: two digits that count below 10, whole above."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


#: The table of deploy/README.md, and its columns.
PUBLISHED: Final = (1_000, 10_000, 100_000, 1_000_000)
COLUMNS: Final = (
    *("streams", "requests_per_s", "busy_cores", "workers", "pods", "worker_gb", "stream_gb", "kernel_gb"),
    *("replicas", "cells", "network_gb_per_s", "log_mb_per_s"),
)


def published_rows() -> list[str]:
    """Return the rows of the table, as Markdown."""
    rows = ([spelled(sized(Plan(streams))[column]) for column in COLUMNS] for streams in PUBLISHED)
    return [f"| {' | '.join(row)} |" for row in rows]


def main() -> int:
    """Print the plan, and what it is made of."""
    defaults = Plan(0)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing")
    parser.add_argument("--streams", type=int, required=True, help="at once")
    parser.add_argument("--events-per-s", type=float, default=defaults.events_per_s, help="of each stream")
    parser.add_argument("--events-per-answer", type=int, default=defaults.events_per_answer)
    parser.add_argument("--body", default=defaults.body, help="a case of benchmarks/results/peers.json")
    parser.add_argument("--busy", type=float, default=defaults.busy, help="share of a core that a worker may use")
    parser.add_argument("--workers-per-pod", type=int, default=defaults.workers_per_pod)
    parser.add_argument("--streams-per-replica", type=int, default=defaults.streams_per_replica)
    plan = Plan(**vars(parser.parse_args()))
    print(
        outcome.table(
            [{"measured": name, "is": spelled(is_)} for name, is_ in measured(plan.body, plan.busy)._asdict().items()]
        )
    )
    print()
    print(outcome.table([{"needed": name, "is": spelled(is_)} for name, is_ in sized(plan).items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
