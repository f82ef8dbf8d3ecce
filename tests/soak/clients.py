"""The clients of a soak: plain sockets, because a request must cost the client less than it costs the proxy."""

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import orjson

from tests.chaos.model import Asked
from tests.chaos.outcome import Kind, Outcome, exactly

#: Above all timers of the proxy in a run together.
DEADLINE_S: Final = 60.0
_MOST_KEPT: Final = 20
_HEAD: Final = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"


@dataclass
class Tally:
    """How many requests were sent, what became of them, and what was wrong word for word."""

    sent: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome, asked: Asked) -> None:
        """Count the outcome of one request; nothing but a right answer, or a client that left, is expected."""
        self.kinds[outcome.kind.value] += 1
        if outcome.kind not in (Kind.RIGHT, Kind.AWAY) and len(self.bad) < _MOST_KEPT:
            self.bad.append(f"{outcome.kind.value}: {outcome.detail}: {outcome.message} {asked.prompt}")


class Client:
    """One client with one connection, a new one after it has left."""

    def __init__(self, port: int, rng: random.Random, tally: Tally) -> None:
        self._port = port
        self._rng = rng
        self._tally = tally
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, asked: Asked, *, is_stream: bool, leaves: bool = False) -> None:
        """Send one request; read its answer, or leave at a moment that chance gives."""
        self._tally.sent += 1
        outcome = Outcome(Kind.LOST, "")
        try:
            async with asyncio.timeout(DEADLINE_S + asked.words * asked.pause_s):
                outcome = await self._asked(asked, is_stream, leaves)
        except TimeoutError:
            await self.close()
        except (OSError, asyncio.IncompleteReadError) as exc:
            outcome = Outcome(Kind.CUT, type(exc).__name__)
            await self.close()
        self._tally.add(outcome, asked)

    async def _asked(self, asked: Asked, is_stream: bool, leaves: bool) -> Outcome:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        message = {"role": "user", "content": asked.prompt}
        body = orjson.dumps({"model": "devstral", "messages": [message], "stream": is_stream})
        self._writer.write(_HEAD % len(body) + body)
        if leaves:
            await self._leave()
            return Outcome(Kind.AWAY, "")
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        judge = exactly(asked.text)
        if b"content-length" in fields:
            return judge.whole(status, await self._reader.readexactly(int(fields[b"content-length"])))
        chunked = await self._reader.readuntil(_LAST_CHUNK)
        return judge.stream(_dechunked(chunked), is_ended=True)

    async def _leave(self) -> None:
        """Wait for nothing, for a moment, or for the first bytes; then be gone, every other time with RST."""
        how = self._rng.random()
        if how > 0.66:
            await self._reader.read(self._rng.randint(1, 600))
        elif how > 0.33:
            await asyncio.sleep(self._rng.uniform(0, 0.05))
        if self._writer is not None and self._rng.random() < 0.5:
            self._writer.transport.abort()
        await self.close()

    async def close(self) -> None:
        """Close the connection, if there is one."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _dechunked(data: bytes) -> bytes:
    pieces = []
    at = 0
    while size := int(data[at : (start := data.index(b"\r\n", at) + 2)], 16):
        pieces.append(data[start : start + size])
        at = start + size + 2
    return b"".join(pieces)
