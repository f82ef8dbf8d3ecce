"""
What is done to the processes, in an order that a seed gives.

    kill a replica      SIGKILL to its group; it is started again after a while
    restart a replica   SIGTERM to it, and started again at once
    stop a replica      SIGSTOP, and SIGCONT after a while: its port still takes connections
    kill a worker       SIGKILL to one of the proxy's workers; the supervisor starts another
    stop a worker       SIGSTOP, and SIGCONT after a while

One thing at a time is done to a process, but to several processes at once: both replicas may be away, unless the pace
says `keeps_one`.
"""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.chaos.stage import Actor, Proxy


class Pace(NamedTuple):
    """
    How often something happens, and how long it lasts: seconds, from and to.

    `keeps_one`: nothing is done to a replica while another one is away. One that takes a minute to start is needed.
    """

    gap_s: tuple[float, float]
    away_s: tuple[float, float]
    stopped_s: tuple[float, float]
    worker_stopped_s: tuple[float, float] = (0.2, 2.0)
    keeps_one: bool = False


class Troubles:
    """Makes trouble: `run()`, then `calm()`. `done` counts what was done, `log` has it in order."""

    def __init__(self, proxy: Proxy, replicas: Sequence[Actor], seed: int, pace: Pace) -> None:
        self._proxy = proxy
        self._replicas = replicas
        self._rng = random.Random(seed)
        self._pace = pace
        self._busy: set[int] = set()
        self._tasks: list[asyncio.Task[None]] = []
        # A worker that is killed within half a minute comes back after a pause that doubles: with more of that there is
        # no worker at all for most of the time.
        self._chances = {self._kill: 3, self._restart: 3, self._stop: 3, self._kill_worker: 1, self._stop_worker: 3}
        self.done: Counter[str] = Counter()
        #: seconds since the start, what, and to whom
        self.log: list[str] = []

    async def run(self, seconds: float) -> None:
        """Make trouble for so long."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() - started < seconds:
            # All is drawn here, so that a seed gives the same plan however long things take.
            (what,) = self._rng.choices(tuple(self._chances), self._chances.values())
            index, share, gap = self._rng.randrange(len(self._replicas)), self._rng.random(), self._rng.random()
            is_spared = bool(self._busy) if self._pace.keeps_one else index in self._busy
            if not is_spared or "worker" in what.__name__:
                name = what.__name__.strip("_")
                self.done[name] += 1
                self.log.append(f"{loop.time() - started:.1f} {name} {index}")
                self._tasks.append(loop.create_task(what(index, share)))
            await asyncio.sleep(_between(self._pace.gap_s, gap))

    async def calm(self) -> None:
        """
        Wait until everything that was done is over, and everybody is back.

        Raises:
            RuntimeError: a replica did not start again.
        """
        await asyncio.gather(*self._tasks)

    # --- replicas

    @contextlib.contextmanager
    def _having(self, index: int) -> Iterator[Actor]:
        self._busy.add(index)
        try:
            yield self._replicas[index]
        finally:
            self._busy.discard(index)

    async def _kill(self, index: int, share: float) -> None:
        with self._having(index) as replica:
            await replica.kill()
            await asyncio.sleep(_between(self._pace.away_s, share))
            await replica.start()

    async def _restart(self, index: int, share: float) -> None:
        with self._having(index) as replica:
            os.kill(replica.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await replica.ended()
            await replica.kill()  # what is left of its group
            await replica.start()

    async def _stop(self, index: int, share: float) -> None:
        with self._having(index) as replica:
            replica.send(signal.SIGSTOP)
            await asyncio.sleep(_between(self._pace.stopped_s, share))
            replica.send(signal.SIGCONT)

    # --- workers

    def _worker(self, share: float) -> int | None:
        workers = self._proxy.children()
        return workers[int(share * len(workers))] if workers else None

    async def _kill_worker(self, _: int, share: float) -> None:
        pid = self._worker(share)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _stop_worker(self, _: int, share: float) -> None:
        pid = self._worker(share)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                os.kill(pid, signal.SIGSTOP)
                await asyncio.sleep(_between(self._pace.worker_stopped_s, share))
                os.kill(pid, signal.SIGCONT)


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share
