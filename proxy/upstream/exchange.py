"""
One request and its answer on a connection of the session's pool, below `ClientSession._request`.

    IDLE --ask()--> HEAD --head--> BODY --last byte--> DONE --released--> IDLE        anything --failure--> BROKEN

aiohttp's connector keeps the pool: it connects, resolves, counts and waits. What runs on a connection is this
protocol, put into the connection's transport in the place of aiohttp's `ResponseHandler`, and llhttp (httptools) as
parser. It costs about half of `ClientSession.request` per short answer, because nothing is built that a proxy drops:
no ClientRequest, no ClientResponse, no task to write the body, no StreamReader, no timer. A piece of a stream goes
from the socket to its reader in one call (`pour`), without a switch of tasks.

It leans on three things that aiohttp 3.14 exports but does not document: `connector.connect()`, `Connection.release()`
and `Connection.close()`; tests/upstream/test_exchange.py holds them.
"""

import asyncio
import time
from enum import Enum, auto
from typing import Final

import httptools
from aiohttp.connector import Connection

from proxy.errors import UpstreamError, UpstreamTimeout
from proxy.upstream.answer import Limits, Sink
from proxy.upstream.route import Leg, Progress, Server
from proxy.upstream.sweep import Sweep
from proxy.wire import headers as wire

#: Arbitrary, as aiohttp's own: more unread bytes than this stop the reading.
_MOST_HELD: Final = 256 * 1024
_SHORT_BODY: Final = 16 * 1024
#: As uvicorn and aiohttp bound a head, with room for both.
_LONGEST_HEAD: Final = 64 * 1024
#: Arbitrary: the longest wait for the end of an answer whose last event has come; it is usually there already.
_SETTLE_S: Final = 0.5


