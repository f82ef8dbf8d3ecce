"""The connections that requests come on, with TLS or without."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

from proxy.config import is_loopback
from proxy.edge.call import Call
from proxy.edge.connection import Connection
from proxy.edge.edge import Edge
from proxy.edge.guard import guard
from proxy.edge.handshake import Door
from proxy.edge.routes import Dispatch, dispatch
from proxy.upstream.shortcuts import takes

#: Arbitrary: how long a connection may take to close when the process ends. No request runs on it by then.
_LINGER_S: Final = 1.0
_BACKLOG: Final = 2048


class Listener:
    """Accepts connections, and knows those that it has accepted."""

    def __init__(self, manager: web.Server, edge: Edge, context: ssl.SSLContext | None) -> None:
        self._manager = manager
        self._edge = edge
        self._context = context
        self._servers: list[asyncio.Server] = []
        self._doors: list[Door] = []

    async def add(self, make_connection: Callable[[], Connection], bound: socket.socket) -> None:
        """Listen on this socket too. It is closed by `close()`."""
        if self._context is None:
            loop = asyncio.get_running_loop()
            self._servers.append(await loop.create_server(make_connection, sock=bound, backlog=_BACKLOG))
            return
        door = Door(
            bound,
            self._context,
            make_connection,
            backlog=_BACKLOG,
            handshake_s=self._edge.config.header_timeout_s,
            logger=self._edge.logger,
        )
        self._doors.append(door)

    def use(self, context: ssl.SSLContext) -> None:
        """Agree on TLS by this context from now on; what has been agreed on stays. For a listener that began so."""
        for door in self._doors:
            door.context, door.handshake_s = context, self._edge.config.header_timeout_s

    def close(self) -> None:
        """Accept no more. Handshakes that have begun go on."""
        for server in self._servers:
            server.close()
        for door in self._doors:
            door.shut()

    def close_idle(self) -> None:
        """Close every connection on which nothing runs. A request whose body is still coming is one that runs."""
        for connection in self._manager.connections:
            # aiohttp has no public word for idle; by this one it closes connections that were so for too long.
            # `connection.close()` is not it: behind a waiting request it leaves the socket open, and behind one that
            # runs it throws away the rest of the body.
            waiter = connection._waiter
            if waiter is not None and not waiter.done():
                connection.force_close()

    async def finish(self) -> None:
        """Close everything."""
        self.close()
        for door in self._doors:
            await door.close()
        self._manager.pre_shutdown()
        await self._manager.shutdown(_LINGER_S)


@asynccontextmanager
async def listening(
    edge: Edge,
    sockets: Sequence[socket.socket],
    context: ssl.SSLContext | None = None,
    answers: Dispatch = dispatch,
) -> AsyncIterator[Listener]:
    """
    Accept connections on these bound sockets; close them and all connections on leaving.

    With a context they speak TLS, see tls.py. `answers` is what requests that come by them are given to.

    Raises:
        OSError: one cannot be listened on.
    """
    loop = asyncio.get_running_loop()

    is_direct = takes(edge.config, "answer")
    if answers is dispatch:
        edge.is_local = all(_is_local(bound) for bound in sockets)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await guard(edge, Call(request, edge.in_flight, is_direct=is_direct), answers)

    def make_request(*parts: Any) -> web.BaseRequest:
        message, payload, connection, writer, task = parts
        return web.BaseRequest(
            message, payload, connection, writer, task, loop, client_max_size=edge.config.max_body_bytes
        )

    def make_connection() -> Connection:
        return Connection(
            manager,
            lines=edge.lines,
            metrics=edge.metrics,
            sweep=edge.sweep,
            header_timeout_s=edge.config.header_timeout_s,
            write_timeout_s=edge.config.write_timeout_s,
            loop=loop,
            keepalive_timeout=edge.config.client_idle_s,
            access_log=None,
            auto_decompress=False,
        )

    # Not web.Application: its router and its middlewares cost 6% of a short request, and routes.py has few paths.
    manager = web.Server(handle, request_factory=make_request, handler_cancellation=True)
    listener = Listener(manager, edge, context)
    try:
        for bound in sockets:
            await listener.add(make_connection, bound)
        yield listener
    finally:
        await listener.finish()


def _is_local(bound: socket.socket) -> bool:
    """Whether nobody from another machine comes by this socket; of one with a path nothing is known."""
    return bound.family in (socket.AF_INET, socket.AF_INET6) and is_loopback(bound.getsockname()[0])
