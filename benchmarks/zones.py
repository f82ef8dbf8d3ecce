"""
What becomes of requests when a zone is too small, is lost and returns: a simulation of two zones.

    python -m benchmarks.zones [--seed N]

The pool is the proxy's own (proxy/upstream/pool.py), with its breakers, slow start and zones, on a clock that the
simulation turns; requests, replicas and their figures are those of benchmarks/balance.py. Nothing is served. The same
seed gives the same figures. Each zone has `REPLICAS`; the proxy stands in the zone `home`:

    calm        8 conversations for each replica at home
    saturated   three times as many
    lost        as calm, and all replicas at home die at once: what runs there breaks off, new connections are refused
    returned    they are there again, with empty caches

What a row says of its phase:

    home         share of requests that went to the proxy's own zone
    spilled      share that went to the other one
    errors       requests that two attempts did not place, which is what clients see as an error
    cut          requests that broke off because their replica died; `failover` continues those in plain text
    first_token  seconds until the first token, for one request in two and one in a hundred
    busiest      the most requests that one replica at home had at once
    return_s     seconds from the return until nine in ten requests of ten seconds went home

`choice_us` is what finding the zone costs before the policy chooses, in microseconds of processor time.
"""

import argparse
import asyncio
import heapq
import random
import sys
import time
import timeit
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Final, NamedTuple

from benchmarks import balance, outcome
from benchmarks.balance import SEED, Lane, Traffic
from proxy.config import Backend, Config
from proxy.upstream.breaker import State
from proxy.upstream.choice import digest
from proxy.upstream.pool import Pool
from proxy.upstream.replica import Replica
from proxy.upstream.sweep import Sweep
from proxy.upstream.zones import Zones

REPLICAS: Final = 4
POLICY: Final = "prefix"
#: What is compared: requests for each weight of 1 from which a zone is full.
SPILLS: Final = (0, 4, 8, 16, 64)
#: The phases, and when each begins, in seconds; what is before the first only fills caches.
PHASES: Final = (("calm", 600.0), ("saturated", 1200.0), ("lost", 1800.0), ("returned", 2400.0), ("", 3000.0))
CROWD: Final = 3
#: A client whose request failed asks again after so long.
AGAIN_S: Final = 2.0
_WINDOW_S: Final = 10.0


class Plan(NamedTuple):
    """One simulation."""

    spill: int
    seed: int = SEED


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock is turned by hand."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Tally:
    """Counts nothing: the simulation does."""

    def _nothing(self, *_: object) -> None: ...

    began = ended = failed = moved = forget = _nothing

    def tally(self, _: str) -> "Tally":
        return self


@dataclass(slots=True)
class Counts:
    """What is counted in one phase."""

    placed: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    cut: int = 0
    busiest: int = 0
    first_token_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Running:
    """A request that runs; a replica that dies ends it."""

    is_cut: bool = False


