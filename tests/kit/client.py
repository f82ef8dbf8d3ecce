"""The client of the gateway under test: a raw socket per connection, so that every byte and every end is seen."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from tests.kit.sse import Event, EventReader
from tests.kit.verdict import Fails, within

#: How long anything may take that should be there at once: generous, because the machine may do something else.
PATIENCE_S: Final = 4.0

Headers = Mapping[str, str]


class Target(NamedTuple):
    """Where the gateway is; `prefix` is what stands before /v1."""

    host: str
    port: int
    prefix: str = ""
    tls: bool = False

    @classmethod
    def at(cls, url: str) -> "Target":
        """
        Return the gateway at this URL, with or without /v1.

        Raises:
            ValueError: it is no http or https URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url} is no http:// or https:// URL")
        tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if tls else 80), prefix, tls)


class Connection:
    """One connection to the gateway. Use `connected`, which closes it."""

    def __init__(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._target = target
        self._reader = reader
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def request(self, method: str, path: str, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> None:
        """Send a request with its length, its host and these headers."""
        lines = [f"{method} {self._target.prefix}{path} HTTP/1.1", f"Host: {self._target.host}:{self._target.port}"]
        lines += [f"{name}: {value}" for name, value in headers]
        lines += [f"Content-Length: {len(body)}"] if body or method == "POST" else []
        self.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body)

    async def answer(self, patience_s: float = PATIENCE_S) -> "Answer":
        """
        Return the next answer, as soon as its headers are there.

        Raises:
            Fails: they do not come, or the connection ends first.
        """
        try:
            async with within(patience_s, "no answer"):
                while True:
                    raw = await self._reader.readuntil(b"\r\n\r\n")
                    answer = Answer(raw, self._reader, patience_s)
                    if answer.status != 100:
                        return answer
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            raise Fails("the connection was closed without an answer") from None

    async def has_ended(self) -> bool:
        """Whether the gateway closes the connection, now that its answer was read."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._reader.read() == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    async def close(self) -> None:
        """Leave: what was not read is lost."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Connection]:
    """
    Connect to the gateway.

    Raises:
        Fails: it does not accept.
    """
    try:
        async with within(PATIENCE_S, "the connection was not accepted"):
            streams = await asyncio.open_connection(target.host, target.port, ssl=target.tls or None, limit=1 << 20)
    except OSError as exc:
        raise Fails(f"it does not accept connections: {exc.strerror or exc}") from None
    connection = Connection(target, *streams)
    try:
        yield connection
    finally:
        await connection.close()


class Answer:
    """An answer: `status` and `headers` at once, the body when it is asked for. `is_whole` says how the body ended."""

    def __init__(self, raw: bytes, reader: asyncio.StreamReader, patience_s: float) -> None:
        first, *rest = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.status = int(first.split(" ")[1])
        pairs = (line.partition(":") for line in rest)
        self.headers = [(name.strip().lower(), value.strip()) for name, _, value in pairs]
        self.is_whole = False
        self._reader = reader
        self._patience_s = patience_s
        self._body: bytes | None = None
        self._events = self._read_events()

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def is_stream(self) -> bool:
        return (self.header("content-type") or "").startswith("text/event-stream")

    async def read(self) -> bytes:
        """
        Return the body, as far as it came.

        Raises:
            Fails: it has not ended in time.
        """
        if self._body is None:
            async with within(self._patience_s, "the answer did not end"):
                self._body = b"".join([piece async for piece in self.pieces()])
        return self._body

    async def json(self) -> Any:
        """
        Return the body as JSON.

        Raises:
            Fails: it is none.
        """
        body = await self.read()
        try:
            return json.loads(body)
        except ValueError:
            raise Fails(f"{self.status} with a body that is not JSON: {excerpt(body)}") from None

    async def next_event(self, patience_s: float | None = None) -> Event:
        """
        Return the next event or comment.

        Raises:
            Fails: none comes in time, or the stream ends.
        """
        async with within(patience_s or self._patience_s, "no event came"):
            found = await anext(self._events, None)
        if found is None:
            raise Fails("the stream ended early")
        return found

    async def events(self) -> list[Event]:
        """
        Return all events that are left, without comments.

        Raises:
            Fails: the stream does not end in time.
        """
        async with within(self._patience_s, "the stream did not end"):
            return [found async for found in self._events if not found.is_comment]

    async def _read_events(self) -> AsyncIterator[Event]:
        reader = EventReader()
        async for piece in self.pieces():
            try:
                for found in reader.feed(piece):
                    yield found
            except UnicodeDecodeError:
                raise Fails("an event is not valid UTF-8") from None
        self.is_whole = self.is_whole and not reader.is_inside_an_event

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, and set `is_whole` if it ends as its framing says."""
        try:
            if "chunked" in (self.header("transfer-encoding") or "").lower():
                while size := int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                    yield (await self._reader.readexactly(size + 2))[:-2]
                await self._reader.readuntil(b"\r\n")
            elif (length := self.header("content-length")) is not None:
                yield await self._reader.readexactly(int(length))
            elif self.status != 204:
                while piece := await self._reader.read(1 << 16):
                    yield piece
            self.is_whole = True
        except asyncio.IncompleteReadError as exc:
            yield exc.partial  # cut: `is_whole` stays False
        except (ValueError, OSError):
            return


def excerpt(body: bytes) -> str:
    """Return the first words of a body, to show."""
    words = " ".join(body[:200].decode("utf-8", "replace").split())
    return repr(words[:60])
