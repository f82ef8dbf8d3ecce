"""
One timer for every deadline of the process.

A deadline of seconds, kept by the loop, costs two to three microseconds a request to set and to drop. Here it is a
number in an object that a timer looks at a few times a second: a request pays for joining a set and for leaving it,
an event for nothing. What that costs in exactness: a deadline is noticed up to `PERIOD_S` late.
"""

import asyncio
from typing import Final, Protocol

#: Arbitrary: well under the shortest wait that matters (seconds); 500 watches take 0.05% of a core.
PERIOD_S: Final = 0.05


class Watch(Protocol):
    """Something with a deadline. `due_at` is in the loop's time."""

    due_at: float

    def ring(self, now: float) -> None:
        """The deadline is over: act, or set `due_at` anew. Called again at the next look if it is still over."""


class Sweep:
    """The watches of one loop. It rests while there are none."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watches: set[Watch] = set()
        self._handle: asyncio.TimerHandle | None = None

    def add(self, watch: Watch) -> None:
        """Look at `watch` from now on. Adding it twice does nothing."""
        self._watches.add(watch)
        if self._handle is None:
            self._handle = self._loop.call_later(PERIOD_S, self._look)

    def discard(self, watch: Watch) -> None:
        """Look at it no more, if it is being looked at."""
        self._watches.discard(watch)

    def _look(self) -> None:
        now = self._loop.time()
        try:
            for watch in [watch for watch in self._watches if watch.due_at <= now]:
                watch.ring(now)
        finally:  # one that failed must not take every other deadline with it
            self._handle = self._loop.call_later(PERIOD_S, self._look) if self._watches else None
