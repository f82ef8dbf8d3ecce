"""
What a server between adds: to the time of a whole answer at a constant rate, and to the time of a stream's first event.

    python -m benchmarks.latency [--programs NAME...] [--rounds N] [--per-second N]

Whole answers: 500 requests a second are due at fixed times, whether earlier ones have been answered or not (an open
loop), and each is timed from when it was due, also when it had to wait for a free connection. So a stall counts for
all the requests that it held up, and not only for the one that met it (no coordinated omission).

First events: 20 streams at once with an event every 20 ms, not in step; timed from the request.

In each round all programs take turns in random order, "direct", which is the mock itself, among them. What a program
adds is the median over rounds of its percentile less that of "direct" in the same round.
"""

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks import loads, outcome, programs
from benchmarks.loads import DIRECT, Work

STREAMS: Final = 20
#: Each has its role, four stamped events, a finish reason and [DONE], 20 ms apart.
STARTS: Final = Work("text-start", STREAMS, 10 * STREAMS, pieces=4, gap_us=loads.apart_us(STREAMS, 20_000, 0.2))
SECONDS: Final = 2


class Sample(NamedTuple):
    """Percentiles of one program in one round, in microseconds."""

    p50: float
    p99: float
    failed: int


def steady(per_second: int, seconds: float = SECONDS) -> Work:
    """Return whole answers at a constant rate, with more connections than are needed when nothing is late."""
    return Work("short", 64, int(per_second * seconds), per_second=per_second)


def measure(names: Sequence[str], works: Mapping[str, Work], rounds: int) -> list[dict[str, Any]]:
    """
    Return a row for each work and program; `names` needs "direct".

    Raises:
        BenchmarkError: a program did not start or did not answer the first requests.
    """
    order = random.Random(0)
    found: dict[tuple[str, str], list[Sample]] = {(what, name): [] for what in works for name in names}
    _, load_on = programs.processors()
    with loads.stand(names) as servers:
        for _ in range(rounds):
            for what, name in order.sample(list(found), len(found)):
                report = loads.run(servers[name], works[what], load_on).report
                times = report["first_event_us" if works[what].pieces else "latency_us"]
                found[what, name].append(Sample(times["p50"], times["p99"], loads.failed(report)))
    return [_row(what, name, samples, found[what, DIRECT]) for (what, name), samples in found.items()]


def _row(what: str, name: str, samples: Sequence[Sample], direct: Sequence[Sample]) -> dict[str, Any]:
    return {
        "what": what,
        "program": name,
        "p50_us": median(sample.p50 for sample in samples),
        "p99_us": median(sample.p99 for sample in samples),
        "added_p50_us": added([sample.p50 for sample in samples], [sample.p50 for sample in direct]),
        "added_p99_us": added([sample.p99 for sample in samples], [sample.p99 for sample in direct]),
        "failed": sum(sample.failed for sample in samples),
    }


def added(times: Sequence[float], direct: Sequence[float]) -> float:
    """Return the median of the differences, round by round."""
    return median(each - base for each, base in zip(times, direct, strict=True))


def main() -> int:
    """Measure, print, write results/latency.json; return 1 when any answer failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency")
    parser.add_argument("--programs", nargs="+", default=loads.usual(), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--per-second", type=int, default=500)
    arguments = parser.parse_args()
    programs.stop_all_on_sigterm()
    works = {f"whole answer, {arguments.per_second}/s": steady(arguments.per_second), "first event": STARTS}
    rows = measure(list(dict.fromkeys([DIRECT, *arguments.programs])), works, arguments.rounds)
    outcome.keep("latency", rows, rounds=arguments.rounds, coordinated_omission="timed from when a request was due")
    print(outcome.table(rows))
    return 1 if any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
