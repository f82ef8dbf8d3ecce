"""The client edge: what every request may need, and the connections that requests come on."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from proxy.config import Config
from proxy.edge.admission import Admission
from proxy.edge.call import Call
from proxy.edge.connection import Connection
from proxy.edge.deadlines import Deadlines
from proxy.edge.edge import Edge
from proxy.edge.guard import guard
from proxy.edge.in_flight import InFlight
from proxy.observe.logs import Lines
from proxy.observe.metrics import Metrics
from proxy.upstream.health import Keeper
from proxy.upstream.pool import Pool
from proxy.upstream.shortcuts import takes
from proxy.upstream.sweep import Sweep

#: Like nginx's keepalive_timeout. It is also how long a client may take over its request's headers.
_CLIENT_IDLE_S: Final = 75.0
#: Arbitrary: how long a connection may take to close when the process ends. No request runs on it by then.
_LINGER_S: Final = 1.0
_BACKLOG: Final = 2048


@asynccontextmanager
async def opened(config: Config, logger: FilteringBoundLogger, metrics: Metrics) -> AsyncIterator[Edge]:
    """
    Open what requests need, for the upstreams that `config` names; there must be one.

    Raises:
        ConfigError, ValueError, OSError: the configuration cannot be used.
    """
    sweep = Sweep()
    translator = ThreadPoolExecutor(1, "translate")
    pool = Pool(sweep, logger.info, metrics.replicas)
    keeper = Keeper(pool)
    try:
        await pool.apply(config)
        keeper.start()
        yield Edge(
            config=config,
            logger=logger,
            lines=Lines(logger),
            metrics=metrics,
            pool=pool,
            admission=Admission(config, metrics),
            deadlines=Deadlines(config),
            in_flight=InFlight(),
            sweep=sweep,
            translator=translator,
        )
    finally:
        translator.shutdown(wait=False, cancel_futures=True)
        await keeper.close()
        await pool.close()


@asynccontextmanager
async def listening(edge: Edge, host: str, port: int, *, reuse_port: bool = False) -> AsyncIterator[asyncio.Server]:
    """
    Accept connections on `host` and `port` (0: any free one); close them all on leaving.

    Raises:
        OSError: the address cannot be bound.
    """
    loop = asyncio.get_running_loop()

    is_direct = takes(edge.config, "answer")

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await guard(edge, Call(request, is_direct=is_direct))

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
            loop=loop,
            keepalive_timeout=_CLIENT_IDLE_S,
            access_log=None,
            auto_decompress=False,
        )

    # Not web.Application: its router and its middlewares cost 6% of a short request, and routes.py has nine paths.
    manager = web.Server(handle, request_factory=make_request, handler_cancellation=True)
    server = await loop.create_server(make_connection, host, port, backlog=_BACKLOG, reuse_port=reuse_port)
    try:
        yield server
    finally:
        server.close()
        manager.pre_shutdown()
        await manager.shutdown(_LINGER_S)
