"""
aiohttp's side of one client connection: what it answers by itself, before a handler is reached (bytes that are not
HTTP, targets that it has no place for), and the way of bytes to the client.
"""

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import http_exceptions, web

from proxy.edge.call import JSON
from proxy.edge.record import Record, note_error, write
from proxy.errors import ClientError, HeadersTooLarge, MalformedHttp, ProxyError, RequestTimeout, error_body
from proxy.observe.logs import Lines
from proxy.observe.metrics import Metrics
from proxy.upstream.sweep import Sweep
from proxy.wire import headers as wire


def from_http_exception(exc: web.HTTPException) -> ProxyError:
    """Return the same failure in this project's words."""
    code = exc.reason.lower().replace(" ", "_")
    error = ClientError(exc.reason, code=code) if exc.status < 500 else ProxyError(exc.reason, code=code)
    error.status = exc.status
    return error


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Connection(web.RequestHandler):
    """
    aiohttp's side of one client connection, with this project's shape for the answers that aiohttp makes itself.

    `web.RequestHandler` is exported and its two methods here have public names; they are not in aiohttp's documents,
    so tests/edge/test_bad_http.py holds them to what is used here.
    """

    def __init__(
        self,
        manager: web.Server,
        *,
        lines: Lines,
        metrics: Metrics,
        sweep: Sweep,
        header_timeout_s: float,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._lines = lines
        self._metrics = metrics
        self._on_drained: list[Callable[[], None]] = []
        self._sweep = sweep
        self._header_timeout_s = header_timeout_s
        self._heads = 0
        self._is_timed = False
        self._has_begun_head = False
        #: in the loop's time: when the head of a request has to be here
        self.due_at = math.inf

    # --- for edge/answer.py: what `DirectWriter` needs

    def put(self, data: bytes) -> None:
        """See `Flow`."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("The client has left.")
        transport.write(data)

    async def drained(self) -> None:
        """See `Flow`."""
        waiter = asyncio.get_running_loop().create_future()
        self.when_drained(partial(_resolve, waiter))
        await waiter
        if self.transport is None:
            raise ConnectionResetError("The client has left.")

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, when the client has read most of what was put, or has left."""
        self._on_drained.append(callback)

    def resume_writing(self) -> None:
        """The client has read: tell who waits for it."""
        super().resume_writing()
        self._tell()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has left: nobody need wait."""
        super().connection_lost(exc)
        self._sweep.discard(self)
        self._tell()

    def _tell(self) -> None:
        callbacks, self._on_drained = self._on_drained, []
        for callback in callbacks:
            callback()

    # --- how long a client may take to send the head of a request (F13; slowloris)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The time for the first request begins."""
        super().connection_made(transport)
        self._time_head()

    def data_received(self, data: bytes) -> None:
        """A head that is whole ends the time, the first bytes of the next one start it anew."""
        super().data_received(data)
        if self._request_count != self._heads:
            self._heads = self._request_count
            if self._is_timed:
                self._is_timed = self._has_begun_head = False
                self._sweep.discard(self)
        elif self._is_timed:
            self._has_begun_head = True
        elif self._waiter is not None and not self._waiter.done():  # idle, so these are not bytes of a body
            self._has_begun_head = True
            self._time_head()

    def _time_head(self) -> None:
        self._is_timed = True
        self.due_at = asyncio.get_running_loop().time() + self._header_timeout_s
        self._sweep.add(self)

    def ring(self, _now: float) -> None:
        """The head did not come in time: say so to a client that has begun one, and end the connection."""
        self._sweep.discard(self)
        transport = self.transport
        if self._has_begun_head and transport is not None and not transport.is_closing():
            limit = f"header_timeout_s: the headers did not arrive within {self._header_timeout_s:g} s."
            error = RequestTimeout(limit)
            body, headers = self._noted(error)
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"HTTP/1.1 408 Request Timeout\r\n{lines}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            transport.write(head.encode() + body)
        self.force_close()

    # --- what aiohttp answers by itself

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that could not be parsed. aiohttp's own message quotes them, so it is not used."""
        error: ProxyError = MalformedHttp("The request is not valid HTTP/1.1.")
        if isinstance(exc, http_exceptions.LineTooLong):
            error = HeadersTooLarge(f"The request line or a header is over the limit of {self.max_field_size} bytes.")
        return self._refused(request, error)

    def finish_response(self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None) -> Any:
        """Send the answer; one that aiohttp's router raised is put into this project's shape first."""
        if isinstance(resp, web.HTTPException):
            resp = self._refused(request, from_http_exception(resp))
        return super().finish_response(request, resp, start_time)

    def _refused(self, request: web.BaseRequest, error: ProxyError) -> web.Response:
        body, headers = self._noted(error)
        response = web.Response(body=body, status=error.status, headers=headers)
        response.force_close()
        return response

    def _noted(self, error: ProxyError) -> tuple[bytes, dict[str, str]]:
        """Write down an answer to what is no request yet; return its body and headers."""
        peer = self.peername
        record = Record(
            request_id=wire.request_id(None),
            client_ip=peer[0] if isinstance(peer, tuple) else None,
            method="",
            path="",
            status=error.status,
        )
        note_error(record, error)
        write(self._lines, record)
        self._metrics.observe(record)
        headers = {"Server": "devstral-proxy", "x-request-id": record.request_id, "Content-Type": JSON}
        return error_body(error), headers
