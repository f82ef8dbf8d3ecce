"""
What a decision costs in memory: `python -m tests.store.measure`. Three charges with every limit, then their settlement.

Prints microseconds of a decision alone, with two workers that do nothing else, and of what happens under the lock.
"""

import asyncio
import time

from proxy.access.principal import Principal
from proxy.config import Config, Rates, Tier
from proxy.edge.limits import Estimate, Limiter
from proxy.store.decision import Scope
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
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.held.append(time.perf_counter() - self._since)
        super().__exit__()


def in_us(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    picked = {"half": 0.5, "99 %": 0.99, "99.9 %": 0.999}
    parts = [f"{name} {ordered[int(len(ordered) * share)] * 1e6:.1f}" for name, share in picked.items()]
    return ", ".join([*parts, f"most {ordered[-1] * 1e6:.0f} us"])


def decide(table: Table, name: str) -> None:
    store = MemoryStore(table, print)
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        taken = store.decided(CHARGES, 1000).taken
        took.append(time.perf_counter() - began)
        assert taken is not None
        store.settle(taken, 900)
        store.release(taken)
    print(f"{name}: a decision {in_us(took)}, {table.lockless} without the lock", flush=True)
    if isinstance(table, TimedTable):
        print(f"{name}: under the lock {in_us(table.held)}", flush=True)


def several(table: Table, workers: int) -> None:
    def work(worker: int) -> None:
        table.use(worker)
        decide(table, f"worker {worker + 1} of {workers}")

    wait([fork(lambda worker=worker: work(worker)) for worker in range(workers)])


def free() -> None:
    limiter = Limiter(Config(tiers={"x": Tier(models=("m",)), "y": Tier(per_model={"z": Rates()})}), None, None, print)
    principal, estimate = Principal("alice", "x", Tier()), Estimate(1, 1)

    async def ask() -> None:
        began = time.perf_counter()
        for _ in range(ROUNDS):
            await limiter.admitted(principal, "m", estimate, None)
        print(f"no limits: {(time.perf_counter() - began) / ROUNDS * 1e6:.2f} us")

    asyncio.run(ask())


if __name__ == "__main__":
    free()
    decide(Table(workers=1), "alone")
    timed = TimedTable(workers=2)
    timed.held = []
    decide(timed, "one of two, the other idle")
    several(timed, 2)
