"""
The measurement: rounds in which every program gets every case, in random order.

    for each of N rounds
        every third: stop and start all programs; warm them up
        for each case, in random order
            for each program, in random order: N requests; processor time before and after
        translation alone, by itself

Two programs of one round are compared with each other, never with another round: see figures.paired_ratio. A slow
program takes part in the first round after each start only, with fewer requests.

The relay, the proxy and the mock have to answer everything. A peer's errors are counted instead: it keeps the rounds
in which nothing was lost, and a case in which it loses something twice it does not get again.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from benchmarks import programs
from benchmarks.peers import PEERS, Peer
from benchmarks.programs import BenchmarkError, Program

RELAY: Final = "relay"
RELAY_AGAIN: Final = "relay again"
PROXY: Final = "proxy"
NGINX: Final = "nginx"
#: The load goes straight to the mock, whose processor time it is: what both of them can do.
DIRECT: Final = "direct"

ROUNDS_PER_START: Final = 3
#: So often a peer may fail in a case.
_CHANCES: Final = 2


class Dose(NamedTuple):
    """What one program gets in one round. `rate` is requests a second, 0 is a closed loop."""

    requests: int
    connections: int
    rate: int = 0


class Case(NamedTuple):
    """
    One row of the results. `pieces` is the number of measured events in each answer, 0 for a whole answer.

    A quick run and a slow program have doses of their own; without one they leave the case out.
    """

    name: str
    body: str
    meaning: str
    full: Dose
    quick: Dose | None = None
    slow: Dose | None = None
    pieces: int = 0

    @property
    def unit(self) -> str:
        return "event" if self.pieces else "request"


_AGENTIC: Final = (Dose(200, 16), Dose(60, 16), Dose(16, 16))
_BURST: Final = (Dose(64, 16), Dose(32, 16), Dose(4, 4))

CASES: Final = (
    Case("short", "short", "0.5 KB, whole answer", Dose(300, 16), Dose(100, 16), Dose(32, 16)),
    Case(
        "agentic-clean",
        "agentic-clean",
        "63 KB, nothing to repair, the same each time",
        Dose(200, 16),
        Dose(60, 16),
        Dose(16, 16),
    ),
    Case("agentic", "agentic", "63 KB with repairs, the same each time", *_AGENTIC),
    Case(
        "agentic-next",
        "agentic-next",
        "63 KB with repairs, a new turn of a known history",
        Dose(200, 16),
        slow=Dose(16, 16),
    ),
    Case(
        "agentic-new",
        "agentic-new",
        "63 KB with repairs, no text or tool seen before",
        Dose(200, 16),
        slow=Dose(16, 16),
    ),
    Case("huge", "huge", "1 MB with repairs, the same each time", Dose(40, 8), Dose(16, 8), Dose(8, 8)),
    Case("text-burst", "text-burst", "stream of 200 text events, as fast as they go", *_BURST, pieces=200),
    Case("call-burst", "call-burst", "stream of 200 pieces of a tool call's arguments", *_BURST, pieces=200),
    Case("leaked-burst", "leaked-burst", "stream of 200 pieces of a call that leaked as text", *_BURST, pieces=200),
    Case("thought-burst", "thought-burst", "stream of 200 pieces of reasoning", *_BURST, pieces=200),
    # The rates of streams are primes, so that streams are not in step with each other.
    Case("text-paced", "text-paced", "100 streams at once, 50 events/s each", Dose(100, 100, rate=4_999), pieces=50),
    Case(
        "paced-500",
        "text-paced",
        "500 streams at once, 50 events/s each (slow programs: 10 streams)",
        Dose(500, 500, rate=4_999),
        slow=Dose(10, 10, rate=499),
        pieces=50,
    ),
    Case(
        "short-steady",
        "short",
        "0.5 KB, 500 requests/s (slow programs: 20)",
        Dose(500, 32, rate=500),
        slow=Dose(20, 8, rate=20),
    ),
)
#: The cases whose request and answer translate.py can repeat without a network.
TRANSLATED: Final = ("short", "agentic-clean", "agentic", "huge")


class Contestant(NamedTuple):
    """A program of a run: how it is started in front of the mock, on a processor. A peer may fail, and may be slow."""

    name: str
    start: Callable[[Program, int], Program]
    peer: Peer | None = None

    @property
    def is_slow(self) -> bool:
        return self.peer is not None and self.peer.is_slow


OWN: Final = (
    Contestant(RELAY, lambda mock, processor: programs.start_relay(RELAY, mock.url, processor)),
    Contestant(RELAY_AGAIN, lambda mock, processor: programs.start_relay(RELAY_AGAIN, mock.url, processor)),
    Contestant(PROXY, lambda mock, processor: programs.start_proxy(mock.url, processor)),
)


class Plan(NamedTuple):
    """How much is measured: `cases` and `peers` by name. In a quick run the mock is not measured."""

    rounds: int
    cases: tuple[str, ...]
    peers: tuple[str, ...] = ()
    is_quick: bool = False
    with_translation: bool = True

    @property
    def chosen(self) -> list[Case]:
        return [case for case in CASES if case.name in self.cases]

    def contestants(self) -> list[Contestant]:
        return [*OWN, *(Contestant(peer.name, peer.start, peer) for peer in PEERS if peer.name in self.peers)]

    def dose(self, case: Case, *, is_slow: bool = False) -> Dose | None:
        if is_slow:
            return case.slow
        return case.quick if self.is_quick else case.full


_FOR_BENCH: Final = tuple(case.name for case in CASES if case.name != "paced-500")
_FOR_PEERS: Final = tuple(
    case.name for case in CASES if case.name not in ("leaked-burst", "thought-burst", "text-paced")
)
FULL: Final = Plan(rounds=12, cases=_FOR_BENCH, peers=(NGINX,))
QUICK: Final = Plan(rounds=6, cases=tuple(case.name for case in CASES if case.quick), is_quick=True)
BESIDE_PEERS: Final = Plan(
    rounds=12, cases=_FOR_PEERS, peers=tuple(peer.name for peer in PEERS), with_translation=False
)


class Sample(NamedTuple):
    """One program, one case, one round. Times are microseconds; `per_second` counts requests."""

    cpu_us: float
    per_second: float
    latency_us: Mapping[str, float]
    first_event_us: Mapping[str, float]
    transit_us: Mapping[str, float]


class Measured:
    """
    Everything a run found.

    samples[case][program][round] are the rounds without a loss, losses[case][program] counts what went wrong in the
    others, by cause; `absent` has the error of each peer that could not be started.
    """

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, dict[int, Sample]]] = {}
        self.losses: dict[str, dict[str, Counter[str]]] = {}
        self.absent: dict[str, str] = {}
        self.translation_us: dict[str, dict[int, float]] = {}
        self.resident_mb: dict[str, float] = {}
        self.threads: dict[str, int] = {}
        self._failures: Counter[tuple[str, str]] = Counter()

    def has_chances(self, case: Case, name: str) -> bool:
        return self._failures[case.name, name] < _CHANCES

    def keep(self, case: Case, name: str, index: int, sample: Sample) -> None:
        self.samples.setdefault(case.name, {}).setdefault(name, {})[index] = sample

    def lose(self, case: Case, name: str, causes: Mapping[str, int]) -> None:
        self._failures[case.name, name] += 1
        self.losses.setdefault(case.name, {}).setdefault(name, Counter()).update(causes)


Servers = list[tuple[Contestant, Program]]


class Lost(BenchmarkError):
    """Answers were lost, cut or wrong: `causes` counts them."""

    def __init__(self, text: str, causes: Mapping[str, int]) -> None:
        super().__init__(text)
        self.causes = causes


def measure(plan: Plan, tell: Callable[[str], None]) -> Measured:
    """
    Run all rounds; `tell` gets a line of progress for each, and one for each peer that is missing.

    Raises:
        BenchmarkError: a program that is no peer did not start or lost something.
    """
    run = _Run(plan, tell)
    with ExitStack() as running:
        mock = programs.start_mock(run.load_on)
        running.callback(mock.stop)
        for first in range(0, plan.rounds, ROUNDS_PER_START):
            run.generation(mock, range(first, min(first + ROUNDS_PER_START, plan.rounds)))
    return run.found


class _Run:
    """A run that is under way."""

    def __init__(self, plan: Plan, tell: Callable[[str], None]) -> None:
        self.measured_on, self.load_on = programs.processors()
        self.found = Measured()
        self._plan = plan
        self._tell = tell
        self._order = random.Random(0)

    def generation(self, mock: Program, rounds: range) -> None:
        """Start everything anew for some rounds, and stop it."""
        with ExitStack() as running:
            servers = self._start_all(mock, running)
            for case, contestant, program in self._pairs(servers):
                self._warm_up(case, contestant, program)
            for index in rounds:
                self._tell(f"round {index + 1} of {self._plan.rounds}")
                taking_part = [each for each in servers if index == rounds[0] or not each[0].is_slow]
                for case, contestant, program in self._pairs(taking_part):
                    self._take(case, contestant, program, index)
                if self._plan.with_translation:
                    self._add_translation(index)
            for contestant, program in servers:
                self.found.resident_mb[contestant.name] = program.resident_mb()
                self.found.threads[contestant.name] = program.threads()

    def _start_all(self, mock: Program, running: ExitStack) -> Servers:
        servers: Servers = [] if self._plan.is_quick else [(Contestant(DIRECT, lambda mock, _: mock), mock)]
        for contestant in self._plan.contestants():
            if contestant.name in self.found.absent:
                continue
            try:
                program = contestant.start(mock, self.measured_on)
            except BenchmarkError as exc:
                if contestant.peer is None:
                    raise
                self.found.absent[contestant.name] = str(exc)
                self._tell(f"{contestant.name} is left out: {exc}")
            else:
                running.callback(program.stop)
                servers.append((contestant, program))
        return servers

    def _pairs(self, servers: Servers) -> Iterator[tuple[Case, Contestant, Program]]:
        for case in self._order.sample(self._plan.chosen, len(self._plan.chosen)):
            for contestant, program in self._order.sample(servers, len(servers)):
                yield case, contestant, program

    def _warm_up(self, case: Case, contestant: Contestant, program: Program) -> None:
        """Closed loops get one request on each connection, which is not kept."""
        dose = self._plan.dose(case, is_slow=contestant.is_slow)
        if dose and not dose.rate:
            self._try(case, contestant, program, dose._replace(requests=dose.connections))

    def _take(self, case: Case, contestant: Contestant, program: Program, index: int) -> None:
        dose = self._plan.dose(case, is_slow=contestant.is_slow)
        sample = self._try(case, contestant, program, dose) if dose else None
        if sample:
            self.found.keep(case, contestant.name, index, sample)

    def _try(self, case: Case, contestant: Contestant, program: Program, dose: Dose) -> Sample | None:
        """Return None when a peer lost something, now or too often before."""
        if not self.found.has_chances(case, contestant.name):
            return None
        try:
            return _sample(case, program, dose, self.load_on)
        except BenchmarkError as exc:
            if contestant.peer is None:
                raise
            causes = exc.causes if isinstance(exc, Lost) else {"no_answer": dose.requests}
            self.found.lose(case, contestant.name, causes)
            return None

    def _add_translation(self, index: int) -> None:
        costs = programs.run_python("benchmarks.translate", ["--exchanges", *TRANSLATED], self.measured_on)
        for name, cost_us in costs.items():
            self.found.translation_us.setdefault(name, {})[index] = cost_us


def _sample(case: Case, program: Program, dose: Dose, processor: int) -> Sample:
    options = ["-c", str(dose.connections), "-n", str(dose.requests), "-e", str(case.pieces), "-r", str(dose.rate)]
    report, used_us = programs.run_load(program, options, case.body, processor)
    _check(report, case, program, dose.requests)
    return Sample(
        cpu_us=used_us / (dose.requests * (case.pieces or 1)),
        per_second=dose.requests / report["seconds"],
        latency_us=report["latency_us"],
        first_event_us=report["first_event_us"],
        transit_us=report["transit_us"],
    )


def _check(report: Mapping[str, Any], case: Case, program: Program, requests: int) -> None:
    """A program that drops is not fast."""
    if report["done"] == requests:
        return
    causes = {
        name: count for name, count in report.items() if isinstance(count, int) and count and name not in _NO_LOSS
    }
    text = f"{program.name}, {case.name}: of {requests} requests {causes}\n{program.last_words()}"
    raise Lost(text, {**causes, "events": max(0, requests * case.pieces - report["pieces"])})


#: Numbers of a load's report that count what went well.
_NO_LOSS: Final = frozenset({"pieces", "done"})
