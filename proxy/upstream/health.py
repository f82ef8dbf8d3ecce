"""
Looks after the replicas while requests run: three tasks of one owner, `Keeper`.

    every second          slow starts go on, pauses end, replicas that are stuck are found, what is gone is closed
    `health_interval_s`   each replica's /health is asked, which never generates; a new one is asked what it tolerates
    `dns_refresh_s`       names that stand for several replicas are looked up

A busy replica may miss a look: three in a row count. One that refuses the connection is out at once.
A replica is stuck when requests run there and none has had a byte for `wedge_timeout_s`.
A task that fails is logged, `keeper_failed`, and begins again after a second.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from proxy.config import Backend
from proxy.errors import UpstreamError, UpstreamUnavailable
from proxy.upstream.breaker import State
from proxy.upstream.discovery import addresses_of
from proxy.upstream.pool import Pool
from proxy.upstream.replica import Replica, Sight
from proxy.upstream.route import ConnectTimeout

_TICK_S: Final = 1.0
#: Arbitrary: so many looks in a row that a replica did not answer are more than a busy moment.
_MOST_MISSES: Final = 3
#: Arbitrary: how long a task that failed rests, so that one which always fails fills no log.
_REST_S: Final = 1.0


class Keeper:
    """Keeps a pool's replicas: `start()`, and `close()` at the end."""

    def __init__(self, pool: Pool, note_failure: Callable[..., Any]) -> None:
        """`note_failure` tells the log, as an error, an event's name and its fields."""
        self._pool = pool
        self._note_failure = note_failure
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    def start(self) -> None:
        """Begin. The first look at each replica is at once."""
        for work in (self._tend, self._watch_health, self._watch_names):
            self._begin(work)

    async def close(self) -> None:
        """End."""
        self._is_closed = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if not self._is_closed:
            task = self._tasks[work.__name__] = self._loop.create_task(work())
            task.add_done_callback(partial(self._failed, work))

    def _failed(self, work: Callable[[], Coroutine[Any, Any, None]], task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._note_failure("keeper_failed", task=work.__name__.strip("_"), exc_info=task.exception())
            self._loop.call_later(_REST_S, self._begin, work)

    # --- every second

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = self._loop.time()
            for replica in self._pool.replicas:
                replica.warm_up(now, self._pool.config.slow_start_s)
                self._look_for_progress(replica, now)
            self._pool.refresh()
            await self._pool.bury_retired()

    def _look_for_progress(self, replica: Replica, now: float) -> None:
        limit = self._pool.config.wedge_timeout_s
        is_stuck = replica.in_flight and now - replica.connections.progress.at > limit
        if limit and is_stuck and replica.breaker.state is not State.OPEN:
            self._pool.tripped(replica, f"wedge_timeout_s: {replica.in_flight} requests, and no byte for {limit:g} s")

    # --- health

    async def _watch_health(self) -> None:
        while True:
            await asyncio.gather(*map(self._look_at, self._pool.replicas))
            # spread, so that many proxies do not ask at one moment
            await asyncio.sleep(self._pool.config.health_interval_s * random.uniform(0.9, 1.1))  # noqa: S311

    async def _look_at(self, replica: Replica) -> None:
        if replica.breaker.state is State.OPEN and self._loop.time() < replica.breaker.looks_at:
            return
        try:
            is_healthy = await replica.connections.is_healthy()
        except (UpstreamUnavailable, ConnectTimeout) as exc:
            self._unhealthy(replica, exc.message, most_misses=1)
        except UpstreamError as exc:
            self._unhealthy(replica, exc.message)
        else:
            if is_healthy:
                await self._healthy(replica)
            else:
                self._unhealthy(replica, "/health answers with a server error")

    async def _healthy(self, replica: Replica) -> None:
        replica.misses = 0
        if replica.sight is not Sight.HEALTHY or replica.breaker.state is State.OPEN:
            replica.wants_probe = True  # it may be another version now
        replica.sight = Sight.HEALTHY
        self._pool.healthy(replica)
        if replica.wants_probe:
            replica.wants_probe = not await self._pool.probe(replica)

    def _unhealthy(self, replica: Replica, reason: str, most_misses: int = _MOST_MISSES) -> None:
        replica.misses += 1
        if replica.sight is Sight.UNSEEN or replica.misses >= most_misses:
            replica.sight = Sight.UNHEALTHY
            if replica.breaker.state is State.OPEN:
                replica.breaker.unhealthy(self._loop.time())
            else:
                self._pool.tripped(replica, reason)

    # --- names

    async def _watch_names(self) -> None:
        while True:
            for backend in self._pool.named():
                await self._resolve(backend)
            await asyncio.sleep(self._pool.config.dns_refresh_s)

    async def _resolve(self, backend: Backend) -> None:
        try:
            addresses = await addresses_of(backend.url, self._pool.config.connect_timeout_s)
        except OSError as exc:
            # what was known goes on: a name server that is away must not take the replicas with it
            self._pool.note("name_not_resolved", backend=backend.name, error=exc.strerror or type(exc).__name__)
            return
        known = set(self._pool.replicas)
        await self._pool.readdress(backend, addresses)
        # Who is new is not ready until it was looked at, and the next round may be far away.
        await asyncio.gather(*(self._look_at(replica) for replica in self._pool.replicas if replica not in known))
