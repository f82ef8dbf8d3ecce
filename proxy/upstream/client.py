"""
The upstream edge: one pool of connections to the model server, and everything that can go wrong on them.

Only an `UpstreamRequest` leaves through `send()`, and only `translate_request` makes one. Headers are built here and
never copied from the client: no Authorization, no Cookie, no hop-by-hop header of a client can reach the model server.
aiohttp's exceptions are turned into this project's own where the read happens, inside a stream too.

Retries: one, at once, and only when a connection that had been used before broke without a byte of an answer. That is
the race between a server closing an idle connection and the proxy using it (vLLM closes after 5 s); the request was
not read. aiohttp retries idempotent methods the same way, and never a POST (since 3.10).
"""

import asyncio
import math
import os
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
from multidict import CIMultiDict, istr
from yarl import URL

from proxy import __version__
from proxy.config import Config
from proxy.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from proxy.translate.request import UpstreamRequest
from proxy.upstream.timers import Limits, Timers
from proxy.wire import headers as wire

_REQUEST_ID: Final = istr("x-request-id")
_TRACEPARENT: Final = istr("traceparent")
_CONTENT_LENGTH: Final = istr("Content-Length")

#: Arbitrary: the longest that a probe may take.
_PROBE_S: Final = 2.0
#: Arbitrary: the longest wait for the end of an answer whose last event has come; it is usually there already.
_SETTLE_S: Final = 0.5


class Answer:
    """An answer of the model server whose status line has come. Read it to its end, or close it."""

    __slots__ = ("_connection_closed", "_host", "_response", "_timers", "content_type", "retry_after", "status")

    def __init__(self, response: aiohttp.ClientResponse, timers: Timers, host: str) -> None:
        self._response = response
        self._timers = timers
        self._host = host
        self._connection_closed = _watch(response, self._note_closed)
        self.status = response.status
        self.content_type = response.headers.get("Content-Type")
        self.retry_after = wire.retry_after(response.headers.get("Retry-After"))

    async def read_some(self) -> bytes:
        """
        Return the bytes that have come, or b"" at the answer's proper end.

        Raises:
            UpstreamProtocolError: the connection broke first.
        """
        self._timers.waiting()
        try:
            piece = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as exc:
            raise UpstreamProtocolError(f"The model server at {self._host} broke off its answer.") from exc
        self._timers.arrived()
        return piece

    async def read(self, limit: int) -> bytes:
        """
        Return the whole body.

        Raises:
            UpstreamProtocolError: it is longer than `limit` bytes, or the connection broke.
        """
        body = await self.read_at_most(limit + 1)
        if len(body) > limit:
            raise UpstreamProtocolError(f"The answer of the model server is over the limit of {limit} bytes.")
        return body

    async def read_at_most(self, limit: int) -> bytes:
        """Return the body's first `limit` bytes."""
        body = bytearray()
        while len(body) < limit and (piece := await self.read_some()):
            body += piece
        return bytes(body[:limit])

    async def settle(self) -> None:
        """Wait a moment for the end of an answer that is complete, so that its connection can be used again."""
        if self._response.content.at_eof():
            return
        try:
            async with asyncio.timeout(_SETTLE_S):
                while await self._response.content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            self.close()

    def close(self) -> None:
        """Close the connection now, unless the answer has been read to its end."""
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


