"""One request at the client's edge: what came, what has gone out so far, and what will be logged."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, cast

from aiohttp import web
from multidict import istr

from proxy.access.principal import ANYONE
from proxy.edge.answer import DirectWriter, Flow, make_writer
from proxy.edge.doubt import is_last
from proxy.edge.in_flight import InFlight
from proxy.edge.record import Record, Stopwatch, clipped
from proxy.edge.server_timing import SERVER_TIMING, server_timing
from proxy.edge.trace import Trace
from proxy.errors import MalformedHttp, ProxyError, error_body, error_event
from proxy.fronts.front import Front
from proxy.wire import headers as wire
from proxy.wire.sse import DONE_EVENT

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"

# nginx passes events on at once when it sees X-Accel-Buffering: no; caches and browsers look at Cache-Control.
STREAM_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

_REQUEST_ID: Final = istr("x-request-id")

#: Arbitrary: how long a client that does not read may hold up the last bytes of a stream that failed.
_LAST_WORDS_S: Final = 5.0

#: Arbitrary: so much of a file waits for a client that does not read.
_PIECE_BYTES: Final = 64 * 1024


class Call:
    """
    A request and its answer. Exactly one answer goes out: `send()`, or `write()` any number of times and `end()`.

    The writing methods raise ConnectionError when the client has left. An answer that begins while the process is
    about to end closes its connection.
    """

    __slots__ = (
        "_has_begun",
        "_has_ended",
        "_in_flight",
        "_is_last",
        "_last_event_at",
        "_loop",
        "_writer",
        "front",
        "last_write_at",
        "more_headers",
        "note_gap",
        "principal",
        "record",
        "request",
        "stopwatch",
        "trace",
    )

    def __init__(self, request: web.BaseRequest, in_flight: InFlight, *, is_direct: bool) -> None:
        self.request = request
        self._in_flight = in_flight
        self.stopwatch = Stopwatch()
        self.record = Record(
            request_id=wire.request_id(request.headers.get(_REQUEST_ID)),
            client_ip=request.remote,
            method=clipped(request.method),
            path=clipped(request.rel_url.raw_path),
        )
        self.trace = Trace()
        self.principal = ANYONE
        #: what the client speaks, if that is not chat completions
        self.front: Front | None = None
        #: headers of the answer, whatever becomes of it
        self.more_headers: dict[str, str] = {}
        self._writer = make_writer(request, is_direct=is_direct)
        self._loop = asyncio.get_running_loop()
        self._is_last = is_last(request)
        self._has_begun = False
        self._has_ended = False
        #: loop time of the last write to a streamed answer
        self.last_write_at = 0.0
        #: the same, of what is no comment; 0 is none yet
        self._last_event_at = 0.0
        #: is told when the event before was written and when this one is; the relay sets it (streaming.py)
        self.note_gap: Callable[[float, float], None] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a status line is out, so that an error can no longer have one of its own."""
        return self._has_begun

    @property
    def has_ended(self) -> bool:
        """Whether the end of a streamed answer is out, so that nothing may follow it."""
        return self._has_ended

    async def send(
        self, body: bytes, *, status: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """
        Send a whole answer; through a front door, 200 is that of a chat completion.

        Raises:
            UpstreamProtocolError: the front cannot read it. Nothing has gone out.
        """
        if self.front is not None and status == 200:
            body = self.front.whole(body)
        self._has_begun = True
        self.record.status = status
        # A body that nobody read is still on its way: only a new connection starts clean.
        closes = self._closes or not self.request.content.is_eof()
        self.record.ttft_ms = self.stopwatch.ms()
        await self._writer.send(status, self._headers(content_type, headers), body, closes=closes)
        self.record.bytes_out = len(body)
        return self._writer.response

    async def send_file(self, path: Path, *, content_type: str, headers: Mapping[str, str]) -> web.StreamResponse:
        """
        Send a file piece by piece, as fast as the client reads. One that is cut short ends its connection.

        Raises:
            OSError: it cannot be read. Nothing has gone out then, unless it was cut while it was sent.
        """
        piece = await asyncio.to_thread(_piece_of, path, 0)
        self.record.ttft_ms = self.stopwatch.ms()
        self._note_begin()
        self._has_ended = True  # no error may stand inside a file
        closes = self._in_flight.is_draining or not self.request.content.is_eof()
        try:
            await self._writer.begin(self._headers(content_type, headers), closes=closes)
            while piece and self.request.method != "HEAD":
                self.record.bytes_out += len(piece)
                await self._writer.write(piece)
                piece = await asyncio.to_thread(_piece_of, path, self.record.bytes_out)
            await self._writer.end()
        except BaseException:
            if self.request.transport is not None:
                self.request.transport.abort()
            raise
        return self._writer.response

    async def write(self, data: bytes) -> None:
        """Send a piece of a streamed answer, its head first; wait while the client is slow to read."""
        if self.front is not None:
            data = self.front.piece(data)
            if not data:  # an empty chunk would be the end
                return
        self._note_event(data)
        await self._write(data)

    async def comment(self, data: bytes) -> None:
        """`write()` what is no part of the answer: neither its first token nor the end of a gap."""
        if self.front is not None:
            data = self.front.piece(data)
        if data:
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        if not self._has_begun:
            self._note_begin()
            await self._writer.begin(self._headers(EVENT_STREAM, STREAM_HEADERS), closes=self._closes)
        self._note_write(data)
        await self._writer.write(data)

    @property
    def _closes(self) -> bool:
        """Whether the connection ends with this answer, whatever the client wants."""
        return self._is_last or self._in_flight.is_draining

    @property
    def can_put(self) -> bool:
        """Whether `put()` works."""
        return isinstance(self._writer, DirectWriter)

    def put(self, data: bytes) -> bool:
        """`write()` without waiting: return whether the client reads fast enough; if not, see `when_drained()`."""
        writer = cast("DirectWriter", self._writer)
        if self.front is not None:
            data = self.front.piece(data)
            if not data:
                return True
        self._note_event(data)
        if not self._has_begun:
            self._note_begin()
            writer.begin_now(self._headers(EVENT_STREAM, STREAM_HEADERS), closes=self._closes)
        self._note_write(data)
        return writer.put(data)

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, when the client has caught up, or has left."""
        cast("Flow", self.request.protocol).when_drained(callback)

    async def end(self) -> web.StreamResponse:
        """End a streamed answer that has begun."""
        self._has_ended = True
        await self._writer.end()
        return self._writer.response

    def _note_begin(self) -> None:
        self._has_begun = True
        self.record.status = 200

    def _note_event(self, data: bytes) -> None:
        if data.startswith(b":") and b"\ndata:" not in data:  # a model server's comments
            return
        now = self._loop.time()
        if not self._last_event_at:
            self.record.ttft_ms = self.stopwatch.ms()
        elif self.note_gap is not None:
            self.note_gap(self._last_event_at, now)
        self._last_event_at = now

    def _note_write(self, data: bytes) -> None:
        self.record.bytes_out += len(data)
        self.last_write_at = self._loop.time()

    def abandoned(self) -> web.StreamResponse:
        """Return the answer, as far as it came, for a client that has left."""
        return self._writer.response

    async def fail(self, error: ProxyError, mask: Callable[[bytes], bytes]) -> web.StreamResponse:
        """
        Send `error`, as `mask` returns it: as an answer of its own, or as the last event of a stream that has begun.

        A stream that failed ends in an error event and `[DONE]`, which a front makes its own. It gets no
        finish_reason: a cut answer must not look like a whole one.
        """
        if self._has_ended:  # what failed came after the answer: nothing may follow it
            return self._writer.response
        if isinstance(error, MalformedHttp):
            self._is_last = True
        if not self._has_begun:
            body = error_body(error) if self.front is None else self.front.error_body(error)
            return await self.send(mask(body), status=error.status, headers=error.headers)
        last = mask(error_event(error)) + DONE_EVENT
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.comment(last)  # it is no token
                return await self.end()
        except TimeoutError:
            if self.request.transport is not None:
                self.request.transport.abort()
            return self._writer.response

    def _headers(self, content_type: str, more: Mapping[str, str] | None) -> dict[str, str]:
        # aiohttp would name itself and Python's version as the server.
        headers = {
            "Server": "devstral-proxy",
            "Content-Type": content_type,
            "x-request-id": self.record.request_id,
        }
        if self.record.rules:
            headers["x-proxy-rewrites"] = ",".join(self.record.rules)
        if self.record.attempts:
            headers["x-proxy-attempts"] = str(self.record.attempts)
        if timing := server_timing(self.record, self.record.ttft_ms or self.stopwatch.ms()):
            headers[SERVER_TIMING] = timing
        if self.more_headers:
            headers.update(self.more_headers)
        if more:
            headers.update(more)
        return headers


def _piece_of(path: Path, offset: int) -> bytes:
    """Return what stands in a file from `offset` on. It is opened each time: who is cancelled leaves none open."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(_PIECE_BYTES)
