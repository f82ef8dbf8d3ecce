"""
aiohttp's side of one client connection: what it answers by itself, before a handler is reached (bytes that are not
HTTP, targets that it has no place for, headers that do not come), and the way of bytes to the client.

How long headers may take, with the sweep's one timer:

    NOTHING --part of a head--> PART --its end--> WHOLE --part of the next head--> PART
       |                          |
       +--header_timeout_s--> closed, or, from PART, 408 and then closed (REFUSED)

The time runs from the connection's beginning, or from a next request's first byte. Between the two, in WHOLE, aiohttp's
`keepalive_timeout` ends a connection without a next request. A request whose headers come in one piece pays 0.5 µs
(CPython 3.11.7, 2026-11-26, two shared cores).
"""

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from aiohttp import EMPTY_PAYLOAD, StreamReader, http_exceptions, web

from proxy.edge.call import JSON
from proxy.edge.record import Record, note_error, write
from proxy.edge.stall import Stall
from proxy.errors import ClientError, HeadersTooLarge, MalformedHttp, ProxyError, RequestTimeout, error_body
from proxy.observe.logs import Lines
from proxy.observe.metrics import Metrics
from proxy.upstream.sweep import Sweep
from proxy.wire import headers as wire

#: Arbitrary, a sixteenth of aiohttp's own. Of a request that waits for its turn, a connection reads twice as much and
#: what one more read brings (256,000 bytes, uvloop); more is left to the client.
_READ_AHEAD_BYTES: Final = 16 * 1024
#: Arbitrary: how long a client may take to read why its connection ends, before it is closed.
_LAST_WORDS_S: Final = 1.0
#: Arbitrary: eight lines of the longest kind. aiohttp bounds lines and their number, together a megabyte. One that
#: comes whole in one read (256,000 bytes) is taken.
_LONGEST_HEAD: Final = 64 * 1024


class _Head(Enum):
    """What has come of a next request's headers; see the module."""

    NOTHING = auto()
    PART = auto()
    WHOLE = auto()
    REFUSED = auto()


