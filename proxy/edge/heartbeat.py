"""
Comments that keep a silent stream open: proxies and load balancers cut connections on which nothing moves
(AWS's and nginx's after 60 s, Cloudflare's after 100 s), and a long prompt can keep a model silent for longer.

A comment goes out whenever the client has been sent nothing for the interval, also before the first token: the
answer then begins with status 200, and a later error can only be an event. Every write is a whole number of events,
so a comment never lands inside one. It is written to the client alone: no timer of the upstream hears of it.
"""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from proxy.edge.call import Call

COMMENT: Final = b": keep-alive\n\n"


class Heartbeat:
    """Keeps a stream alive while its block runs: `async with Heartbeat(call, interval_s)`. 0 s is never."""

    __slots__ = ("_beat", "_call", "_handle", "_interval_s", "_loop")

    def __init__(self, call: Call, interval_s: float) -> None:
        self._call = call
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._beat: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._interval_s:
            self._call.last_write_at = self._loop.time()
            self._handle = self._loop.call_later(self._interval_s, self._ring)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.wait({self._beat})

    def _ring(self) -> None:
        # One timer for the whole stream: a write does not re-arm it, it looks at the last write when it rings.
        now = self._loop.time()
        due_at = self._call.last_write_at + self._interval_s
        if due_at <= now:
            if self._beat is None or self._beat.done():
                self._beat = self._loop.create_task(self._comment())
            due_at = now + self._interval_s
        self._handle = self._loop.call_at(due_at, self._ring)

    async def _comment(self) -> None:
        with suppress(ConnectionError):  # the relay's own write will find out
            await self._call.write(COMMENT)
