"""
Who looks at the status page: some, and one task for all of them.

    nobody looks --first enters--> a task computes what is shown, once a second --last leaves--> nobody looks

What is shown is computed once, however many look. Who is slow to read misses some and gets the next one: nothing
waits for anybody, and nothing is kept for anybody.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from proxy.errors import RateLimited

#: Arbitrary: a team with the page on a screen each. What it bounds is connections; the work is the same for any number.
MOST_VIEWERS: Final = 16
_EVERY_S: Final = 1.0

#: Returns what is shown now; called once a second while somebody looks.
Look = Callable[[], bytes]


class Watch:
    """The viewers of one worker: `async with watch.entered(look) as seen`, then `await watch.next(seen)` in a loop."""

    def __init__(self) -> None:
        self._viewers = 0
        self._task: asyncio.Task[None] | None = None
        self._shown = b""
        self._number = 0
        self._is_next = asyncio.Event()

    @property
    def is_running(self) -> bool:
        """Whether something is computed because somebody looks."""
        return self._task is not None

    @asynccontextmanager
    async def entered(self, look: Look) -> AsyncIterator[int]:
        """
        Look until the block is left; the number is for the first `next()`, which has not to wait if others look.

        Of several viewers' `look` that of the first is called for all.

        Raises:
            RateLimited: too many look already.
        """
        if self._viewers >= MOST_VIEWERS:
            raise RateLimited(f"{MOST_VIEWERS} look at the status page of this process already.")
        self._viewers += 1
        if self._task is None:
            self._shown = b""
            self._task = asyncio.get_running_loop().create_task(self._run(look))
        try:
            yield self._number - 1 if self._shown else self._number
        finally:
            self._viewers -= 1
            if not self._viewers:
                await self._stop()

    async def next(self, seen: int) -> tuple[int, bytes]:
        """Return what is shown, and its number: another than `seen`. What `look` raised is raised to all who look."""
        task = self._task
        assert task is not None
        while self._number == seen:
            await self._is_next.wait()
            if task.done():
                await task
        return self._number, self._shown

    async def _run(self, look: Look) -> None:
        try:
            while True:
                self._shown = look()
                self._number += 1
                self._tell()
                await asyncio.sleep(_EVERY_S)
        finally:
            self._tell()

    def _tell(self) -> None:
        told, self._is_next = self._is_next, asyncio.Event()
        told.set()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        assert task is not None
        task.cancel()
        await asyncio.wait({task})
