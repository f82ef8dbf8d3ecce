"""
How long other clients' large requests hold up a stream: 1 MB bodies, 50 a second, beside 200 paced streams.

    python -m benchmarks.lag [--programs NAME...] [--streams N] [--per-second N]

Two measures that do not depend on each other:

- what the proxy says: the 99th percentile of its event loop's lag, from the histogram that its /metrics offers, over
  the time of the run;
- what the streams' clients see: how long an event took from the mock to the client, and from one event to the next.

Each program is measured with the streams alone and with the large requests beside them; "direct" is the mock itself:
what the load generators and the mock, which share a processor, do to each other.
"""

import argparse
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from benchmarks import histograms, loads, outcome, paced, processes, programs
from benchmarks.histograms import Buckets
from benchmarks.loads import Load, Work
from benchmarks.programs import Program

LAG: Final = "devstral_proxy_event_loop_lag_seconds"
LARGE_CONNECTIONS: Final = 16


def large(per_second: float, seconds: float) -> Work:
    """Return 1 MB requests, full of what rules repair, at a constant rate."""
    return Work("huge", LARGE_CONNECTIONS, max(1, int(per_second * seconds)), per_second=per_second)


def measure(names: Sequence[str], streams: Work, beside: Work) -> list[dict[str, Any]]:
    """
    Return two rows for each program: the streams alone, and with `beside` running.

    Raises:
        BenchmarkError: a program did not start or did not answer the first requests.
    """
    rows = []
    with loads.stand(names) as servers:
        for name, program in servers.items():
            rows.append(_row(name, program, streams, None))
            rows.append(_row(name, program, streams, beside))
    return rows


def _row(name: str, program: Program, streams: Work, beside: Work | None) -> dict[str, Any]:
    _, load_on = programs.processors()
    with ExitStack() as running:
        works = [streams, beside] if beside else [streams]
        generators = [running.enter_context(Load(program, work, load_on)) for work in works]
        before, used_before = lag_of(program), processes.tree_cpu_us(program.pid)
        for generator in generators:
            generator.go()
        reports = [generator.report() for generator in generators]
        used_us = processes.tree_cpu_us(program.pid) - used_before
        lag_s = histograms.quantile(histograms.since(lag_of(program), before), 0.99)
    seen, others = reports[0], reports[1:]
    return {
        "program": name,
        "large_per_second": beside.per_second if beside else 0,
        "lag_p99_ms": None if lag_s is None else lag_s * 1000,
        **{f"transit_{point}_ms": seen["transit_us"][point] / 1000 for point in ("p50", "p99", "max")},
        **{f"gap_{point}_ms": seen["gap_us"][point] / 1000 for point in ("p50", "p99", "max")},
        "large_p50_ms": others[0]["latency_us"]["p50"] / 1000 if others else None,
        "processors_used": used_us / 1e6 / max(report["seconds"] for report in reports),
        "failed": sum(loads.failed(report) for report in reports),
    }


def lag_of(program: Program) -> Buckets:
    """Return the histogram of the event loop's lag so far, empty where the program has none."""
    try:
        with urllib.request.urlopen(f"{program.url}/metrics", timeout=5) as answer:
            return histograms.read(answer.read().decode(), LAG)
    except urllib.error.HTTPError:
        return {}


def main() -> int:
    """Measure, print, write results/lag.json; return 1 when any answer failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lag")
    parser.add_argument("--programs", nargs="+", default=loads.usual(), metavar="NAME")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--per-second", type=float, default=50)
    arguments = parser.parse_args()
    programs.stop_all_on_sigterm()
    streams = paced.work_of(arguments.streams)
    rows = measure(arguments.programs, streams, large(arguments.per_second, paced.seconds_of(streams)))
    outcome.keep("lag", rows, streams=arguments.streams)
    print(outcome.table(rows))
    return 1 if any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
