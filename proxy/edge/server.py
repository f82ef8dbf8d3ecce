"""
The client edge: the application, and the life of the process that serves it.

    start -> accepting --signal--> draining --nothing runs, second signal or drain_timeout_s--> ended
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import msgspec
from aiohttp import http_parser, web
from structlog.typing import FilteringBoundLogger

from proxy import __version__
from proxy.config import Config
from proxy.edge.boundary import Connection, guard
from proxy.edge.call import Call
from proxy.edge.health import Readiness
from proxy.edge.in_flight import InFlight
from proxy.edge.routes import Edge, dispatch
from proxy.observe.logs import configure_logs
from proxy.translate.profile import build_profile
from proxy.upstream.client import Upstream

#: Like nginx's keepalive_timeout. It is also how long a client may take over its request's headers.
_CLIENT_IDLE_S: Final = 75.0
#: Arbitrary: how long requests that were cut off may take to tell their clients.
_FAREWELL_S: Final = 6.0
#: Arbitrary: how long a connection may take to close when the process ends. No request runs on it by then.
_LINGER_S: Final = 1.0
_BACKLOG: Final = 2048


EDGE: Final = web.AppKey("edge", Edge)

# --- the application


def create_app(config: Config, logger: FilteringBoundLogger) -> web.Application:
    """
    Return the application for one upstream, which `config.vllm_base` must name.

    Raises:
        ValueError: the profile or its options do not exist.
    """
    profile = build_profile(config.profile, config.options)
    app = web.Application(client_max_size=config.max_body_bytes)

    async def opened(app: web.Application) -> AsyncIterator[None]:
        upstream = Upstream(config)
        await upstream.open()
        app[EDGE] = Edge(config, logger, profile, upstream, Readiness(upstream), InFlight())
        yield
        await upstream.close()

    app.cleanup_ctx.append(opened)
    app.router.add_route("*", "/{path:.*}", _handle, expect_handler=_answer_expect_later)
    return app


async def _handle(request: web.Request) -> web.StreamResponse:
    edge = request.app[EDGE]
    return await guard(partial(dispatch, edge), Call(request), edge.in_flight, edge.logger)


async def _answer_expect_later(_request: web.Request) -> None:
    """Send no `100 Continue` yet: the one who reads the body knows whether it will be read."""


async def start(app: web.Application, host: str, port: int) -> tuple[web.AppRunner, asyncio.Server]:
    """
    Listen on `host` and `port` (0: any free one). The caller closes the server, then cleans up the runner.

    Raises:
        OSError: the address cannot be bound.
    """
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=_LINGER_S)
    await runner.setup()
    manager, logger = runner.server, app[EDGE].logger
    assert manager is not None
    loop = asyncio.get_running_loop()

    def connection() -> Connection:
        return Connection(
            manager,
            proxy_logger=logger,
            loop=loop,
            keepalive_timeout=_CLIENT_IDLE_S,
            access_log=None,
            auto_decompress=False,
        )

    try:
        return runner, await loop.create_server(connection, host, port, backlog=_BACKLOG)
    except OSError:
        await runner.cleanup()
        raise


# --- the process


async def serve(config: Config) -> int:
    """
    Serve until SIGTERM or SIGINT, finish what runs, and return the process's exit code.

    The first signal stops accepting and waits up to `drain_timeout_s` for running requests; the second ends them now.
    """
    logger = configure_logs(config)
    async with AsyncExitStack() as stack:
        is_demo = not config.vllm_base
        if is_demo:
            config = msgspec.structs.replace(config, vllm_base=await _start_demo(stack))
        app = create_app(config, logger)
        try:
            runner, server = await start(app, config.host, config.port)
        except OSError as exc:
            print(f"devstral-proxy: cannot listen on {config.host}:{config.port}: {exc.strerror}", file=sys.stderr)
            return os.EX_UNAVAILABLE
        stack.push_async_callback(runner.cleanup)
        signals = _signals()
        _announce(app[EDGE], server.sockets[0].getsockname()[1], is_demo=is_demo)
        received = await signals.get()
        server.close()
        await _drain(app[EDGE], signals, received)
        return 128 + signal.SIGINT if received == signal.SIGINT else os.EX_OK


async def _start_demo(stack: AsyncExitStack) -> str:
    from proxy.demo import DemoUpstream

    demo = DemoUpstream()
    await demo.start()
    stack.push_async_callback(demo.close)
    return demo.url


def _signals() -> asyncio.Queue[signal.Signals]:
    """Return a queue that receives every SIGTERM and SIGINT from now on."""
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, received.put_nowait, number)
    return received


def _announce(edge: Edge, port: int, *, is_demo: bool) -> None:
    """Say where the proxy listens: one line for people on stderr, one for machines in the log."""
    config = edge.config
    host = f"[{config.host}]" if ":" in config.host else config.host
    upstream = (
        "the built-in demo model, not a real one (for vLLM: VLLM_BASE=http://HOST:8000 make run)"
        if is_demo
        else config.vllm_base
    )
    print(
        f"devstral-proxy {__version__}: http://{host}:{port}/v1 -> {upstream}, profile {edge.profile.name}",
        file=sys.stderr,
        flush=True,
    )
    has_c_parser = http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy
    edge.logger.info(
        "startup",
        version=__version__,
        host=config.host,
        port=port,
        upstream="demo" if is_demo else config.vllm_base,
        profile=edge.profile.name,
        pid=os.getpid(),
        c_parser=has_c_parser,
    )


async def _drain(edge: Edge, signals: asyncio.Queue[signal.Signals], received: signal.Signals) -> None:
    in_flight = edge.in_flight
    in_flight.is_draining = True
    edge.logger.info("draining", signal=received.name, in_flight=len(in_flight))
    done, hurry = asyncio.ensure_future(in_flight.wait()), asyncio.ensure_future(signals.get())
    await asyncio.wait({done, hurry}, timeout=edge.config.drain_timeout_s, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    cut_off = len(in_flight)
    in_flight.cut_off()
    await asyncio.wait({done}, timeout=_FAREWELL_S)
    done.cancel()
    edge.logger.info("shutdown", cut_off=cut_off)
