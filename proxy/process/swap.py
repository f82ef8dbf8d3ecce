"""In a process that serves: new settings for later requests, while others run."""

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from proxy.config import Config, ConfigError


class Swap:
    """Takes new settings one after the other; of those that come meanwhile only the newest. `close()` at the end."""

    def __init__(self, logger: FilteringBoundLogger, refused: Callable[[], None]) -> None:
        """`refused` is called when settings could not be taken, and those before are still in effect."""
        self._logger = logger
        self._refused = refused
        self._apply: Callable[[Config], Awaitable[None]] | None = None
        self._next: Config | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, apply: Callable[[Config], Awaitable[None]]) -> None:
        """
        Give settings to `apply` from now on, those too that came before.

        It may raise ValueError or OSError, and nothing has changed then.
        """
        self._apply = apply
        self._go()

    def take(self, config: Config) -> None:
        """Have these settings applied, soon."""
        self._next = config
        self._go()

    def _go(self) -> None:
        if self._apply and self._next is not None and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self._run(self._apply))
            self._task.add_done_callback(self._note_end)

    async def _run(self, apply: Callable[[Config], Awaitable[None]]) -> None:
        while (config := self._next) is not None:
            self._next = None
            try:
                await apply(config)
            except (ValueError, OSError) as exc:
                self._fail(exc)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """A failure that nobody foresaw ends the task and not the process, which still has its old settings."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)
            self._go()

    def _fail(self, error: BaseException) -> None:
        self._refused()
        if isinstance(error, ConfigError):
            self._logger.error("config_reload_failed", error=str(error))
        else:
            self._logger.error("config_reload_failed", exc_info=error)

    async def close(self) -> None:
        """Take no more settings."""
        self._apply = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
