"""
How many 0.5 KB requests one processor answers in a second, in a closed loop, next to nginx in the same rounds.

    python -m benchmarks.throughput [--programs NAME...] [--rounds N]

Driven by the load generator, and by wrk where it is installed. "direct" is the mock itself: the ceiling of what mock
and load, which share the other processor, can show. A program whose `processors_used` is clearly below 1 was held up by
that, and `per_used_second`, the requests for each second of processor time that it used, says more.
"""

import argparse
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks import loads, outcome, processes, programs
from benchmarks.loads import Work
from benchmarks.programs import BenchmarkError, Program

CONNECTIONS: Final = 32
REQUESTS: Final = 3_000
WRK_SECONDS: Final = 2
NGINX: Final = "nginx"


def drivers() -> list[str]:
    """Return what can drive the load here."""
    return ["load", "wrk"] if shutil.which("wrk") else ["load"]


class Speed(NamedTuple):
    """Requests a second, and how much of a processor the program used meanwhile, from 0 to 1."""

    per_second: float
    processors_used: float


def measure(names: Sequence[str], rounds: int, requests: int = REQUESTS) -> list[dict[str, Any]]:
    """
    Return a row for each driver and program; programs take turns in random order.

    Raises:
        BenchmarkError: a program did not start, or an answer failed.
    """
    order = random.Random(0)
    found: dict[tuple[str, str], list[Speed]] = {(driver, name): [] for driver in drivers() for name in names}
    with loads.stand(names) as servers:
        for _ in range(rounds):
            for driver, name in order.sample(list(found), len(found)):
                take = _with_wrk if driver == "wrk" else _with_load
                found[driver, name].append(take(servers[name], requests))
    return [_row(driver, name, speeds, found.get((driver, NGINX))) for (driver, name), speeds in found.items()]


def _row(driver: str, name: str, speeds: Sequence[Speed], nginx: Sequence[Speed] | None) -> dict[str, Any]:
    pairs = list(zip(speeds, nginx, strict=True)) if nginx else []
    return {
        "driver": driver,
        "program": name,
        "requests_per_second": median(speed.per_second for speed in speeds),
        "lowest": min(speed.per_second for speed in speeds),
        "highest": max(speed.per_second for speed in speeds),
        "processors_used": median(speed.processors_used for speed in speeds),
        "per_used_second": median(speed.per_second / speed.processors_used for speed in speeds),
        "to_nginx": median(speed.per_second / base.per_second for speed, base in pairs) if pairs else None,
    }


def _with_load(program: Program, requests: int) -> Speed:
    report, used_us = loads.run(program, Work("short", CONNECTIONS, requests), programs.processors()[1])
    if loads.failed(report):
        raise BenchmarkError(f"{program.name}: {loads.failed(report)} answers failed")
    return Speed(requests / report["seconds"], used_us / 1e6 / report["seconds"])


def _with_wrk(program: Program, _: int) -> Speed:
    script, body = programs.FOLDER / "wrk_post.lua", programs.BODIES / "short.json"
    url = f"{program.url}/v1/chat/completions"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{WRK_SECONDS}s", "-s", str(script), url, "--", str(body)]
    pid = program.pid
    before = processes.tree_cpu_us(pid)
    with programs.pinned_to(programs.processors()[1]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{program.name}: wrk failed:\n{done.stderr}")
    used_us = processes.tree_cpu_us(pid) - before
    return Speed(read_wrk(program.name, done.stdout), used_us / 1e6 / WRK_SECONDS)


def read_wrk(name: str, printed: str) -> float:
    """
    Return the requests a second that wrk printed of the program called so.

    Raises:
        BenchmarkError: wrk tells of errors, or of nothing.
    """
    trouble = re.search(r"^\s*(Socket errors:.*|Non-2xx.*)$", printed, re.MULTILINE)
    speed = re.search(r"^Requests/sec:\s*([\d.]+)$", printed, re.MULTILINE)
    if trouble or speed is None:
        raise BenchmarkError(f"{name}, wrk: {trouble.group(1) if trouble else 'no figure in what it printed'}")
    return float(speed.group(1))


def main() -> int:
    """Measure, print, write results/throughput.json; return 1 when an answer failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput")
    parser.add_argument("--programs", nargs="+", default=loads.usual(), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    programs.stop_all_on_sigterm()
    try:
        rows = measure(arguments.programs, arguments.rounds)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    outcome.keep("throughput", rows, rounds=arguments.rounds, connections=CONNECTIONS)
    print(outcome.table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
