"""
Comments that keep a silent stream open: proxies and load balancers cut connections on which nothing moves
(AWS's and nginx's after 60 s, Cloudflare's after 100 s), and a long prompt can keep a model silent for longer.

A comment goes out whenever the client has been sent nothing for the interval, also before the first token: the
answer then begins with status 200, and a later error can only be an event. Every write is a whole number of events,
so a comment never lands inside one. It is written to the client alone: no timer of the upstream hears of it.
"""

import asyncio
import math
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from proxy.edge.call import Call
from proxy.upstream.sweep import Sweep

COMMENT: Final = b": keep-alive\n\n"


class Heartbeat:
    """Keeps a stream alive while its block runs: `async with Heartbeat(call, interval_s, sweep)`. 0 s is never."""

    __slots__ = ("_beat", "_call", "_interval_s", "_sweep", "due_at")

    def __init__(self, call: Call, interval_s: float, sweep: Sweep) -> None:
        self._call = call
        self._interval_s = interval_s
        self._sweep = sweep
        self._beat: asyncio.Task[None] | None = None
        self.due_at = math.inf

    async def __aenter__(self) -> Self:
        if self._interval_s:
            self._call.last_write_at = asyncio.get_running_loop().time()
            self.due_at = self._call.last_write_at + self._interval_s
            self._sweep.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sweep.discard(self)
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.wait({self._beat})

    def ring(self, now: float) -> None:
        """Send a comment if nothing was written for the interval. A write moves no timer: it is asked about here."""
        self.due_at = self._call.last_write_at + self._interval_s
        if self.due_at <= now:
            if self._beat is None or self._beat.done():
                self._beat = asyncio.get_running_loop().create_task(self._comment())
            self.due_at = now + self._interval_s

    async def _comment(self) -> None:
        if self._call.has_ended:  # the client has yet to read it
            return
        with suppress(ConnectionError):  # the relay's own write will find out
            await self._call.comment(COMMENT)
