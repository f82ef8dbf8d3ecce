"""
One connection to a Valkey or Redis server, and what waits to be sent over it.

    ask(command) ---> asked ---+                                  +--> the caller's future
                               +--> one batch, one pipeline -->   |
    post(command) --> posted --+    at a time, one time-out       +--> nobody waits: lost if it fails

While a batch is under way the next one collects, so the busier it is the fewer round trips there are. One task owns the
connection: a caller that gives up leaves no half-read answer behind. After a failure the connection is closed, what was
asked fails, and what was posted and not sent yet stays for the next attempt (see standing.py).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Final

from proxy.store.standing import PAUSE_S, StoreDown, Watch

if TYPE_CHECKING:
    from valkey.asyncio.connection import AbstractConnection

Argument = bytes | str | int | float

#: Arbitrary: a batch of so many scripts takes a server about 10 ms.
_BATCH: Final = 256
#: Arbitrary: what nobody waits for may not hold up what somebody waits for by more than this.
_BATCH_BYTES: Final = 1024 * 1024
#: Arbitrary: more callers than a worker runs requests by default have no place here.
_MOST_ASKED: Final = 4096


class Script:
    """A Lua script; the server has it by its digest from its first use on, until it restarts."""

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.digest: Final = sha1(text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[bytes], arguments: Sequence[Argument]) -> tuple[Argument, ...]:
        """Return the command that runs it."""
        return ("EVALSHA", self.digest, len(keys), *keys, *arguments)


class _Entry:
    """A command, and who waits for its reply."""

    __slots__ = ("command", "future", "reply", "script", "size")

    def __init__(
        self, command: tuple[Argument, ...], script: Script | None, future: "asyncio.Future[Any] | None"
    ) -> None:
        self.command = command
        self.script = script
        self.future = future
        self.size = sum(len(part) for part in command if isinstance(part, bytes))
        self.reply: object = None

    def resolve(self) -> None:
        if self.future is None or self.future.done():
            return
        if isinstance(self.reply, Exception):
            self.future.set_exception(StoreDown(type(self.reply).__name__))
        else:
            self.future.set_result(self.reply)

    def fail(self, error: str) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_exception(StoreDown(error))


class Lane:
    """The connection. Only its own task touches it; `close()` at the end."""

    def __init__(
        self,
        connection: "AbstractConnection",
        watch: Watch,
        dropped: Callable[[], None],
        *,
        timeout_s: float,
        most_posted: int,
        most_posted_bytes: int,
    ) -> None:
        self._connection = connection
        self._watch = watch
        self._dropped = dropped
        self.timeout_s = timeout_s
        self._most_posted = most_posted
        self._most_posted_bytes = most_posted_bytes
        self._asked: list[_Entry] = []
        self._posted: deque[_Entry] = deque()
        self._posted_bytes = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def ask(self, command: tuple[Argument, ...], script: Script | None = None) -> Any:
        """
        Return the reply.

        Raises:
            StoreDown: there was none within the time-out, or it was an error.
        """
        if len(self._asked) >= _MOST_ASKED or not self._watch.may_call():
            raise StoreDown("down")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.append(_Entry(command, script, future))
        self._start()
        try:
            async with asyncio.timeout(self.timeout_s):  # the batch before this one has its own
                return await future
        except TimeoutError:
            raise StoreDown("timeout") from None

    def post(self, command: tuple[Argument, ...], script: Script | None = None) -> None:
        """Send it soon. It is lost if there are too many already, or if the server goes away meanwhile."""
        entry = _Entry(command, script, None)
        if len(self._posted) >= self._most_posted or self._posted_bytes + entry.size > self._most_posted_bytes:
            self._dropped()
            return
        self._posted.append(entry)
        self._posted_bytes += entry.size
        self._start()

    async def close(self) -> None:
        """Send what was posted, as far as the time-out allows, and close the connection."""
        if self._task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.timeout_s):
                    await self._idle.wait()
            self._task.cancel()
            await asyncio.wait({self._task})
        for entry in self._asked:
            entry.fail("closed")
        for _ in self._posted:
            self._dropped()
        await self._connection.disconnect(nowait=True)

    # --- the task

    def _start(self) -> None:
        self._idle.clear()
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch:
                await self._send(batch)
            elif self._posted:  # the server is away: what was not sent yet waits for the next attempt
                await self._woken(PAUSE_S)
            else:
                self._idle.set()
                await self._woken(None)

    async def _woken(self, longest_s: float | None) -> None:
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._wake.wait()

    def _next_batch(self) -> list[_Entry]:
        batch, self._asked = self._asked[:_BATCH], self._asked[_BATCH:]
        if not batch and not (self._posted and self._watch.may_call()):
            return batch
        size = 0
        for _ in range(min(len(self._posted), _BATCH)):
            size += self._posted[0].size
            if size > _BATCH_BYTES and batch:
                break
            entry = self._posted.popleft()
            self._posted_bytes -= entry.size
            batch.append(entry)
        return batch

    async def _send(self, batch: list[_Entry]) -> None:
        from valkey.exceptions import ResponseError, ValkeyError

        try:
            async with asyncio.timeout(self.timeout_s):
                await self._exchange(batch)
        except (OSError, ValkeyError, ValueError) as exc:
            await self._failed(batch, type(exc).__name__)
            return
        except BaseException:
            # A reply that was not read would be taken for the next one's.
            await self._connection.disconnect(nowait=True)
            self._watch.failed("cancelled")
            raise
        errors = [type(entry.reply).__name__ for entry in batch if isinstance(entry.reply, ResponseError)]
        if errors:  # out of memory, read-only, not allowed: it is there, and cannot do its work
            self._watch.failed(errors[0])
        else:
            self._watch.worked()
        for entry in batch:
            entry.resolve()

    async def _failed(self, batch: list[_Entry], error: str) -> None:
        await self._connection.disconnect(nowait=True)
        self._watch.failed(error)
        for entry in (*batch, *self._asked):
            entry.fail(error)
        self._asked = []
        for entry in batch:
            if entry.future is None:
                self._dropped()

    async def _exchange(self, batch: list[_Entry]) -> None:
        from valkey.exceptions import NoScriptError

        await self._pipeline(batch)
        lost = [entry for entry in batch if isinstance(entry.reply, NoScriptError) and entry.script is not None]
        if lost:  # the server is new, or somebody flushed its scripts: this costs one more round trip
            texts = {entry.script.text for entry in lost if entry.script is not None}
            await self._pipeline([*(_Entry(("SCRIPT LOAD", text), None, None) for text in texts), *lost])

    async def _pipeline(self, batch: list[_Entry]) -> None:
        from valkey.exceptions import ResponseError

        connection = await self._connected()
        await connection.send_packed_command(connection.pack_commands([entry.command for entry in batch]))
        for entry in batch:
            try:
                entry.reply = await connection.read_response(disable_decoding=True)
            except ResponseError as exc:
                entry.reply = exc

    async def _connected(self) -> "AbstractConnection":
        """Return the connection, a new one where the server closed it while it was idle: that is no failure."""
        from valkey.exceptions import ConnectionError as Lost

        connection = self._connection
        if connection.is_connected:
            try:  # nothing is waited for, so there is nothing to read but its end
                is_over = await connection.can_read_destructive()  # type: ignore[no-untyped-call]
            except Lost:
                is_over = True
            if is_over:
                await connection.disconnect(nowait=True)
        await connection.connect()  # type: ignore[no-untyped-call]  # the package's own annotations end here
        return connection