class Simulation:
    """One plan's run. Events are tuples (when, number, what happens), so no two compare equal."""

    def __init__(self, plan: Plan, loop: VirtualLoop) -> None:
        self.plan = plan
        self.loop = loop
        self.random = random.Random(plan.seed)
        self.traffic = Traffic(balance.Plan(POLICY, REPLICAS, seed=plan.seed))
        self.servers = {f"{zone}-{i}": balance.Replica() for zone in ("home", "near") for i in range(REPLICAS)}
        self.dead: set[str] = set()
        self.running: dict[str, dict[int, Running]] = {name: {} for name in self.servers}
        self.counts = {name: Counts() for name, _ in PHASES}
        self.phase = ""
        self.home_again: list[tuple[float, bool]] = []
        self._numbers = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    async def run(self) -> list[dict[str, Any]]:
        """Return the rows of the plan, one for each phase."""
        backends = tuple(
            Backend(url=f"http://127.0.0.1:{9 + i}", name=name, zone=name.partition("-")[0])
            for i, name in enumerate(self.servers)
        )
        self.pool = Pool(Sweep(), lambda *_, **__: None, Tally())
        config = Config(backends=backends, zone="home", zone_spill=self.plan.spill, balance=POLICY)
        await self.pool.apply(config)
        self._plan_all(list(self._lanes(CROWD)))
        while self._events:
            self.loop.now, _, happens = heapq.heappop(self._events)
            happens()
            if self.loop.now >= PHASES[-1][1]:
                break
        await self.pool.close()
        return [self._row(name) for name, _ in PHASES if name]

    def _lanes(self, times: int) -> Iterator[Lane]:
        for _ in range(times):
            yield from self.traffic.lanes()

    def _plan_all(self, lanes: list[Lane]) -> None:
        for name, begins in PHASES:
            self._at(begins, partial(self._enter, name))
        always = len(lanes) // CROWD
        (crowd_from, crowd_until) = (PHASES[1][1], PHASES[2][1])
        for index, lane in enumerate(lanes):
            begins, ends = (0.0, PHASES[-1][1]) if index < always else (crowd_from, crowd_until)
            self._at(begins + self.random.random() * 12, partial(self._send, lane, ends))
        self._at(1.0, self._tend)
        for name in self.servers:
            self._at(self.random.random(), partial(self._look_at, name))

    def _at(self, when: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happens))

    def _enter(self, phase: str) -> None:
        self.phase = phase
        home = {name for name in self.servers if name.startswith("home")}
        if phase == "lost":
            self.dead = home
            for name in home:
                for request in self.running[name].values():
                    request.is_cut = True
                self.servers[name] = balance.Replica(counted_until=self.loop.now, cached=OrderedDict())
        elif phase == "returned":
            self.dead = set()

    # --- what proxy/upstream/health.py does

    def _tend(self) -> None:
        for replica in self.pool.replicas:
            replica.warm_up(self.loop.now, self.pool.config.slow_start_s)
        self.pool.refresh()
        self._at(self.loop.now + 1.0, self._tend)

    def _look_at(self, name: str) -> None:
        replica = next(each for each in self.pool.replicas if each.name == name)
        now = self.loop.now
        if replica.breaker.state is not State.OPEN or now >= replica.breaker.looks_at:
            if name not in self.dead:
                self.pool.healthy(replica)
            elif replica.breaker.state is State.OPEN:
                replica.breaker.unhealthy(now)
            else:
                self.pool.tripped(replica, "refused")
        pause_s = self.pool.config.health_interval_s * self.random.uniform(0.9, 1.1)
        self._at(now + pause_s, partial(self._look_at, name))

    # --- what proxy/upstream/attempts.py does

    def _send(self, lane: Lane, ends: float) -> None:
        if self.loop.now >= ends:
            return
        counts, talk = self.counts[self.phase], lane.conversation
        ask = talk.ask(0, lane.session, remembers=True)
        replica = self.pool.choose(ask, "")
        if replica.name in self.dead:
            self.pool.dropped(replica)
            self.pool.failed(replica, "refused", at_once=True)
            tried = [replica]
            other = self.pool.choose_other(ask, "", tried, lost=replica) or self.pool.choose_desperately("", tried)
            if other is None or other.name in self.dead:
                if other is not None:
                    self.pool.dropped(other)
                    self.pool.failed(other, "refused", at_once=True)
                counts.errors += 1
                self._at(self.loop.now + AGAIN_S, partial(self._send, lane, ends))
                return
            replica = other
        self._begin(lane, ends, replica, counts)

    def _begin(self, lane: Lane, ends: float, replica: Replica, counts: Counts) -> None:
        talk, server, now = lane.conversation, self.servers[replica.name], self.loop.now
        system_tokens, answer = self.traffic.system_tokens[talk.system], self.traffic.answer_tokens()
        first, last = server.begin(talk, system_tokens, answer, now)
        number, request = next(self._numbers), Running()
        self.running[replica.name][number] = request
        counts.placed[replica.zone] += 1
        counts.first_token_s.append(first - now)
        if replica.zone == "home":
            counts.busiest = max(counts.busiest, replica.in_flight)
        if self.phase == "returned":
            self.home_again.append((now, replica.zone == "home"))

        def end() -> None:
            del self.running[replica.name][number]
            self.pool.ended(replica)
            if request.is_cut:
                self.counts["lost"].cut += 1
                self.pool.failed(replica, "broke off")
                self._at(self.loop.now + AGAIN_S, partial(self._send, lane, ends))
                return
            self.pool.succeeded(replica)
            server.end(talk, self.loop.now)
            self.traffic.answered(talk, answer)
            self.traffic.next_conversation(lane)
            self._at(self.loop.now + self.traffic.pause_s(), partial(self._send, lane, ends))

        # A server that dies closes its connections at that moment, and the proxy sees it then.
        death = PHASES[2][1]
        dies_meanwhile = replica.zone == "home" and now < death < last
        self._at(death + 1e-6 if dies_meanwhile else last, end)

    # --- what is published

    def _row(self, phase: str) -> dict[str, Any]:
        counts = self.counts[phase]
        requests, times = counts.placed.total(), sorted(counts.first_token_s)
        return {
            "spill": self.plan.spill,
            "phase": phase,
            "requests": requests,
            "home": round(counts.placed["home"] / requests, 3),
            "spilled": round(counts.placed["near"] / requests, 3),
            "errors": counts.errors,
            "cut": counts.cut,
            "first_token_p50_s": round(times[len(times) // 2], 2),
            "first_token_p99_s": round(times[len(times) * 99 // 100], 1),
            "busiest": counts.busiest,
            "return_s": self._return_s() if phase == "returned" else None,
        }

    def _return_s(self) -> float | None:
        begins, end = PHASES[3][1], PHASES[4][1]
        for step in range(int((end - begins) / _WINDOW_S)):
            window = [home for at, home in self.home_again if step <= (at - begins) / _WINDOW_S < step + 1]
            if window and sum(window) >= 0.9 * len(window):
                return (step + 1) * _WINDOW_S
        return None


def run(plan: Plan) -> list[dict[str, Any]]:
    """Simulate, and return the rows that the report has of it."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(Simulation(plan, loop).run())


# --- what finding the zone costs


@dataclass(slots=True)
class Seat:
    """A replica in so far as its zone is concerned."""

    zone: str
    key: int
    weight: float = 1.0
    in_flight: int = 1


def choice_us(replicas: int) -> dict[str, float]:
    """Return microseconds for a choice without zones, with room at home, and with the half at home full."""
    seats = [Seat("home" if i % 2 else "near", digest(b"%d" % i)) for i in range(replicas)]
    full = [Seat(each.zone, each.key, in_flight=each.zone == "home") for each in seats]
    return {
        "without zones": _quickest_us("", 64, seats),
        "home has room": _quickest_us("home", 64, seats),
        "home is full": _quickest_us("home", 1, full),
    }


def _quickest_us(zone: str, spill: int, seats: list[Seat]) -> float:
    zones: Zones[Seat] = Zones(lambda *_, **__: None)
    zones.use(zone, spill)
    zones.refresh(seats, 0.0)
    times = max(200, 100_000 // len(seats))

    def find_all() -> None:
        for _ in range(times):
            zones.sent(zones.open_to(None)[0])

    return round(min(timeit.repeat(find_all, timer=time.process_time, number=1, repeat=5)) / times * 1e6, 2)


def main() -> int:
    """Simulate, print, write results/zones.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zones")
    parser.add_argument("--seed", type=int, default=SEED)
    seed = parser.parse_args().seed
    rows = [row for spill in SPILLS for row in run(Plan(spill, seed))]
    costs = {str(size): choice_us(size) for size in (8, 1000)}
    outcome.keep("zones", rows, seed=seed, replicas=REPLICAS, policy=POLICY, choice_us=costs)
    print(outcome.table(rows))
    print("\nMicroseconds of processor time of finding the zone:\n")
    print(outcome.table([{"replicas": size, **found} for size, found in costs.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
