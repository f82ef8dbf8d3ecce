"""
The direct way of an exchange: a connection of the session's pool, and our own `Exchange` on it.

Retried as in plain.py, and for the same reason.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Final

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from proxy.errors import UpstreamTimeout
from proxy.upstream.answer import Limits
from proxy.upstream.exchange import Exchange, Stale
from proxy.upstream.route import Server, Sessions, Target
from proxy.upstream.sweep import Sweep


class DirectRoute:
    """See `Route`. What requests have in common is written once."""

    def __init__(self, sessions: Sessions, server: Server, target: Target, limits: Limits, sweep: Sweep) -> None:
        self._pool = _connector(sessions.pool)
        self._fresh = _connector(sessions.fresh)
        self._server = server
        self._limits = limits
        self._sweep = sweep
        self._loop = asyncio.get_running_loop()
        # What connect() asks of a request: where it goes. It is never sent.
        self._destination = _Destination(target.method, target.url, loop=self._loop, session=sessions.pool)
        # `connect` bounds the wait for a place in the pool, and is only set up when there is one.
        self._waits = aiohttp.ClientTimeout(
            total=None, connect=limits.first_byte_s, sock_connect=server.connect_timeout_s
        )
        headers = {"Host": self._destination.headers["Host"], **target.headers}
        lines = [
            f"{target.method} {target.url.raw_path_qs} HTTP/1.1",
            *(f"{name}: {headers[name]}" for name in headers),
        ]
        self._head = "\r\n".join([*lines, "x-request-id: "]).encode("latin-1")

    def send(
        self, body: bytes | None, request_id: str, traceparent: str | None
    ) -> AbstractAsyncContextManager[Exchange]:
        """See `Route`."""
        sending = self._sending(body, request_id, traceparent)
        return sending if self._limits.total_s == math.inf else self._in_time(sending)

    @asynccontextmanager
    async def _in_time(self, sending: "Sending") -> AsyncIterator[Exchange]:
        """End the block when it takes too long in total, whoever it waits for: a client may read nothing."""
        try:
            async with asyncio.timeout(self._limits.total_s), sending as exchange:
                yield exchange
        except TimeoutError:
            raise UpstreamTimeout(f"timeout_s: the request took longer than {self._limits.total_s:g} s") from None

    def _sending(self, body: bytes | None, request_id: str, traceparent: str | None) -> "Sending":
        trace = "" if traceparent is None else f"\r\ntraceparent: {traceparent}"
        if body is None:
            return Sending(self, self._head + f"{request_id}{trace}\r\n\r\n".encode("latin-1"), b"")
        of_body = f"\r\nContent-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n"
        return Sending(self, self._head + f"{request_id}{trace}{of_body}".encode("latin-1"), body)

    async def ask(self, head: bytes, body: bytes) -> Exchange:
        """
        Send, and return the answer when its head has come.

        Raises:
            UpstreamError: by cause.
        """
        connector = self._pool
        while True:
            exchange, connection, is_used = await self._take(connector)
            is_answered = False
            try:
                exchange.ask(connection, head, body)
                await exchange.begun()
                is_answered = True
                return exchange
            except Stale:
                if not is_used:
                    raise
                connector = self._fresh
            finally:
                if not is_answered:
                    exchange.close()

    async def _take(self, connector: aiohttp.BaseConnector) -> tuple[Exchange, Connection, bool]:
        """Return an idle connection with its protocol, and whether it has been used before."""
        started_at = self._loop.time()
        try:
            connection = await connector.connect(self._destination, [], self._waits)
        except TimeoutError:
            raise self._too_late(self._loop.time() - started_at) from None
        except (aiohttp.ClientError, OSError) as exc:
            raise self._server.failure(exc) from exc
        handler, transport = connection.protocol, connection.transport
        if handler is None or transport is None:
            connection.close()
            raise self._server.no_answer()
        exchange = transport.get_protocol()
        if type(exchange) is Exchange:
            return exchange, connection, True
        if handler.should_close:  # bytes came before the request went out, and aiohttp's protocol has them
            connection.close()
            raise self._server.not_http()
        exchange = Exchange(handler, transport, self._server, self._limits, self._sweep)
        transport.set_protocol(exchange)
        return exchange, connection, False

    def _too_late(self, waited_s: float) -> UpstreamTimeout:
        if waited_s >= self._limits.first_byte_s:
            limit = self._limits.first_byte_s
            return UpstreamTimeout(f"first_byte_timeout_s: the model server was silent for {limit:g} s")
        return self._server.cannot_connect_in_time()


class Sending:
    """One exchange. The connection is closed on leaving, unless the answer has been read to its end."""

    __slots__ = ("_body", "_connection", "_exchange", "_head", "_route")

    def __init__(self, route: DirectRoute, head: bytes, body: bytes) -> None:
        self._route = route
        self._head = head
        self._body = body

    async def __aenter__(self) -> Exchange:
        self._exchange = await self._route.ask(self._head, self._body)
        self._connection = self._exchange.connection
        return self._exchange

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._exchange.connection is self._connection:  # else it was closed, and may serve another request now
            self._exchange.close()


class _Destination(aiohttp.ClientRequest):
    """A request that only says where it goes. Its key in the pool is made once: aiohttp makes it for each request."""

    def __init__(self, method: str, url: URL, **options: object) -> None:
        super().__init__(method, url, **options)  # type: ignore[arg-type]
        self._key: Final = super().connection_key

    @property
    def connection_key(self) -> aiohttp.client_reqrep.ConnectionKey:
        return self._key


def _connector(session: aiohttp.ClientSession) -> aiohttp.BaseConnector:
    connector = session.connector
    assert connector is not None
    return connector
