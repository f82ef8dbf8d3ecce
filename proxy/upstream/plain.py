"""The plain way of an exchange: `ClientSession.request`, aiohttp's own response, its own reader."""

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

import aiohttp
from multidict import CIMultiDict, istr

from proxy.errors import UpstreamError
from proxy.upstream.answer import Answer
from proxy.upstream.route import Asking, Leg, Server, Sessions, Target
from proxy.upstream.timers import Timers, twice_if_stalled
from proxy.wire import headers as wire

#: Arbitrary: the longest wait for the end of an answer whose last event has come; it is usually there already.
_SETTLE_S: Final = 0.5

_REQUEST_ID: Final = istr("x-request-id")
_TRACEPARENT: Final = istr("traceparent")
_TRACESTATE: Final = istr("tracestate")
_CONTENT_LENGTH: Final = istr("Content-Length")


class PlainAnswer:
    """See `Answer`."""

    __slots__ = (
        *("_connection_closed", "_leg", "_response", "_server", "_timers"),
        *("content_type", "retry_after", "status"),
    )

    def __init__(self, response: aiohttp.ClientResponse, timers: Timers, server: Server, leg: Leg) -> None:
        self._response = response
        self._leg = leg
        self._timers = timers
        self._server = server
        self._connection_closed = _watch(response, self._note_closed)
        self.status = response.status
        self.content_type = response.headers.get("Content-Type")
        self.retry_after = wire.retry_after(response.headers.get("Retry-After"))

    async def read_some(self) -> bytes:
        """See `Answer`."""
        self._timers.waiting()
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as exc:
            raise self._server.broken_off() from exc
        self._timers.arrived()
        if self._leg.first_byte_at is None and piece:
            self._leg.first_byte_at = time.perf_counter()
        self._server.progress.at = asyncio.get_running_loop().time()
        return piece

    async def settle(self) -> None:
        """See `Answer`."""
        if self._response.content.at_eof():
            return
        try:
            async with asyncio.timeout(_SETTLE_S):
                while await self._response.content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            self.close()

    def close(self) -> None:
        """See `Answer`."""
        if self._connection_closed is not None:
            self._connection_closed.remove_done_callback(self._note_closed)
        self._response.close()

    def _note_closed(self, _closed: asyncio.Future[None]) -> None:
        """Wake the reader: aiohttp 3.14 forgets it when a body's framing is broken."""
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError())


def _watch(
    response: aiohttp.ClientResponse, callback: Callable[[asyncio.Future[None]], None]
) -> asyncio.Future[None] | None:
    """Have `callback` called when the connection of a response closes; None if the response is all here already."""
    protocol = None if response.connection is None else response.connection.protocol
    closed = None if protocol is None else protocol.closed
    if closed is not None:
        closed.add_done_callback(callback)
    return closed


class PlainRoute:
    """See `Route`."""

    def __init__(self, sessions: Sessions, server: Server, target: Target) -> None:
        self._sessions = sessions
        self._server = server
        self._target = target
        self._headers = CIMultiDict(target.headers)

    @asynccontextmanager
    async def send(self, asking: Asking) -> AsyncIterator[Answer]:
        """See `Route`."""
        headers = self._headers.copy()
        headers[_REQUEST_ID] = asking.request_id
        if asking.leg.traceparent is not None:
            headers[_TRACEPARENT] = asking.leg.traceparent
        if asking.leg.tracestate is not None:
            headers[_TRACESTATE] = asking.leg.tracestate
        if asking.body is not None:
            headers[_CONTENT_LENGTH] = str(len(asking.body))
        async with Timers(asking.limits, asking.passed_s) as timers:
            try:
                response = await self._request(headers, asking)
            except (aiohttp.ClientError, OSError) as exc:
                raise self._failure(exc) from exc
            answer = PlainAnswer(response, timers, self._server, asking.leg)
            try:
                yield answer
            finally:
                answer.close()

    async def _request(self, headers: CIMultiDict[str], asking: Asking) -> aiohttp.ClientResponse:
        payload = None if asking.body is None else _Json(asking.body)
        method, url, _, server_name = self._target
        session = self._sessions.fresh if asking.is_fresh else self._sessions.pool
        _reused.set(False)
        _leg.set(asking.leg)
        return await session.request(
            method, url, data=payload, headers=headers, allow_redirects=False, server_hostname=server_name
        )

    def _failure(self, exc: aiohttp.ClientError | OSError) -> UpstreamError:
        is_disconnect = isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
        if not is_disconnect or isinstance(exc, aiohttp.ClientConnectorError) or not _reused.get():
            return self._server.failure(exc)
        if isinstance(exc, aiohttp.ServerDisconnectedError) and not isinstance(exc.message, str):
            return self._server.failure(exc)  # part of an answer had come
        return self._server.stale()


#: Whether the connection of this task's last request had been used before.
_reused: ContextVar[bool] = ContextVar("reused")
#: Where it is written down when it had one.
_leg: ContextVar[Leg] = ContextVar("leg")


class _Telling(aiohttp.BaseConnector):
    """A pool that tells, for each request, whether its connection had been used before."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._known: weakref.WeakSet[asyncio.BaseProtocol] = weakref.WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the parent's signature
    ) -> aiohttp.connector.Connection:
        connect = partial(super().connect, req, traces, timeout)
        connection = await twice_if_stalled(connect, timeout.sock_connect or 0.0)
        # aiohttp 3.14 gives the next request what came while nobody asked: the answer to another.
        while (protocol := connection.protocol) is not None and protocol.should_close:
            connection.close()
            if protocol not in self._known:
                raise aiohttp.ClientConnectionError("The server sent bytes before it was asked.")
            connection = await twice_if_stalled(connect, timeout.sock_connect or 0.0)
        if protocol is not None:
            _reused.set(protocol in self._known)
            if protocol not in self._known and protocol.closed is not None:
                # asyncio logs an exception that nobody asked for, and idle connections end in one now and then
                protocol.closed.add_done_callback(asyncio.Future.exception)
            self._known.add(protocol)
        _leg.get().connected_at = time.perf_counter()
        return connection


class Connector(_Telling, aiohttp.TCPConnector):
    """See `_Telling`."""


class UnixConnector(_Telling, aiohttp.UnixConnector):
    """See `_Telling`."""


class _Json(aiohttp.Payload):
    """A body of bytes that is ready to go. aiohttp's own BytesPayload warns above 1 MiB, where agents' bodies are."""

    _value: bytes

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/json")

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        await writer.write(self._value)
