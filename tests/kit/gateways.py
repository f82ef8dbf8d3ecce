"""Tiny gateways for the tests of the kit: one that copies bytes, and others that each do one thing wrong."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, Final, Self
from urllib.parse import urlsplit

from tests.fakes import DONE, STREAM_END, event, text_chunk, whole

_LENGTH: Final = re.compile(rb"(?im)^content-length: *(\d+)")
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d+)")


class Copier:
    """Sends each request on over a connection of its own, and copies what comes back as it comes."""

    def __init__(self, upstream: str) -> None:
        self._address = urlsplit(upstream)

    async def __aenter__(self) -> Self:
        self._running: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await reader.readexactly(int(length[1])) if length else b""
            await self._until_either_leaves(reader, self.answer(head, body, writer))
        writer.close()
        self._running.discard(task)

    async def _until_either_leaves(self, reader: asyncio.StreamReader, answer: Coroutine[Any, Any, None]) -> None:
        """Give up on the answer when the client has gone."""
        answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(reader.read())
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        async for piece in self.asked(head, body):
            writer.write(piece)
            await writer.drain()

    async def asked(self, head: bytes, body: bytes) -> AsyncIterator[bytes]:
        """Yield what the model server answers, status line and all, until it or its connection ends."""
        try:
            reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        except OSError:
            yield whole({"error": {"message": "no connection"}}, 502)
            return
        try:
            writer.write(head + body)
            answer = b""
            while not _is_over(answer) and (piece := await reader.read(1 << 16)):
                answer += piece
                yield piece
        except OSError:
            return
        finally:
            writer.close()


def _is_over(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


class Buffering(Copier):
    """Collects a stream before it sends it."""

    async def answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join([piece async for piece in self.asked(head, body)]))


class Truncating(Copier):
    """Ends every answer cleanly, also one that was cut."""

    end = STREAM_END

    async def answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        answer = b""
        async for piece in self.asked(head, body):
            answer += piece
            writer.write(piece.removesuffix(STREAM_END))
        if b"text/event-stream" in answer:
            writer.write(STREAM_END if b"[DONE]" in answer else self.end)


class Inventing(Truncating):
    """Makes a cut stream look like a whole one."""

    end = event(text_chunk("", finish="stop")) + DONE + STREAM_END


class Retrying(Copier):
    """Sends a request that failed again, five times in all."""

    async def answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        for _ in range(5):
            answer = b"".join([piece async for piece in self.asked(head, body)])
            if not answer.startswith((b"HTTP/1.1 5", b"HTTP/1.1 429")):
                break
        writer.write(answer)


class Ejecting(Copier):
    """Takes its only model server out after a single 404, for good."""

    is_out = False

    async def answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if self.is_out:
            writer.write(whole({"error": {"message": "no deployments available"}}, 429))
            return
        async for piece in self.asked(head, body):
            self.is_out = self.is_out or piece.startswith(b"HTTP/1.1 404")
            writer.write(piece)


class Deaf(Copier):
    """Does not notice that a client has left."""

    async def _until_either_leaves(self, reader: asyncio.StreamReader, answer: Coroutine[Any, Any, None]) -> None:
        await answer


class Rewording(Copier):
    """Answers every failure with a 500 of its own."""

    async def answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        answer = b"".join([piece async for piece in self.asked(head, body)])
        status = _STATUS.match(answer)
        writer.write(
            whole({"error": {"message": "upstream failed"}}, 500) if status and int(status[1]) >= 400 else answer
        )


class Asking(Copier):
    """Asks for usage whatever the client said, and passes it on."""

    async def answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if body:
            body = json.dumps({**json.loads(body), "stream_options": {"include_usage": True}}).encode()
            head = _LENGTH.sub(b"Content-Length: %d" % len(body), head)
        await super().answer(head, body, writer)
