"""Fixtures for tests that need the proxy itself: on a free port, on the loop it is served with, its log at hand."""

import asyncio
import itertools
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
import uvloop

from proxy.config import Config
from proxy.demo import DemoUpstream
from proxy.edge.listener import listening
from proxy.edge.routes import Edge
from proxy.edge.server import opened
from proxy.observe.logs import LIBRARIES, configure_logs
from proxy.process.serve import new_metrics
from proxy.upstream.answer import Answer, Limits
from proxy.upstream.replica import Sight
from proxy.upstream.route import Asking, Leg
from tests.fakes import until
from tests.installed import installed as installed


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Asynchronous tests run on uvloop, as the proxy does."""
    return {"uvloop": uvloop.new_event_loop}


#: Which shortcuts the tests' proxies take, where a test does not say: `make test-plain` runs them without any.
SHORTCUTS: Any = os.environ.get("TEST_SHORTCUTS", Config().shortcuts)


class Log:
    """The proxy's own log, as it is written in production."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def text(self) -> str:
        return self._path.read_text(encoding="utf-8")

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the fields of every line with this event name."""
        return [line for line in map(json.loads, self.text.splitlines()) if line["event"] == event]

    async def line(self, event: str = "request") -> dict[str, Any]:
        """Return the first such line, which is written just after the client has its answer."""
        await until(lambda: self.lines(event))
        return self.lines(event)[0]


class Client:
    """The shortest way to an exchange with an upstream: `async with client.models("id") as answer`."""

    def __init__(self, edge: Edge) -> None:
        self.connections = edge.pool.replicas[0].connections
        config = edge.config
        self._limits = Limits(first_byte_s=config.first_byte_timeout_s, between_bytes_s=config.between_bytes_timeout_s)

    def models(self, request_id: str) -> AbstractAsyncContextManager[Answer]:
        return self.connections.models(Asking(None, request_id, self._limits, Leg()))


class Proxy:
    """A running proxy: `url`, `log`, `edge`, and a client `session` for it."""

    def __init__(self, port: int, edge: Edge, log: Log, session: aiohttp.ClientSession) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.edge = edge
        self.log = log
        self.session = session

    def chat(self, **fields: Any) -> Any:
        """Ask for a chat completion: `async with proxy.chat(stream=True) as response`."""
        body = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]} | fields
        return self.session.post(f"{self.url}/v1/chat/completions", json=body)

    @property
    def client(self) -> Client:
        return Client(self.edge)

    async def raw(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send bytes on a connection of their own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        await writer.drain()
        return reader, writer


@pytest_asyncio.fixture
async def demo() -> AsyncIterator[DemoUpstream]:
    """The embedded demo upstream, which does not take its time."""
    upstream = DemoUpstream(chunk_delay_s=0)
    await upstream.start()
    yield upstream
    await upstream.close()


StartProxy = Callable[..., Awaitable[Proxy]]


@pytest_asyncio.fixture
async def start_proxy(tmp_path: Path) -> AsyncIterator[StartProxy]:
    """
    `await start_proxy(upstream.url, read_timeout_s=0.1)`: a proxy for that upstream, stopped after the test.

    It has looked at each upstream's /health once, and looks again where a test sets `health_interval_s`.
    """
    numbers = itertools.count()

    async def started(vllm_base: str, **settings: Any) -> Proxy:
        path = tmp_path / f"proxy-{next(numbers)}.log"
        defaults = Config(
            vllm_base=vllm_base,
            log_file=str(path),
            debug=True,
            shortcuts=SHORTCUTS,
            profile="vllm-mistral-tokenizer",
            health_interval_s=3600,
        )
        config = msgspec.structs.replace(defaults, **settings)
        edge = await running.enter_async_context(opened(config, configure_logs(config), new_metrics()))
        await until(lambda: all(replica.sight is not Sight.UNSEEN for replica in edge.pool.replicas))
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        await running.enter_async_context(listening(edge, [bound]))
        timeout = aiohttp.ClientTimeout(total=20)
        session = await running.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        return Proxy(port, edge, Log(path), session)

    with libraries_restored():
        async with AsyncExitStack() as running:
            yield started


@contextmanager
def libraries_restored() -> Iterator[None]:
    """`configure_logs` routes the libraries' loggers to the proxy's log; undo it afterwards."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def unused_port(unused_tcp_port: int) -> int:
    """A port that nothing listens on."""
    return unused_tcp_port
