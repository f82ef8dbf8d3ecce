"""The direct way of an exchange: a connection of the session's pool, and our own `Exchange` on it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Final

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from proxy.errors import UpstreamTimeout
from proxy.upstream.answer import Limits
from proxy.upstream.exchange import Exchange
from proxy.upstream.route import Asking, Server, Sessions, Target
from proxy.upstream.sweep import Sweep
from proxy.upstream.timers import twice_if_stalled


class DirectRoute:
    """See `Route`. What requests have in common is written once."""

    def __init__(self, sessions: Sessions, server: Server, target: Target, sweep: Sweep) -> None:
        self._pool = _connector(sessions.pool)
        self._fresh = _connector(sessions.fresh)
        self._server = server
        self._sweep = sweep
        self._loop = asyncio.get_running_loop()
        # What connect() asks of a request: where it goes. It is never sent.
        self._destination = _Destination(
            target.method, target.url, loop=self._loop, session=sessions.pool, server_hostname=target.server_name
        )
        self._waits: dict[float, aiohttp.ClientTimeout] = {}
        headers = {"Host": self._destination.headers["Host"], **target.headers}
        lines = [
            f"{target.method} {target.url.raw_path_qs} HTTP/1.1",
            *(f"{name}: {headers[name]}" for name in headers),
        ]
        self._head = "\r\n".join([*lines, "x-request-id: "]).encode("latin-1")

    def send(self, asking: Asking) -> AbstractAsyncContextManager[Exchange]:
        """See `Route`."""
        sending = Sending(self, asking)
        return sending if asking.limits.total_s == math.inf else self._in_time(sending, asking)

    @asynccontextmanager
    async def _in_time(self, sending: "Sending", asking: Asking) -> AsyncIterator[Exchange]:
        """End the block when it takes too long in total, whoever it waits for: a client may read nothing."""
        total_s = asking.limits.total_s
        try:
            async with asyncio.timeout(max(0.0, total_s - asking.passed_s)), sending as exchange:
                yield exchange
        except TimeoutError:
            raise UpstreamTimeout(f"timeout_s: the request took longer than {total_s:g} s") from None

    async def ask(self, asking: Asking) -> Exchange:
        """
        Send, and return the answer when its head has come.

        Raises:
            UpstreamError: by cause.
        """
        exchange, connection = await self._take(self._fresh if asking.is_fresh else self._pool, asking.limits)
        is_answered = False
        try:
            asking.leg.connected_at = time.perf_counter()
            exchange.ask(connection, self._head_of(asking), asking.body or b"", asking.limits, asking.leg)
            await exchange.begun()
            is_answered = True
        finally:
            if not is_answered:
                exchange.close()
        return exchange

    def _head_of(self, asking: Asking) -> bytes:
        leg = asking.leg
        trace = "" if leg.traceparent is None else f"\r\ntraceparent: {leg.traceparent}"
        if leg.tracestate is not None:
            trace = f"{trace}\r\ntracestate: {leg.tracestate}"
        if asking.body is None:
            return self._head + f"{asking.request_id}{trace}\r\n\r\n".encode("latin-1")
        of_body = f"\r\nContent-Length: {len(asking.body)}\r\nContent-Type: application/json\r\n\r\n"
        return self._head + f"{asking.request_id}{trace}{of_body}".encode("latin-1")

    async def _take(self, connector: aiohttp.BaseConnector, limits: Limits) -> tuple[Exchange, Connection]:
        """Return an idle connection with its protocol."""
        started_at = self._loop.time()
        try:
            connect = partial(connector.connect, self._destination, [], self._waits_for(limits.first_byte_s))
            connection = await twice_if_stalled(connect, self._server.connect_timeout_s)
        except TimeoutError:
            raise self._too_late(self._loop.time() - started_at, limits) from None
        except (aiohttp.ClientError, OSError) as exc:
            raise self._server.failure(exc) from exc
        handler, transport = connection.protocol, connection.transport
        if handler is None or transport is None:
            connection.close()
            raise self._server.no_answer()
        exchange = transport.get_protocol()
        if type(exchange) is Exchange:
            return exchange, connection
        if handler.should_close:  # bytes came before the request went out, and aiohttp's protocol has them
            connection.close()
            raise self._server.not_http()
        exchange = Exchange(handler, transport, self._server, self._sweep)
        transport.set_protocol(exchange)
        return exchange, connection

    def _waits_for(self, first_byte_s: float) -> aiohttp.ClientTimeout:
        """`connect` bounds the wait for a place in the pool, and is only set up when there is one."""
        waits = self._waits.get(first_byte_s)
        if waits is None:
            if len(self._waits) >= _MOST_WAITS:
                self._waits.clear()
            waits = self._waits[first_byte_s] = aiohttp.ClientTimeout(
                total=None, connect=first_byte_s, sock_connect=self._server.connect_timeout_s
            )
        return waits

    def _too_late(self, waited_s: float, limits: Limits) -> UpstreamTimeout:
        if waited_s >= limits.first_byte_s:
            limit = limits.first_byte_s
            return UpstreamTimeout(f"first_byte_timeout_s: the model server was silent for {limit:g} s")
        return self._server.cannot_connect_in_time()


#: A request's header may name any limit: so many are remembered.
_MOST_WAITS: Final = 64


class Sending:
    """One exchange. The connection is closed on leaving, unless the answer has been read to its end."""

    __slots__ = ("_asking", "_connection", "_exchange", "_route")

    def __init__(self, route: DirectRoute, asking: Asking) -> None:
        self._route = route
        self._asking = asking

    async def __aenter__(self) -> Exchange:
        self._exchange = await self._route.ask(self._asking)
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
