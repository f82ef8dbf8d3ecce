"""
The timers of one exchange by `ClientSession.request`; see `Limits`. (The timer for connecting is the connector's.)

One loop timer serves all three. It is never re-armed by an event: when it rings it looks at the clock of the last
silence and, if that is younger than the limit, sets itself to the moment when it would not be.
Re-arming a timer at every event costs about 6% of a short request (aiohttp 3.14, `ClientTimeout(sock_read=)`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from aiohttp.connector import Connection

from proxy.errors import UpstreamTimeout
from proxy.upstream.answer import Limits

#: Arbitrary: long enough for the loop to have read its sockets once.
_SECOND_LOOK_S: Final = 0.01


class Timers:
    """
    Ends the block it is entered for when a limit is reached: `async with timers: ...`

    The owner calls `waiting()` before and `arrived()` after each wait for the model server.

    Raises:
        UpstreamTimeout: on leaving the block; it names the timer that rang.
    """

    __slots__ = ("_doubted", "_ends_at", "_handle", "_limits", "_loop", "_rang", "_scope", "_silent_since", "_stage")

    def __init__(self, limits: Limits, passed_s: float = 0.0) -> None:
        """`passed_s` is how much of the limit in total is over."""
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._scope = asyncio.timeout(None)
        self._handle: asyncio.TimerHandle | None = None
        now = self._loop.time()
        self._ends_at = now + limits.total_s - passed_s
        self._silent_since: float | None = now
        self._doubted: float | None = None
        self._stage = _FIRST_BYTE
        self._rang = ""

    def waiting(self) -> None:
        """A silence begins, unless the first one still lasts."""
        if self._silent_since is None:
            self._silent_since = self._loop.time()

    def arrived(self) -> None:
        """Bytes of the answer's body came."""
        self._silent_since = None
        if self._stage == _FIRST_BYTE:
            self._stage = _BETWEEN_BYTES
            self._look()  # its limit may be the shorter one

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            raise UpstreamTimeout(self._rang) from None

    def _look(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        now = self._loop.time()
        limit = self._limits.first_byte_s if self._stage == _FIRST_BYTE else self._limits.between_bytes_s
        silent_at = (now if self._silent_since is None else self._silent_since) + limit
        if min(silent_at, self._ends_at) > now:
            self._handle = self._loop.call_at(min(silent_at, self._ends_at), self._look)
            return
        if self._ends_at > now and self._doubted != self._silent_since:
            self._doubted = self._silent_since
            self._handle = self._loop.call_later(_SECOND_LOOK_S, self._look)
            return
        if self._ends_at <= now:
            self._rang = f"timeout_s: the request took longer than {self._limits.total_s:g} s"
        else:
            self._rang = f"{self._stage}_timeout_s: the model server was silent for {limit:g} s"
        self._scope.reschedule(now)


async def twice_if_stalled(connect: Callable[[], Awaitable[Connection]], limit_s: float) -> Connection:
    """
    Return what `connect` gives. It has a timer of `limit_s`, and is called again if that rang clearly too late.

    A loop that stood still runs its timers before it looks at its sockets, so the server may have been there.

    Raises:
        TimeoutError: the timer was right, or rang again.
    """
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    try:
        return await connect()
    except TimeoutError:
        if loop.time() - started_at < limit_s + _STOOD_STILL_S:
            raise
    return await connect()


#: Arbitrary: how late a timer must be. A wait for a place in the pool looks the same, and gets the same second try.
_STOOD_STILL_S: Final = 0.25

_FIRST_BYTE: Final = "first_byte"
_BETWEEN_BYTES: Final = "between_bytes"
