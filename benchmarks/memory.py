"""
What one worker holds in memory: just started, with 500 paced streams open, and when they are gone.

    python -m benchmarks.memory [--programs NAME...] [--streams N]

Resident megabytes (RSS) of the largest process of each program, and its proportional share (PSS), in which a page
that several processes map counts in parts: other Python processes on the machine make it smaller. With streams open
it is the largest of ten samples a second. Each program is started anew.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from benchmarks import loads, outcome, paced, processes, programs
from benchmarks.loads import Load, Work
from benchmarks.processes import Memory
from benchmarks.programs import Program

SAMPLE_S: Final = 0.1
#: For what a program does late: a pool that shrinks, a collection of garbage.
AFTERWARDS_S: Final = 1.0


def measure(names: Sequence[str], work: Work) -> list[dict[str, Any]]:
    """
    Return a row for each program.

    Raises:
        BenchmarkError: a program did not start or did not answer the first requests.
    """
    rows = []
    for name in names:
        with loads.stand([name]) as servers:
            rows.append(_row(servers[name], work))
    return rows


def _row(program: Program, work: Work) -> dict[str, Any]:
    pid = program.pid
    idle = largest(pid)
    with Load(program, work, programs.processors()[1]) as load:
        load.go()
        samples = [largest(pid)]
        while load.is_running():
            time.sleep(SAMPLE_S)
            samples.append(largest(pid))
        failed = loads.failed(load.report())
    time.sleep(AFTERWARDS_S)
    return {
        "program": program.name,
        "processes": len(processes.tree(pid)),
        "streams": work.connections,
        **_columns("idle", idle),
        **_columns("streams", max(samples)),
        **_columns("afterwards", largest(pid)),
        "failed": failed,
    }


def largest(pid: int) -> Memory:
    """Return the memory of the largest process at or below `pid`: the worker, where a parent only watches over it."""
    return max(processes.memory(each) for each in processes.tree(pid))


def _columns(when: str, memory: Memory) -> dict[str, float | None]:
    return {f"{when}_rss_mb": memory.resident, f"{when}_pss_mb": memory.proportional}


def main() -> int:
    """Measure, print, write results/memory.json; return 1 when any answer failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--programs", nargs="+", default=loads.usual()[1:], metavar="NAME")
    parser.add_argument("--streams", type=int, default=500)
    arguments = parser.parse_args()
    programs.stop_all_on_sigterm()
    rows = measure(arguments.programs, paced.work_of(arguments.streams))
    outcome.keep("memory", rows)
    print(outcome.table(rows))
    return 1 if any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
