"""One request at the client's edge: what came, what has gone out so far, and what will be logged."""

import asyncio
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from proxy.edge.record import Record, Stopwatch, clipped
from proxy.errors import ProxyError, error_body, error_event
from proxy.wire import headers as wire
from proxy.wire.sse import DONE_EVENT

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"

# nginx passes events on at once when it sees X-Accel-Buffering: no; caches and browsers look at Cache-Control.
STREAM_HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

#: Arbitrary: how long a client that does not read may hold up the last bytes of a stream that failed.
_LAST_WORDS_S: Final = 5.0


class Call:
    """
    A request and its answer. Exactly one answer goes out: `send()`, or `write()` any number of times and `end()`.

    The writing methods raise ConnectionError when the client has left.
    """

    __slots__ = ("_closing", "_stream", "last_write_at", "record", "request", "stopwatch")

    def __init__(self, request: web.BaseRequest) -> None:
        self.request = request
        self.stopwatch = Stopwatch()
        self.record = Record(
            request_id=wire.request_id(request.headers.get("x-request-id")),
            client_ip=request.remote,
            method=clipped(request.method),
            path=clipped(request.rel_url.raw_path),
        )
        self._stream: web.StreamResponse | None = None
        self._closing = False
        #: loop time of the last write to a streamed answer
        self.last_write_at = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether a status line is out, so that an error can no longer have one of its own."""
        return self._stream is not None

    def close_after(self) -> None:
        """End the connection after this answer."""
        self._closing = True

    async def send(
        self, body: bytes, *, status: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """Send a whole answer."""
        response = web.Response(body=body, status=status, headers=self._headers(content_type, headers))
        self._stream = response
        self.record.status = status
        # A body that nobody read is still on its way: only a new connection starts clean.
        if self._closing or not self.request.content.is_eof():
            response.force_close()
        self.record.ttft_ms = self.stopwatch.ms()
        await response.prepare(self.request)
        await response.write_eof()
        self.record.bytes_out = len(body)
        return response

    async def write(self, data: bytes) -> None:
        """Send a piece of a streamed answer, its head first; wait while the client is slow to read."""
        if self._stream is None:
            self._stream = web.StreamResponse(headers=self._headers(EVENT_STREAM, STREAM_HEADERS))
            self.record.status = 200
            self.record.ttft_ms = self.stopwatch.ms()
            if self._closing:
                self._stream.force_close()
            await self._stream.prepare(self.request)
        self.record.bytes_out += len(data)
        self.last_write_at = asyncio.get_running_loop().time()
        await self._stream.write(data)

    async def end(self) -> web.StreamResponse:
        """End a streamed answer that has begun."""
        assert self._stream is not None
        await self._stream.write_eof()
        return self._stream

    def abandoned(self) -> web.StreamResponse:
        """Return the answer, as far as it came, for a client that has left."""
        return web.Response() if self._stream is None else self._stream

    async def fail(self, error: ProxyError) -> web.StreamResponse:
        """
        Send `error`: as an answer of its own, or as the last event of a stream that has begun.

        A stream that failed ends in an error event and `[DONE]`. It gets no finish_reason: a cut answer must not look
        like a whole one.
        """
        if self._stream is None:
            return await self.send(error_body(error), status=error.status, headers=error.headers)
        last = error_event(error) + DONE_EVENT
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.write(last)
                return await self.end()
        except TimeoutError:
            if self.request.transport is not None:
                self.request.transport.abort()
            return self._stream

    def _headers(self, content_type: str, more: Mapping[str, str] | None) -> CIMultiDict[str]:
        headers = _HEADERS.copy()
        headers["Content-Type"] = content_type
        headers["x-request-id"] = self.record.request_id
        if self.record.rules:
            headers["x-proxy-rewrites"] = ",".join(self.record.rules)
        if more:
            headers.update(more)
        return headers


# aiohttp would name itself and Python's version here.
_HEADERS: Final = CIMultiDict({"Server": "devstral-proxy"})
