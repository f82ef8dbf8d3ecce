"""
How many instructions a whole proxy process executes for a request: connections, limits, metrics and its log line too.

The process runs under callgrind in front of the mock (mock.c), with the defaults. The load generator asks twice for the
same number of answers, one after the other; the second time is counted. Its one connection, and the short request that
it begins with, are in the figure, and so is what timers do meanwhile: on a machine that was busy with other work the
same code was 3 % dearer.

    python -m benchmarks.served PORT URL      is what runs under callgrind: a proxy that marks each SIGUSR1
"""

import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from benchmarks import programs
from benchmarks.bodies import write_bodies
from benchmarks.counted import mark
from benchmarks.programs import Program
from proxy.cli import main

_START_TIMEOUT_S: Final = 120.0
_MARK_TIMEOUT_S: Final = 30.0


class Served(NamedTuple):
    """`requests` with this body are counted; `per` is the unit of the figure, and an answer is `units` of them."""

    per: str
    units: int
    body: str
    requests: int


SERVED: Final[Mapping[str, Served]] = MappingProxyType(
    {
        "served-short": Served("request", 1, "short", 200),
        "served-agentic": Served("request", 1, "agentic", 60),
        "served-text-burst": Served("event", 200, "text-burst", 30),
        "served-call-burst": Served("event", 200, "call-burst", 30),
    }
)


def run_served(name: str, callgrind: list[str], counts: Path) -> None:
    """
    Serve a case under `callgrind`, a command line which ends each count at a mark: the second one is the case's.

    Raises:
        BenchmarkError: it did not start, an answer was not whole, or a mark was not seen.
    """
    case = SERVED[name]
    measured_on, load_on = programs.processors()
    programs.compile_programs()
    write_bodies(programs.BODIES)
    with ExitStack() as running:
        mock = programs.start_mock(load_on)
        running.callback(mock.stop)
        port = programs.free_port()
        command = [*callgrind, sys.executable, "-m", "benchmarks.served", str(port), mock.url]
        proxy = programs.start(name, command, port, measured_on, environment=_SAME, timeout_s=_START_TIMEOUT_S)
        running.callback(proxy.stop)
        for number in (1, 2):
            _ask(case, proxy, load_on)
            _mark(proxy, Path(f"{counts}.{number}"))


#: One process, which ends without a delay, and always has its sets in the same order.
_SAME: Final = MappingProxyType({"PYTHONHASHSEED": "0", "WORKERS": "1", "DRAIN_DELAY": "0"})


def _ask(case: Served, proxy: Program, load_on: int) -> None:
    pieces = case.units if case.per == "event" else 0
    options = ["-c", "1", "-n", str(case.requests), "-e", str(pieces)]
    report, _ = programs.run_load(proxy, options, case.body, load_on)
    if report["done"] != case.requests:
        raise programs.BenchmarkError(f"{proxy.name}: {report['done']} of {case.requests} answers were whole")


def _mark(proxy: Program, written: Path) -> None:
    """Have the process mark; return when callgrind has written what it counted up to there."""
    proxy.send_signal(signal.SIGUSR1)
    end = time.monotonic() + _MARK_TIMEOUT_S
    while not (written.exists() and "\ntotals: " in written.read_text()):
        if time.monotonic() > end:
            raise programs.BenchmarkError(f"{proxy.name}: no count was written:\n{proxy.last_words()}")
        time.sleep(0.05)


def serve(port: str, url: str) -> int:
    """Be a proxy that marks at each SIGUSR1."""
    signal.signal(signal.SIGUSR1, lambda *_: mark())
    return main(["serve", "--port", port, "--vllm-base", url])


if __name__ == "__main__":
    sys.exit(serve(*sys.argv[1:]))
