"""Load generators that run while something else is looked at, and the servers that they are sent to."""

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType, TracebackType
from typing import Any, Final, NamedTuple, Self

from benchmarks import processes, programs
from benchmarks.bodies import write_bodies
from benchmarks.peers import PEERS
from benchmarks.programs import BenchmarkError, Program

DIRECT: Final = "direct"
PROXY: Final = "proxy"
#: How long a program may still work after its last answer: it writes its log line then.
_SETTLE_S: Final = 0.03
#: Above load.c's own limit of 60 s.
_TIMEOUT_S: Final = 90.0
_GOLDEN: Final = (5**0.5 - 1) / 2

#: How to start a server in front of the mock, its first argument, on a processor. Peers that are slow are not here.
STARTERS: Final[Mapping[str, Callable[[Program, int], Program]]] = MappingProxyType(
    {
        **{peer.name: peer.start for peer in PEERS if not peer.is_slow},
        "relay": lambda mock, processor: programs.start_relay("relay", mock.url, processor),
        PROXY: lambda mock, processor: programs.start_proxy(mock.url, processor),
    }
)


class Work(NamedTuple):
    """
    What one load generator does; see src/load.c. `pieces` is the number of stamped events in each answer.

    `per_second` makes it a constant rate, 0 a closed loop; there, connection i starts i * `gap_us` late.
    """

    body: str
    connections: int
    requests: int
    pieces: int = 0
    per_second: float = 0
    gap_us: float = 0

    def options(self) -> list[str]:
        pace = ["-r", str(self.per_second)] if self.per_second else ["-g", f"{self.gap_us:.1f}"]
        return ["-c", str(self.connections), "-n", str(self.requests), "-e", str(self.pieces), *pace]


class Load:
    """
    A load generator: `with Load(...) as load` opens and warms up its connections, `go()` lets it send.

    Raises:
        BenchmarkError: the warm-up failed.
    """

    def __init__(self, program: Program, work: Work, processor: int) -> None:
        self._program = program
        self._work = work
        files = ["-b", str(programs.BODIES / f"{work.body}.json"), "-w", str(programs.BODIES / "short.json")]
        self._command = [str(programs.BUILD / "load"), "-p", str(program.port), *files, *work.options()]
        self._processor = processor

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        with programs.pinned_to(self._processor):
            self._process = subprocess.Popen(self._command, text=True, stdin=pipe, stdout=pipe, stderr=pipe)
        assert self._process.stdin
        assert self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        if self._out.readline() != "ready\n":
            _, said = self._process.communicate()
            raise BenchmarkError(f"{self._program.name}: {said}{self._program.last_words()}")
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def go(self) -> None:
        self._used_before_us = processes.cpu_us(self.pid)
        self._in.write("go\n")
        self._in.flush()

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return not select.select([self._out], [], [], 0)[0]

    def report(self) -> dict[str, Any]:
        """
        Wait for its end; return what it printed, and as `cpu_us` the processor time that it used since `go()`.

        Answers that failed are told on standard error.
        """
        if not select.select([self._out], [], [], _TIMEOUT_S)[0]:
            raise BenchmarkError(f"{self._program.name}: the load generator did not end")
        report = json.loads(self._out.read())
        if failed(report):
            causes = ", ".join(f"{report[cause]} {cause}" for cause in FAILURES if report[cause])
            print(f"{self._program.name}, {self._work.body}: {causes}", file=sys.stderr)
        return {**report, "cpu_us": processes.cpu_us(self.pid) - self._used_before_us}


class Result(NamedTuple):
    """What one load found, and the CPU-microseconds that the program used for it."""

    report: dict[str, Any]
    cpu_us: float


def run(program: Program, work: Work, processor: int) -> Result:
    """
    Do the work alone.

    Raises:
        BenchmarkError: the warm-up failed.
    """
    pid = program.pid
    with Load(program, work, processor) as load:
        time.sleep(_SETTLE_S)
        before = processes.tree_cpu_us(pid)
        load.go()
        report = load.report()
        time.sleep(_SETTLE_S)
        used = processes.tree_cpu_us(pid) - before
    return Result(report, used)


FAILURES: Final = ("no_connection", "broken", "bad_status", "lost_pieces", "out_of_order", "no_end", "hung")


def failed(report: Mapping[str, Any]) -> int:
    """Return how many answers were lost, cut, wrong, or had an event twice or in the wrong order."""
    return sum(report[name] for name in FAILURES)


def apart_us(connections: int, interval_us: float, over_s: float) -> float:
    """
    Return the gap between the starts of streams such that their events are not in step.

    All of them start within `over_s`. The gap is the interval times a power of the golden ratio: multiples of that
    spread evenly over the interval, whatever their number.
    """
    gap = interval_us * _GOLDEN
    while gap * connections > over_s * 1e6:
        gap *= _GOLDEN
    return gap


@contextmanager
def stand(names: Sequence[str]) -> Iterator[dict[str, Program]]:
    """
    Start the mock and, on a processor of their own, the servers called so; "direct" is the mock itself.

    Raises:
        BenchmarkError: one did not start, or there are not two processors.
    """
    programs.compile_programs()
    write_bodies(programs.BODIES)
    measured_on, load_on = programs.processors()
    with ExitStack() as running:
        mock = programs.start_mock(load_on)
        running.callback(mock.stop)
        servers = {}
        for name in names:
            if name != DIRECT:
                servers[name] = STARTERS[name](mock, measured_on)
                running.callback(servers[name].stop)
            else:
                servers[name] = mock
        yield servers


def usual() -> list[str]:
    """Return what is measured unless other names are given: nginx only where it is installed."""
    return [DIRECT, *(["nginx"] if programs.has_nginx() else []), "relay", PROXY]
