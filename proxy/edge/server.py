"""The client edge: what every request may need, and the connections that requests come on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from aiohttp import web
from structlog.typing import FilteringBoundLogger

from proxy.config import Config
from proxy.edge.boundary import Connection, guard
from proxy.edge.call import Call
from proxy.edge.health import Readiness
from proxy.edge.in_flight import InFlight
from proxy.edge.routes import Edge, dispatch
from proxy.translate.profile import build_profile
from proxy.upstream.client import Upstream

#: Like nginx's keepalive_timeout. It is also how long a client may take over its request's headers.
_CLIENT_IDLE_S: Final = 75.0
#: Arbitrary: how long a connection may take to close when the process ends. No request runs on it by then.
_LINGER_S: Final = 1.0
_BACKLOG: Final = 2048


@asynccontextmanager
async def opened(config: Config, logger: FilteringBoundLogger) -> AsyncIterator[Edge]:
    """
    Open what requests need, for one upstream, which `config.vllm_base` must name.

    Raises:
        ValueError: the profile or its options do not exist.
    """
    upstream = Upstream(config)
    await upstream.open()
    try:
        yield Edge(
            config, logger, build_profile(config.profile, config.options), upstream, Readiness(upstream), InFlight()
        )
    finally:
        await upstream.close()


@asynccontextmanager
async def listening(edge: Edge, host: str, port: int, *, reuse_port: bool = False) -> AsyncIterator[asyncio.Server]:
    """
    Accept connections on `host` and `port` (0: any free one); close them all on leaving.

    Raises:
        OSError: the address cannot be bound.
    """
    loop = asyncio.get_running_loop()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await guard(partial(dispatch, edge), Call(request), edge.in_flight, edge.logger)

    def make_request(*parts: Any) -> web.BaseRequest:
        return web.BaseRequest(*parts, loop, client_max_size=edge.config.max_body_bytes)

    def make_connection() -> Connection:
        return Connection(
            manager,
            proxy_logger=edge.logger,
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
