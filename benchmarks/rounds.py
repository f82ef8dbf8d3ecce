"""
The measurement: rounds in which every program gets every case, in random order.

    for each of N rounds
        every third: stop and start the relay (twice), the proxy, nginx; warm them up
        for each case, in random order
            for each program, in random order: N requests; processor time before and after
        translation alone, by itself

Two programs of one round are compared with each other, never with another round: see figures.paired_ratio.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from benchmarks import programs
from benchmarks.programs import BenchmarkError, Program

RELAY: Final = "relay"
RELAY_AGAIN: Final = "relay again"
PROXY: Final = "proxy"
NGINX: Final = "nginx"
TRANSLATION: Final = "translation"

ROUNDS_PER_START: Final = 3


class Case(NamedTuple):
    """
    One row of the results. `pieces` is the number of measured events in each answer, 0 for a whole answer.

    `rate` is requests a second, 0 is a closed loop. `requests` is for one program in one round; a quick run takes
    `quick_requests`, or leaves the case out where that is 0.
    """

    name: str
    body: str
    meaning: str
    connections: int
    requests: int
    quick_requests: int
    pieces: int = 0
    rate: int = 0

    @property
    def unit(self) -> str:
        return "event" if self.pieces else "request"


CASES: Final = (
    Case("short", "short", "0.5 KB, whole answer", 16, 300, 100),
    Case("agentic-clean", "agentic-clean", "63 KB, nothing to repair, whole answer", 16, 200, 60),
    Case("agentic", "agentic", "63 KB with repairs, whole answer", 16, 200, 60),
    Case("huge", "huge", "1 MB with repairs, whole answer", 8, 40, 16),
    Case("text-burst", "text-burst", "stream of 200 text events, as fast as they go", 16, 64, 32, pieces=200),
    Case("call-burst", "call-burst", "stream of 200 pieces of a tool call's arguments", 16, 64, 32, pieces=200),
    Case("leaked-burst", "leaked-burst", "stream of 200 pieces of a call that leaked as text", 16, 64, 32, pieces=200),
    Case("thought-burst", "thought-burst", "stream of 200 pieces of reasoning", 16, 64, 32, pieces=200),
    Case("text-paced", "text-paced", "100 streams at once, 50 events/s each", 100, 100, 0, pieces=50, rate=5_000),
    Case("short-steady", "short", "0.5 KB, 300 requests/s", 32, 300, 0, rate=300),
)
#: The cases whose request and answer translate.py can repeat without a network.
TRANSLATED: Final = ("short", "agentic-clean", "agentic", "huge")


class Sample(NamedTuple):
    """One program, one case, one round. Times are microseconds; `per_second` counts requests."""

    cpu_us: float
    per_second: float
    latency_us: dict[str, float]
    transit_us: dict[str, float]


class Plan(NamedTuple):
    """How much is measured."""

    rounds: int
    is_quick: bool

    @property
    def with_nginx(self) -> bool:
        """It is for people who compare; the guard does without."""
        return not self.is_quick and programs.has_nginx()

    @property
    def cases(self) -> list[Case]:
        return [case for case in CASES if not self.is_quick or case.quick_requests]

    def requests(self, case: Case) -> int:
        return case.quick_requests if self.is_quick else case.requests


class Measured(NamedTuple):
    """Everything a run found: samples[case][program], one for each round, and the memory in use at the end."""

    samples: dict[str, dict[str, list[Sample]]]
    translation_us: dict[str, list[float]]
    resident_mb: dict[str, float]


def measure(plan: Plan, tell: Callable[[str], None]) -> Measured:
    """
    Run all rounds; `tell` gets a line of progress for each.

    Raises:
        BenchmarkError: a program did not start, or an answer was lost, cut or wrong.
    """
    measured_on, load_on = programs.processors()
    order = random.Random(0)
    found = Measured({case.name: {} for case in plan.cases}, {}, {})
    with ExitStack() as running:
        mock = programs.start_mock(load_on)
        running.callback(mock.stop)
        for first in range(0, plan.rounds, ROUNDS_PER_START):
            with ExitStack() as generation:
                servers = _start_all(plan, mock, measured_on, generation)
                for case, program in _pairs(plan.cases, servers, order):
                    if not case.rate:
                        _sample(case, program, case.connections, load_on)
                for index in range(first, min(first + ROUNDS_PER_START, plan.rounds)):
                    tell(f"round {index + 1} of {plan.rounds}")
                    for case, program in _pairs(plan.cases, servers, order):
                        sample = _sample(case, program, plan.requests(case), load_on)
                        found.samples[case.name].setdefault(program.name, []).append(sample)
                    _add_translation(found, measured_on)
                found.resident_mb.update({program.name: program.resident_mb() for program in servers})
    return found


def _start_all(plan: Plan, mock: Program, processor: int, generation: ExitStack) -> list[Program]:
    starters = [
        lambda: programs.start_relay(RELAY, mock.url, processor),
        lambda: programs.start_relay(RELAY_AGAIN, mock.url, processor),
        lambda: programs.start_proxy(mock.url, processor),
    ]
    if plan.with_nginx:
        starters.append(lambda: programs.start_nginx(mock, processor))
    servers = []
    for starter in starters:
        servers.append(starter())
        generation.callback(servers[-1].stop)
    return servers


def _pairs(cases: list[Case], servers: list[Program], order: random.Random) -> Iterator[tuple[Case, Program]]:
    for case in order.sample(cases, len(cases)):
        for program in order.sample(servers, len(servers)):
            yield case, program


def _sample(case: Case, program: Program, requests: int, processor: int) -> Sample:
    options = ["-c", str(case.connections), "-n", str(requests), "-e", str(case.pieces), "-r", str(case.rate)]
    report, used_us = programs.run_load(program, options, case.body, processor)
    _check(report, case, program, requests)
    return Sample(
        cpu_us=used_us / (requests * (case.pieces or 1)),
        per_second=requests / report["seconds"],
        latency_us=report["latency_us"],
        transit_us=report["transit_us"],
    )


def _check(report: dict[str, Any], case: Case, program: Program, requests: int) -> None:
    """A program that drops is not fast."""
    if report["done"] == requests:
        return
    causes = {name: count for name, count in report.items() if isinstance(count, int) and count and name != "pieces"}
    raise BenchmarkError(f"{program.name}, {case.name}: of {requests} requests {causes}\n{program.last_words()}")


def _add_translation(found: Measured, processor: int) -> None:
    costs = programs.run_python("benchmarks.translate", ["--exchanges", *TRANSLATED], processor)
    for name, cost_us in costs.items():
        found.translation_us.setdefault(name, []).append(cost_us)