_NOTHING, _PART, _WHOLE, _REFUSED = _Head


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

    `web.RequestHandler` is exported and its methods here have public names; they are not in aiohttp's documents, so
    tests/edge/test_bad_http.py holds them to what is used here. tests/edge/test_client_heads.py does so for what has
    no public name: `_request_count` and `_messages` tell of whole heads, `_waiter` of a connection that runs nothing,
    `_next_keepalive_close_time` of when it is closed for that; tests/security/test_smuggling.py for
    `_request_in_progress`, which tells whether a request is still being answered.
    """

    def __init__(
        self,
        manager: web.Server,
        *,
        lines: Lines,
        metrics: Metrics,
        sweep: Sweep,
        header_timeout_s: float,
        write_timeout_s: float,
        **options: Any,
    ) -> None:
        super().__init__(manager, read_bufsize=_READ_AHEAD_BYTES, **options)
        self._lines = lines
        self._metrics = metrics
        self._sweep = sweep
        self._header_timeout_s = header_timeout_s
        self._stall = Stall(sweep, write_timeout_s)
        self._on_drained: list[Callable[[], None]] = []
        self._head = _NOTHING
        #: how many heads have come, and the body of the last
        self._heads = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        self._is_overdue = False
        #: how much has come of a head that is not whole
        self._part_bytes = 0
        self.due_at = 0.0

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

    def pause_writing(self) -> None:
        """The client is slower than what is sent to it."""
        super().pause_writing()
        if self.transport is not None:
            self._stall.begin(self.transport)

    def resume_writing(self) -> None:
        """The client has read: tell who waits for it."""
        super().resume_writing()
        self._stall.end()
        self._tell()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has left: nobody need wait."""
        super().connection_lost(exc)
        self._sweep.discard(self)
        self._stall.end()
        self._tell()

    def _tell(self) -> None:
        callbacks, self._on_drained = self._on_drained, []
        for callback in callbacks:
            callback()

    # --- how long headers may take

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first request's headers are waited for."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See whether it was a part of a head, and whether that is whole now."""
        body = self._body
        is_body = not body.is_eof()
        super().data_received(data)
        if self._request_count != self._heads:
            if is_body and not body.is_eof():
                self._break(body)
            self._heads = self._request_count
            if self._messages:
                self._body = self._messages[-1][1]
            if self._head is not _WHOLE:
                self._head = _WHOLE
                self._sweep.discard(self)
        # A part behind the end of a body is not seen here, but the next one is, and aiohttp closes idle connections.
        # Empty lines before a request are none of it (RFC 9112, 2.2).
        elif not is_body and data.strip(b"\r\n"):
            self._note_part(len(data))

    def _break(self, body: StreamReader) -> None:
        """The body's framing is broken. aiohttp's parser in C queues a refusal, and leaves who reads it waiting."""
        if self._request_in_progress:  # else it is answered, and aiohttp reads the rest to drop it
            body.set_exception(web.RequestPayloadError())
        body.feed_eof()

    def _note_part(self, size: int) -> None:
        if self._head is _WHOLE:
            self._watch()
        if self._head is _REFUSED:
            return
        self._head = _PART
        self._part_bytes += size
        if self._part_bytes > _LONGEST_HEAD:
            self._refuse_head(HeadersTooLarge(f"The headers are over the limit of {_LONGEST_HEAD} bytes."))

    def _watch(self) -> None:
        self._is_overdue = False
        self._part_bytes = 0
        self.due_at = self._loop.time() + self._header_timeout_s
        # not before: else a short client_idle_s would cut a head without a word
        self._next_keepalive_close_time = max(self._next_keepalive_close_time, self.due_at + _LAST_WORDS_S)
        self._sweep.add(self)

    def ring(self, now: float) -> None:
        """The headers have not come in time, unless they came in a way that was not seen, or are not asked for yet."""
        if self._head is _REFUSED:
            self._sweep.discard(self)
            self.force_close()
        elif self._request_count != self._heads:
            self._heads, self._head = self._request_count, _WHOLE
            self._sweep.discard(self)
        elif self._waiter is None or self._waiter.done():  # the request before is still being answered
            self.due_at = now + self._header_timeout_s
        elif not self._is_overdue:  # a process that stood still looks at its sockets first
            self._is_overdue = True
        elif self._head is _PART:
            limit = f"{self._header_timeout_s:g} s"
            self._refuse_head(RequestTimeout(f"header_timeout_s: the request's headers did not arrive within {limit}."))
        else:
            self._sweep.discard(self)
            self.force_close()

    def _refuse_head(self, error: ProxyError) -> None:
        self._head = _REFUSED
        self.due_at = self._loop.time() + _LAST_WORDS_S
        headers, body = self._noted(error), error_body(error)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        status = HTTPStatus(error.status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n{lines}Content-Length: {len(body)}\r\n"
            f"Date: {formatdate(usegmt=True)}\r\nConnection: close\r\n\r\n"
        )
        self.close()  # no byte is read as HTTP any more; the transport stays, so that the client can read this
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(head.encode() + body)
            if self.transport.can_write_eof():
                self.transport.write_eof()
            else:  # TLS, which has only one end for both directions, and reads on until the client has seen it
                self.transport.close()

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
        return self._refused(error)

    def finish_response(self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None) -> Any:
        """Send the answer; one that aiohttp's router raised is put into this project's shape first."""
        if isinstance(resp, web.HTTPException):
            resp = self._refused(from_http_exception(resp))
        return super().finish_response(request, resp, start_time)

    def _refused(self, error: ProxyError) -> web.Response:
        response = web.Response(body=error_body(error), status=error.status, headers=self._noted(error))
        response.force_close()
        return response

    def _noted(self, error: ProxyError) -> dict[str, str]:
        """Log and count a request that never reached a handler; return the headers of its answer."""
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
        return {"Server": "devstral-proxy", "x-request-id": record.request_id, "Content-Type": JSON}
