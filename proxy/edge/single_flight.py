"""
Requests that ask the same at the same time: one asks, the others wait for the answer that it gets.

    NEW --FIRST--> LEADS --LANDED--> OVER
      |              ^
      |              | PROMOTED
      +--LATER---> WAITS --ANSWERED--> OVER
                     |
                     +--TIRED--> ALONE --LANDED--> OVER

    LEFT leads from every state to OVER.

FIRST is that nobody asks it yet. Who leads may end without an answer for the others (LEFT): then the one that has
waited for the longest is PROMOTED, and the rest wait on. Nobody waits for longer than it wants to, nor for an answer
that is not shared: who is TIRED asks for itself and keeps nobody waiting. A seat is a request that runs, so there are
never more seats than requests.
"""

import asyncio
from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Generic, TypeVar

T = TypeVar("T")


class State(IntEnum):
    """What a request does; see the module."""

    NEW = 0
    LEADS = 1
    WAITS = 2
    ALONE = 3
    OVER = 4


class Input(IntEnum):
    """What happened to it."""

    FIRST = 0
    LATER = 1
    PROMOTED = 2
    ANSWERED = 3
    TIRED = 4
    LANDED = 5
    LEFT = 6


TRANSITIONS: Final[Mapping[tuple[State, Input], State]] = MappingProxyType(
    {
        (State.NEW, Input.FIRST): State.LEADS,
        (State.NEW, Input.LATER): State.WAITS,
        (State.NEW, Input.LEFT): State.OVER,
        (State.WAITS, Input.PROMOTED): State.LEADS,
        (State.WAITS, Input.ANSWERED): State.OVER,
        (State.WAITS, Input.TIRED): State.ALONE,
        (State.WAITS, Input.LEFT): State.OVER,
        (State.LEADS, Input.LANDED): State.OVER,
        (State.LEADS, Input.LEFT): State.OVER,
        (State.ALONE, Input.LANDED): State.OVER,
        (State.ALONE, Input.LEFT): State.OVER,
        (State.OVER, Input.LEFT): State.OVER,
    }
)


class Flights(Generic[T]):
    """The questions of one process that are being asked now, each with those who wait for its answer, in order."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, dict[Seat[T], None]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def seat(self, key: bytes) -> "Seat[T]":
        """Return the place of a request that asks `key`: `take()` it, and `leave()` it in any case."""
        return Seat(self._waiting, key)


class Seat(Generic[T]):
    """One request's place; see `Flights.seat`."""

    __slots__ = ("_all", "_answer", "_key", "state")

    def __init__(self, waiting: "dict[bytes, dict[Seat[T], None]]", key: bytes) -> None:
        self._all = waiting
        self._key = key
        self._answer: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self.state = State.NEW

    def take(self) -> bool:
        """Return whether it is this request's turn to ask; if not, `wait()`."""
        waiting = self._all.get(self._key)
        if waiting is None:
            self._all[self._key] = {}
            self._became(Input.FIRST)
            return True
        waiting[self] = None
        self._became(Input.LATER)
        return False

    async def wait(self, limit_s: float) -> T | None:
        """Return the answer that somebody else got, within `limit_s`; None: it is this request's turn to ask."""
        tiring = asyncio.get_running_loop().call_later(limit_s, self._tire)
        try:
            return await self._answer
        finally:
            tiring.cancel()

    def land(self, answer: T) -> None:
        """The request has its answer: all that wait for it have it too."""
        waiting = self._all.pop(self._key) if self.state is State.LEADS else {}
        self._became(Input.LANDED)
        for seat in waiting:
            seat._became(Input.ANSWERED)
            seat._wake(answer)

    def scatter(self) -> None:
        """The request has an answer that is nobody else's: each that waits for it asks for itself, all at once."""
        if self.state is State.LEADS:
            for seat in tuple(self._all[self._key]):
                seat._tire()

    def leave(self) -> None:
        """The request is over, with an answer or without. Calling it twice does nothing."""
        was, waiting = self.state, self._all.get(self._key)
        self._became(Input.LEFT)
        if waiting is None:
            return
        if was is State.WAITS:
            del waiting[self]
        elif was is State.LEADS and waiting:
            following = next(iter(waiting))
            del waiting[following]
            following._became(Input.PROMOTED)
            following._wake(None)
        elif was is State.LEADS:
            del self._all[self._key]

    def _tire(self) -> None:
        if self.state is State.WAITS:
            del self._all[self._key][self]
            self._became(Input.TIRED)
            self._wake(None)

    def _wake(self, answer: T | None) -> None:
        if not self._answer.done():  # it is, where the request has been cancelled: it will leave
            self._answer.set_result(answer)

    def _became(self, came: Input) -> None:
        """
        Raises:
            RuntimeError: the table has no such row.
        """
        try:
            self.state = TRANSITIONS[self.state, came]
        except KeyError:
            raise RuntimeError(f"a seat had {came.name} while {self.state.name}") from None
