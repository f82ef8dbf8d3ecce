"""The requests that are running, so that a process can end without cutting them."""

import asyncio

from proxy.edge.record import Stopwatch


class InFlight:
    """The running requests' tasks. `wait()`, then `cut_off()`, when the process is to end."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[object], Stopwatch] = {}
        self._nothing_runs = asyncio.Event()
        self._nothing_runs.set()
        self.is_draining = False
        self._cut_off: set[asyncio.Task[object]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def oldest_ms(self) -> float:
        """How long the request that runs longest has run; 0 if none does."""
        oldest = next(iter(self._tasks.values()), None)
        return 0.0 if oldest is None else oldest.ms()

    def enter(self, stopwatch: Stopwatch) -> asyncio.Task[object]:
        """Count the current task as a running request, since its stopwatch began."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks[task] = stopwatch
        self._nothing_runs.clear()
        return task

    def leave(self, task: asyncio.Task[object]) -> None:
        """The request of `task` is over."""
        self._tasks.pop(task, None)
        self._cut_off.discard(task)
        if not self._tasks:
            self._nothing_runs.set()

    def was_cut_off(self, task: asyncio.Task[object]) -> bool:
        """Whether `task` was cancelled by `cut_off()`, and not because its client left."""
        return task in self._cut_off

    async def wait(self) -> None:
        """Return when nothing runs."""
        await self._nothing_runs.wait()

    def cut_off(self) -> None:
        """Cancel what still runs. Each request may yet say why to its client."""
        self._cut_off = set(self._tasks)
        for task in self._cut_off:
            task.cancel()
