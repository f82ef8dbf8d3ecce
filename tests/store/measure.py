"""
What a decision costs in memory: `python -m tests.store.measure`. A decision, its settlement and its release, again and
again, by one worker, and by two that do nothing else.

All times are of the thread's CPU, so that what else the machine does matters little. `wall` is the wall's, for how
long workers wait for each other.
"""

import asyncio
import time

from proxy.access.principal import Principal
from proxy.config import Config, Tier
from proxy.edge.limits import Estimate, Limiter
from proxy.store.decision import Charge, Scope
from proxy.store.memory import MemoryStore
from proxy.store.table import Table
from tests.store.charges import charge
from tests.store.forks import fork, wait

ROUNDS = 50_000
WIDE = {"requests_per_minute": 10**7, "tokens_per_minute": 10**9, "tokens_per_day": 10**12, "max_concurrent": 10**6}
CHARGES = (charge("a", **WIDE), charge("b", Scope.PRINCIPAL_MODEL, **WIDE), charge("c", Scope.MODEL, **WIDE))


class TimedTable(Table):
    """Notes how long the lock was held."""

    held: list[float]

    def __enter__(self) -> None:
        super().__enter__()
        self._since = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.held.append(time.thread_time() - self._since)
        super().__exit__()


def in_us(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    picked = {"half": 0.5, "99 %": 0.99, "99.9 %": 0.999}
    parts = [f"{name} {ordered[int(len(ordered) * share)] * 1e6:.1f}" for name, share in picked.items()]
    return ", ".join([*parts, f"most {ordered[-1] * 1e6:.0f} us"])


def decide(table: Table, name: str, charges: tuple[Charge, ...] = CHARGES) -> None:
    store = MemoryStore(table, print)
    took, waited = [], []
    for _ in range(ROUNDS):
        began, began_cpu = time.perf_counter(), time.thread_time()
        taken = store.decided(charges, 1000).taken
        took.append(time.thread_time() - began_cpu)
        waited.append(time.perf_counter() - began)
        assert taken is not None
        store.settle(taken, 900)
        store.release(taken)
    print(f"{name}: a decision {in_us(took)}; wall {in_us(waited)}; {table.lockless} without the lock", flush=True)
    if isinstance(table, TimedTable):
        print(f"{name}: under the lock {in_us(table.held)}", flush=True)
        table.held.clear()


def several(table: Table, workers: int) -> None:
    def work(worker: int) -> None:
        table.use(worker)
        decide(table, f"worker {worker + 1} of {workers}")

    wait([fork(lambda worker=worker: work(worker)) for worker in range(workers)])


def free() -> None:
    """Nobody has limits; others have some."""
    configs = (Config(), Config(tiers={"x": Tier(models=("m",)), "y": Tier(max_concurrent=1)}))
    limiters = [Limiter(config, None, None, print) for config in configs]
    principal, estimate = Principal("alice", "x", Tier()), Estimate(1, 1)

    async def ask() -> None:
        for limiter in limiters:
            began = time.thread_time()
            for _ in range(ROUNDS):
                await limiter.admitted(principal, "m", estimate, None)
            print(f"no limits: {(time.thread_time() - began) / ROUNDS * 1e6:.2f} us")

    asyncio.run(ask())


if __name__ == "__main__":
    free()
    usual = (charge("a", requests_per_minute=10**7, tokens_per_minute=10**9),)
    decide(Table(workers=1), "one account with two limits, alone", usual)
    decide(Table(workers=2), "the same, one of two workers, the other idle", usual)
    decide(Table(workers=1), "three accounts with all limits, alone")
    several(Table(workers=2), 2)
    timed = TimedTable(workers=2)
    timed.held = []
    several(timed, 2)
