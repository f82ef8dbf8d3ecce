"""
The life of the process that serves.

    start -> accepting --signal--> draining --nothing runs, second signal or drain_timeout_s--> ended
"""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from typing import Final

import msgspec
from aiohttp import http_parser

from proxy import __version__
from proxy.config import Config
from proxy.edge.routes import Edge
from proxy.edge.server import listening, opened
from proxy.observe.logs import configure_logs

#: Arbitrary: how long requests that were cut off may take to tell their clients.
_FAREWELL_S: Final = 6.0


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
        edge = await stack.enter_async_context(opened(config, logger))
        try:
            server = await stack.enter_async_context(listening(edge, config.host, config.port))
        except OSError as exc:
            print(f"devstral-proxy: cannot listen on {config.host}:{config.port}: {exc.strerror}", file=sys.stderr)
            return os.EX_UNAVAILABLE
        signals = _signals()
        _announce(edge, server.sockets[0].getsockname()[1], is_demo=is_demo)
        received = await signals.get()
        server.close()
        await _drain(edge, signals, received)
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
