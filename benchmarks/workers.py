"""
What a second worker brings: requests a second with two workers against one, in a closed loop of 63 KB requests.

    python -m benchmarks.workers [--rounds N] [--requests N] [--body NAME]

Proxy, mock and load share all processors, as the kernel likes; the body is one that costs the proxy much and them
little. With two processors two workers cannot have one each, because mock and load take their part. So there are three
figures:

    ratio     requests a second with two workers, to those with one: what was seen
    ceiling   the ratio at which all processors are busy, if a request costs what it costs with one worker:
              2 s of processor time, divided by that of proxy, mock and load for one request
    by cost   twice the proxy's processor time for one request with one worker, divided by that with two: the ratio
              where each worker has a processor of its own. What is shared in other ways than by processor time, such as
              a lock that one waits for, is not in it.

`busy` is how much of a processor each process used: a worker far below the other got few of the connections, and a sum
far below the number of processors says that neither was the limit.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks import loads, outcome, processes, programs
from benchmarks.loads import DIRECT, Load, Work
from benchmarks.programs import BenchmarkError, Program

CONNECTIONS: Final = 64
COUNTS: Final = (1, 2)
#: A worker below this is no worker: the parent, which only watches.
_IDLE: Final = 0.02

#: Starts a server with so many workers in front of the mock.
Starter = Callable[[int, Program], Program]


class Sample(NamedTuple):
    """One round with one number of workers; costs are CPU-microseconds for one request."""

    per_second: float
    cost_us: float
    beside_us: float
    busy: tuple[float, ...]
    failed: int


def start_proxy(workers: int, mock: Program) -> Program:
    """
    Start the proxy with so many workers, and let it use all processors.

    Raises:
        BenchmarkError: it did not start, or has fewer processes than workers.
    """
    program = programs.start_proxy(mock.url, programs.processors()[0], workers=workers)
    if len(processes.tree(program.pid)) < workers:
        program.stop()
        raise BenchmarkError(f"the proxy did not start {workers} workers")
    return program


def measure(work: Work, rounds: int, start: Starter = start_proxy) -> list[dict[str, Any]]:
    """
    Return a row for each number of workers.

    Raises:
        BenchmarkError: a program did not start or did not answer the first requests.
    """
    found: dict[int, list[Sample]] = {count: [] for count in COUNTS}
    with loads.stand([DIRECT]) as servers, ExitStack() as running:
        mock = servers[DIRECT]
        programs_by_count = {}
        for count in COUNTS:
            programs_by_count[count] = start(count, mock)
            running.callback(programs_by_count[count].stop)
        for program in (mock, *programs_by_count.values()):
            processes.spread(program.pid)
        for _ in range(rounds):
            for count, program in programs_by_count.items():
                found[count].append(_sample(program, mock, work))
    return [_row(count, samples) for count, samples in found.items()]


def _sample(program: Program, mock: Program, work: Work) -> Sample:
    with Load(program, work, programs.processors()[1]) as load:
        processes.spread(load.pid)
        pids = processes.tree(program.pid)
        before = {pid: processes.cpu_us(pid) for pid in (*pids, mock.pid)}
        load.go()
        report = load.report()
        used = {pid: processes.cpu_us(pid) - before[pid] for pid in before}
    beside_us = used.pop(mock.pid) + report["cpu_us"]
    return Sample(
        per_second=report["done"] / report["seconds"],
        cost_us=sum(used.values()) / work.requests,
        beside_us=beside_us / work.requests,
        busy=tuple(sorted((us / 1e6 / report["seconds"] for us in used.values()), reverse=True)),
        failed=loads.failed(report),
    )


def _row(workers: int, samples: Sequence[Sample]) -> dict[str, Any]:
    middle = sorted(samples)[len(samples) // 2]
    return {
        "workers": workers,
        "requests_per_second": median(sample.per_second for sample in samples),
        "lowest": min(sample.per_second for sample in samples),
        "highest": max(sample.per_second for sample in samples),
        "cpu_us_per_request": median(sample.cost_us for sample in samples),
        "mock_and_load_us_per_request": median(sample.beside_us for sample in samples),
        "busy": [round(busy, 2) for busy in middle.busy if busy > _IDLE],
        "mock_and_load_busy": round(middle.beside_us * middle.per_second / 1e6, 2),
        "failed": sum(sample.failed for sample in samples),
    }


def compared(one: Mapping[str, Any], two: Mapping[str, Any], available: int) -> dict[str, float]:
    """Return `ratio`, `ceiling` and `by_cost` from the rows of one and two workers on that many processors."""
    of_all_us = one["cpu_us_per_request"] + one["mock_and_load_us_per_request"]
    most_per_second = min(available * 1e6 / of_all_us, 2e6 / one["cpu_us_per_request"])
    return {
        "ratio": two["requests_per_second"] / one["requests_per_second"],
        "ceiling": most_per_second / one["requests_per_second"],
        "by_cost": 2 * one["cpu_us_per_request"] / two["cpu_us_per_request"],
    }


def main() -> int:
    """Measure, print, write results/workers.json; return 1 when it could not be measured or an answer failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--body", default="agentic")
    arguments = parser.parse_args()
    programs.stop_all_on_sigterm()
    try:
        rows = measure(Work(arguments.body, CONNECTIONS, arguments.requests), arguments.rounds)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    summary = compared(rows[0], rows[1], len(os.sched_getaffinity(0)))
    outcome.keep("workers", rows, rounds=arguments.rounds, body=arguments.body, compared=summary)
    print(outcome.table(rows), outcome.table([summary]), sep="\n\n")
    return 1 if any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
