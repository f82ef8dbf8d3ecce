"""
How many requests run at once, who waits, and who is refused before its body is read.

    arrives --place free, nobody waits--> runs --over--> the next one's turn
       |                                   ^
       +--queue not full--> waits ---------+   interactive before batch, the older before the newer
       |                      |
       |                      +-- `queue_timeout_s` over, or pushed out by an interactive one --> 503, Retry-After
       +--queue full -------------------------------------------------------------------------> 503, Retry-After

The bytes of bodies that are held count too, from before the first one is read: a thousand agents that send 30 MB each
must not end the process. All bounds are one worker's.
"""

import asyncio
import hashlib
import math
from collections import deque
from collections.abc import Mapping
from enum import IntEnum
from types import TracebackType
from typing import Final, Protocol, Self

from multidict import istr

from proxy.config import Config
from proxy.errors import InvalidRequest, Overloaded

_PRIORITY: Final = istr("x-proxy-priority")
_AUTHORIZATION: Final = istr("Authorization")

#: Arbitrary: the longest that a refused client is told to stay away, in seconds.
_LONGEST_PAUSE_S: Final = 60
#: Arbitrary: of how many past requests the mean duration is remembered, for Retry-After.
_MEMORY: Final = 32


class Priority(IntEnum):
    """Who waits behind whom."""

    INTERACTIVE = 0
    BATCH = 1


class Gauges(Protocol):
    """Where it is counted."""

    def count_shed(self, reason: str) -> None:
        """A request was refused."""

    def waiting(self, queued: int, buffered_bytes: int) -> None:
        """So many wait, and so many bytes are held."""


class Admission:
    """The places of one worker. `async with admission.place(priority) as place: ...`"""

    def __init__(self, config: Config, gauges: Gauges) -> None:
        self._gauges = gauges
        self._loop = asyncio.get_running_loop()
        self._queues: tuple[deque[asyncio.Future[None]], ...] = tuple(deque() for _ in Priority)
        self.in_flight = 0
        self.buffered_bytes = 0
        self._mean_s = 1.0
        self.resize(config)

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._queues))

    def resize(self, config: Config) -> None:
        """Go by these bounds from now on. What runs and waits stays."""
        self._most_in_flight = config.max_in_flight
        self._most_queued = config.max_queue
        self._queue_timeout_s = config.queue_timeout_s
        self._most_bytes = config.max_buffered_bytes
        self._batch_keys = frozenset(_digest(key) for key in config.batch_keys.split(",") if key)
        self._wake_next()

    def priority(self, headers: Mapping[str, str]) -> Priority:
        """
        Return the priority of a request: its header's, but batch if its key is one of `batch_keys`.

        Raises:
            InvalidRequest: the header has another value.
        """
        asked = headers.get(_PRIORITY)
        if asked is not None and asked not in ("interactive", "batch"):
            raise InvalidRequest(f"The header {_PRIORITY} must be interactive or batch.", param=_PRIORITY)
        if self._batch_keys:
            # Digests are compared, so that how long it takes says nothing about a key.
            scheme, _, key = headers.get(_AUTHORIZATION, "").partition(" ")
            if scheme.lower() == "bearer" and _digest(key.strip()) in self._batch_keys:
                return Priority.BATCH
        return Priority.BATCH if asked == "batch" else Priority.INTERACTIVE

    def place(self, priority: Priority) -> "Place":
        """Return a place, to be entered."""
        return Place(self, priority)

    # --- for `Place`

    def take(self) -> bool:
        """Return whether a place was free, and is taken now."""
        if self.in_flight >= self._most_in_flight or any(self._queues):
            return False
        self.in_flight += 1
        return True

    async def wait(self, priority: Priority) -> None:
        """
        Wait for a place, and take it.

        Raises:
            Overloaded: there is no room to wait, or none came in time.
        """
        if self.queued >= self._most_queued and not self._push_out(priority):
            raise self._refusal("queue_full", f"{self._most_queued} requests wait already")
        turn = self._loop.create_future()
        queue = self._queues[priority]
        queue.append(turn)
        self._tell()
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                await turn
        except TimeoutError:
            self._give_back(turn)
            raise self._refusal("queue_timeout", f"no place within {self._queue_timeout_s:g} s") from None
        except BaseException:
            self._give_back(turn)
            raise
        finally:
            if turn in queue:
                queue.remove(turn)
            self._tell()

    def leave(self, took_s: float) -> None:
        """A request is over, and took so long."""
        self._mean_s += (took_s - self._mean_s) / _MEMORY
        self.in_flight -= 1
        self._wake_next()

    def hold(self, size: int, held: int) -> None:
        """
        Count `size` more bytes of a body of which `held` are counted already.

        A body that is alone always fits, so that no request is refused for ever.

        Raises:
            Overloaded: with them there would be too many.
        """
        if self.buffered_bytes + size > self._most_bytes and self.buffered_bytes > held:
            raise self._refusal("buffered_bytes", f"{self._most_bytes} bytes of bodies are held already")
        self.buffered_bytes += size
        self._tell()

    def release(self, size: int) -> None:
        """So many bytes are held no more."""
        self.buffered_bytes -= size
        self._tell()

    # --- inside

    def _wake_next(self) -> None:
        """Give free places to those who wait. One that was given a place has it from then on."""
        for queue in self._queues:
            while queue and self.in_flight < self._most_in_flight:
                turn = queue.popleft()
                if not turn.done():
                    self.in_flight += 1
                    turn.set_result(None)

    def _give_back(self, turn: asyncio.Future[None]) -> None:
        """Its owner left: if it had been given a place in this very moment, the next one gets it."""
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.in_flight -= 1
            self._wake_next()

    def _push_out(self, priority: Priority) -> bool:
        """Refuse the youngest batch request to make room for an interactive one; return whether there was one."""
        batch = self._queues[Priority.BATCH]
        while priority is Priority.INTERACTIVE and batch:
            turn = batch.pop()
            if not turn.done():
                turn.set_exception(self._refusal("queue_full", "an interactive request came"))
                return True
        return False

    def _refusal(self, reason: str, why: str) -> Overloaded:
        self._gauges.count_shed(reason)
        error = Overloaded(f"The proxy has too much to do: {why}.")
        rounds = (self.queued + 1) / self._most_in_flight
        error.headers["Retry-After"] = str(max(1, min(_LONGEST_PAUSE_S, math.ceil(rounds * self._mean_s))))
        return error

    def _tell(self) -> None:
        self._gauges.waiting(self.queued, self.buffered_bytes)


class Place:
    """
    A place among the requests that run, and the bytes that one of them holds.

    Raises:
        Overloaded: on entering: there is none, or not in time.
    """

    __slots__ = ("_admission", "_held", "_priority", "_since", "waited_ms")

    def __init__(self, admission: Admission, priority: Priority) -> None:
        self._admission = admission
        self._priority = priority
        self._held = 0
        #: None if it did not wait
        self.waited_ms: float | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        if not self._admission.take():
            await self._admission.wait(self._priority)
            now = loop.time()
            self.waited_ms = round((now - self._since) * 1000, 3)
            self._since = now
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            self._admission.release(self._held)
        self._admission.leave(asyncio.get_running_loop().time() - self._since)

    def hold(self, size: int) -> None:
        """
        Count so many more bytes of the body, before they are read.

        Raises:
            Overloaded: too many are held.
        """
        self._admission.hold(size, self._held)
        self._held += size


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