class Upstream:
    """The model server at `config.vllm_base`, which must not be empty. `open()` before use, `close()` after."""

    def __init__(self, config: Config) -> None:
        base = URL(config.vllm_base)
        self._chat_url = base.joinpath("v1/chat/completions")
        self._models_url = base.joinpath("v1/models")
        self._health_url = base.joinpath("health")
        self._config = config
        self.host = f"{base.host_subcomponent}:{base.port}"
        self._limits = Limits(
            first_byte_s=config.first_byte_timeout_s,
            between_bytes_s=config.between_bytes_timeout_s,
            total_s=config.timeout_s or math.inf,
        )
        self._headers = CIMultiDict(
            {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"devstral-proxy/{__version__}"}
        )
        if config.vllm_api_key:
            self._headers["Authorization"] = f"Bearer {config.vllm_api_key}"

    async def open(self) -> None:
        """Create the pools; connections are made when they are needed."""
        pool_idle_s, limit = self._config.pool_idle_s, self._config.max_connections
        self._pool = self._session(_Connector(limit=limit, keepalive_timeout=pool_idle_s))
        self._fresh = self._session(_Connector(limit=limit, force_close=True))

    async def close(self) -> None:
        """Close every connection, also those in use."""
        await self._pool.close()
        await self._fresh.close()

    def send(
        self, request: UpstreamRequest, request_id: str, traceparent: str | None = None
    ) -> AbstractAsyncContextManager[Answer]:
        """
        Ask for a completion: `async with upstream.send(...) as answer`.

        The connection is closed on leaving, unless the answer has been read to its end.

        Raises:
            UpstreamError: on entering or inside, by cause, see proxy/errors.py.
        """
        headers = self._headers_for(request_id, traceparent)
        headers[_CONTENT_LENGTH] = str(len(request.body))
        return self._exchange("POST", self._chat_url, headers, request.body, self._limits)

    def models(self, request_id: str, traceparent: str | None = None) -> AbstractAsyncContextManager[Answer]:
        """Ask for the list of models, under the same rules as `send()`."""
        return self._exchange("GET", self._models_url, self._headers_for(request_id, traceparent), None, self._limits)

    async def is_reachable(self) -> bool:
        """
        Whether the model server answers /health at all, and not with a 5xx; within two seconds.

        It does not wait for a place in the pool: a proxy that is busy is ready.
        """
        limits = Limits(first_byte_s=_PROBE_S, between_bytes_s=_PROBE_S, total_s=_PROBE_S)
        try:
            async with (
                Timers(limits),
                self._fresh.get(self._health_url, headers=self._headers, allow_redirects=False) as response,
            ):
                return response.status < 500
        except (UpstreamError, aiohttp.ClientError, OSError):
            return False

    def _headers_for(self, request_id: str, traceparent: str | None) -> CIMultiDict[str]:
        headers = self._headers.copy()
        headers[_REQUEST_ID] = request_id
        if traceparent is not None:
            headers[_TRACEPARENT] = traceparent
        return headers

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            # `total` and `sock_read` cost a timer per request and per event: timers.py does their work.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            trust_env=False,
        )

    @asynccontextmanager
    async def _exchange(
        self, method: str, url: URL, headers: CIMultiDict[str], body: bytes | None, limits: Limits
    ) -> AsyncIterator[Answer]:
        async with Timers(limits) as timers:
            try:
                response = await self._start(method, url, headers, body)
            except (aiohttp.ClientError, OSError) as exc:
                raise self._failure(exc) from exc
            answer = Answer(response, timers, self.host)
            try:
                yield answer
            finally:
                answer.close()

    async def _start(
        self, method: str, url: URL, headers: CIMultiDict[str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        payload = None if body is None else _Json(body)
        _reused.set(False)
        try:
            return await self._pool.request(method, url, data=payload, headers=headers, allow_redirects=False)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
            if isinstance(exc, aiohttp.ClientConnectorError) or not _reused.get():
                raise
            if isinstance(exc, aiohttp.ServerDisconnectedError) and not isinstance(exc.message, str):
                raise  # part of an answer had come
        payload = None if body is None else _Json(body)
        return await self._fresh.request(method, url, data=payload, headers=headers, allow_redirects=False)

    def _failure(self, exc: Exception) -> UpstreamError:
        """Say in this project's words what happened before the answer's status line had come."""
        if isinstance(exc, aiohttp.ConnectionTimeoutError):
            return UpstreamTimeout(
                f"connect_timeout_s: no connection to the model server at {self.host} "
                f"within {self._config.connect_timeout_s:g} s"
            )
        if isinstance(exc, aiohttp.ClientConnectorError):
            return UpstreamUnavailable(f"Cannot connect to the model server at {self.host}: {_reason(exc)}.")
        if isinstance(exc, aiohttp.ClientResponseError):
            return UpstreamProtocolError(f"The model server at {self.host} did not answer in HTTP.")
        return UpstreamProtocolError(f"The model server at {self.host} closed the connection without an answer.")


def _reason(exc: aiohttp.ClientConnectorError) -> str:
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "the name cannot be resolved"
    if isinstance(exc, aiohttp.ClientSSLError):
        return "TLS failed"
    return os.strerror(exc.errno).lower() if exc.errno else "no connection"


#: Whether the connection of this task's last request had been used before.
_reused: ContextVar[bool] = ContextVar("reused")


class _Connector(aiohttp.TCPConnector):
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
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        if protocol is not None:
            _reused.set(protocol in self._known)
            if protocol not in self._known and protocol.closed is not None:
                # asyncio logs an exception that nobody asked for, and idle connections end in one now and then
                protocol.closed.add_done_callback(asyncio.Future.exception)
            self._known.add(protocol)
        return connection


class _Json(aiohttp.Payload):
    """A body of bytes that is ready to go. aiohttp's own BytesPayload warns above 1 MiB, where agents' bodies are."""

    _value: bytes

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/json")

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        await writer.write(self._value)