class State(Enum):
    """Where an exchange is; see the module."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    DONE = auto()
    BROKEN = auto()


_IDLE, _HEAD, _BODY, _DONE, _BROKEN = State


class Exchange(asyncio.Protocol):
    """
    The protocol of one connection, for as long as it lives; one request after the other. See `Answer` for the reader.

    `ask()`, `await begun()`, then `read_some()` or `pour()`, then `close()` in any case.
    """

    __slots__ = (
        *("_doubted", "_error", "_got_bytes", "_handler", "_has_end", "_head_bytes"),
        *("_held", "_is_used", "_keeps", "_leg", "_limits", "_loop", "_parser", "_parts", "_progress", "_server"),
        *("_silent_since", "_sink", "_stage", "_state", "_sweep", "_transport", "_waiter"),
        *("connection", "content_type", "due_at", "retry_after", "status"),
    )

    def __init__(self, handler: asyncio.Protocol, transport: asyncio.Transport, server: Server, sweep: Sweep) -> None:
        self._handler = handler
        self._transport = transport
        self._server = server
        self._progress: Progress = server.progress
        self._sweep = sweep
        self._is_used = False
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._state = _IDLE
        #: the pool's own for the request that runs; None when none does
        self.connection: Connection | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._parts: list[bytes] = []
        self._reset()

    def _reset(self) -> None:
        self._parts.clear()
        self._held = self._head_bytes = 0
        self._error: UpstreamError | None = None
        self._got_bytes = self._has_end = self._keeps = False
        self.status = 0
        self.content_type: str | None = None
        self.retry_after: str | None = None

    # --- the owner's side

    def ask(self, connection: Connection, head: bytes, body: bytes, limits: Limits, leg: Leg) -> None:
        """Send a request on `connection`, which is this protocol's own and idle."""
        self.connection = connection
        self._limits = limits
        self._leg = leg
        self._reset()
        self._state = _HEAD
        now = self._loop.time()
        self._stage = _FIRST_BYTE
        self._silent_since: float | None = now
        self._doubted: float | None = None
        self.due_at = now + self._limits.first_byte_s
        self._sweep.add(self)
        if len(body) < _SHORT_BODY:
            self._transport.write(head + body)  # one send(2) is cheaper than a writev(2), unless it costs a long copy
        else:
            self._transport.writelines((head, body))

    async def begun(self) -> None:
        """
        Wait for the answer's head.

        Raises:
            Stale: the connection had been used before, and closed without a byte.
            UpstreamError: it broke, or a timer rang.
        """
        while self._state is _HEAD:
            await self._wait()
        if self._state is _BROKEN and self.status < _LOWEST_FINAL:
            raise self._failure()

    async def read_some(self) -> bytes:
        """See `Answer`."""
        while not self._parts:
            if self._state is _DONE:
                return b""
            if self._state is _BROKEN:
                raise self._failure()
            if self._silent_since is None:
                self._silent_since = self._loop.time()
            await self._wait()
        if self._state is _BODY:
            self._silent_since = None
        return self._take()

    async def pour(self, sink: Sink) -> None:
        """
        Give every piece to `sink` as it comes; return when it wants no more or has had b"", the proper end.

        Raises:
            UpstreamError: the connection broke first, or a timer rang.
            Exception: what `sink` raised.
        """
        self._sink = sink
        if self._parts or self._state is not _BODY:
            self._pour()
        if self._sink is not None:
            await self._wait()

    def pause(self) -> None:
        """Read no more from the model server: the client is slow. Its silence counts for nobody."""
        self._silent_since = None
        if self._state is _BODY:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._state is _BODY:
            self._silent_since = self._loop.time()
            self._transport.resume_reading()

    async def settle(self) -> None:
        """See `Answer`. Nobody waits: the end may come while the connection is back in nobody's hands."""
        if self._state is _BODY and self.connection is not None:
            self._sink = _ignore
            self.due_at = self._loop.time() + _SETTLE_S
            self._transport.resume_reading()

    def close(self) -> None:
        """See `Answer`."""
        if self.connection is not None and self._sink is not _ignore:
            self._end()

    # --- between reader and transport

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> bytes:
        parts = self._parts
        piece = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if self._held > _MOST_HELD and self._state is _BODY:
            self._transport.resume_reading()
        self._held = 0
        return piece

    def _pour(self) -> None:
        """Give the sink what is there; leave when it has enough, or the answer is over."""
        assert self._sink is not None
        wants_more = True
        try:
            if self._parts:
                wants_more = self._sink(self._take())
            if wants_more and self._state is _DONE:
                self._sink(b"")
                wants_more = False
            if wants_more and self._state is _BROKEN:
                raise self._failure()
        except Exception as exc:
            self._sink = None
            if self._waiter is None:
                raise
            if not self._waiter.done():
                self._waiter.set_exception(exc)
            return
        if not wants_more:
            self._sink = None
            self._wake()

    def _deliver(self) -> None:
        if self._sink is _ignore:
            self._parts.clear()
            if self._state is not _BODY:
                self._end()
        elif self._sink is not None:
            self._pour()
        else:
            self._wake()

    def _break(self, error: UpstreamError) -> None:
        if self._state in (_HEAD, _BODY):
            self._state = _BROKEN
            self._error = error
            self._deliver()

    def _failure(self) -> UpstreamError:
        assert self._error is not None
        return self._error

    def _end(self) -> None:
        """Give the connection back: to the pool after a whole answer, else closed."""
        connection, self.connection = self.connection, None
        self._sink = None
        self._sweep.discard(self)
        self._parts.clear()
        if connection is None:
            return
        is_clean = self._state is _DONE and self._keeps and not self._transport.get_write_buffer_size()
        self._state = _IDLE if is_clean else _BROKEN
        self._is_used = True
        if is_clean:
            self._transport.resume_reading()  # the bytes that stopped it may have been the last
            connection.release()
        else:
            self._transport.abort()  # what has not been sent yet is of no use
            connection.close()

    # --- the transport's side

    def data_received(self, data: bytes) -> None:
        """Parse what came. Bytes that nobody asked for end the connection."""
        if self._state is not _HEAD and self._state is not _BODY:
            self._keeps = False
            self._transport.abort()
            return
        self._got_bytes = True
        if self._state is _HEAD:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # the latter is none of the former
            self._keeps = False
            self._break(self._broken_off())
        if self._state is _HEAD and self._head_bytes > _LONGEST_HEAD:
            self._break(self._server.not_http())
        elif self._state is not _HEAD:
            self._deliver()

    def eof_received(self) -> None:
        """The transport closes itself: no server sends on after it has closed its side."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the pool and the reader. A body without a length ends here."""
        self._handler.connection_lost(exc)
        if self._state is _BODY and not self._has_end and exc is None:
            self._state = _DONE
            self._keeps = False
            self._deliver()
        elif self._state is _HEAD and not self._got_bytes:
            self._break(self._server.stale() if self._is_used else self._server.no_answer())
        else:
            self._break(self._broken_off())

    def pause_writing(self) -> None:
        """The request waits in the transport, whole: it is bounded, and nothing follows it."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    def _broken_off(self) -> UpstreamError:
        return self._server.not_http() if self._state is _HEAD else self._server.broken_off()

    # --- the parser's side

    def on_message_begin(self) -> None:
        """Bytes of one more answer, that was not asked for, end the connection; the parser is in the midst of it."""
        if self._state is _DONE:
            self._keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note the few headers that are read. A trailer is none of them, nor is the head of an answer not asked for."""
        if self._state is not _HEAD:
            return
        name = name.lower()
        if name == b"content-type":
            self.content_type = value.decode("latin-1")
        elif name == b"retry-after":
            self.retry_after = wire.retry_after(value.decode("latin-1"))
        elif name == b"content-length" or name == b"transfer-encoding":
            self._has_end = True

    def on_headers_complete(self) -> None:
        """A final status begins the body; an interim one (1xx) says nothing."""
        if self._state is not _HEAD:
            return
        self.status = self._parser.get_status_code()
        if self.status >= _LOWEST_FINAL:
            self._state = _BODY
        else:
            self.content_type = self.retry_after = None
            self._has_end = False

    def on_body(self, piece: bytes) -> None:
        """Keep a piece until the end of this read."""
        if self._state is not _BODY:
            return
        self._parts.append(piece)
        self._held += len(piece)
        now = self._loop.time()
        self._silent_since = self._progress.at = now
        if self._stage == _FIRST_BYTE:
            self._stage = _BETWEEN_BYTES
            self._leg.first_byte_at = time.perf_counter()
            self.due_at = now + self._limits.between_bytes_s  # it may be the shorter one
        if self._held > _MOST_HELD and self._sink is None:
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._state is _BODY:
            self._state = _DONE
            self._keeps = self._parser.should_keep_alive()

    # --- the sweep's side

    def ring(self, now: float) -> None:
        """A deadline may be over: see `Limits` for what counts. The limit in total is the route's."""
        if self._sink is _ignore:
            self._end()
            return
        is_first = self._stage == _FIRST_BYTE
        limit = self._limits.first_byte_s if is_first else self._limits.between_bytes_s
        since = now if self._silent_since is None else self._silent_since
        self.due_at = since + limit
        if self.due_at > now:
            return
        if self._doubted != since:
            self._doubted = since
        else:
            self._break(UpstreamTimeout(f"{self._stage}_timeout_s: the model server was silent for {limit:g} s"))


def _ignore(_piece: bytes) -> bool:
    """The sink of an answer that nobody reads any more."""
    return True


_LOWEST_FINAL: Final = 200
_FIRST_BYTE: Final = "first_byte"
_BETWEEN_BYTES: Final = "between_bytes"
