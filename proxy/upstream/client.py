"""
The upstream edge: one pool of connections to the model server, and everything that can go wrong on them.

Only an `UpstreamRequest` leaves through `send()`, and only `translate_request` makes one. Headers are built here and
never copied from the client: no Authorization, no Cookie, no hop-by-hop header of a client can reach the model server.
aiohttp's exceptions are turned into this project's own where the read happens, inside a stream too.
"""

import math
from contextlib import AbstractAsyncContextManager
from typing import Final

import aiohttp
from yarl import URL

from proxy import __version__
from proxy.config import Config
from proxy.errors import UpstreamError
from proxy.translate.request import UpstreamRequest
from proxy.upstream.answer import Answer, Limits
from proxy.upstream.direct import DirectRoute
from proxy.upstream.plain import Connector, PlainRoute
from proxy.upstream.route import Route, Server, Sessions, Target
from proxy.upstream.shortcuts import takes
from proxy.upstream.sweep import Sweep
from proxy.upstream.timers import Timers

#: Arbitrary: the longest that a probe may take.
_PROBE_S: Final = 2.0


class Upstream:
    """The model server at `config.vllm_base`, which must not be empty. `open()` before use, `close()` after."""

    def __init__(self, config: Config, sweep: Sweep) -> None:
        self._config = config
        self._sweep = sweep
        self._is_direct = takes(config, "upstream")
        self._base = URL(config.vllm_base)
        self._server = Server(f"{self._base.host_subcomponent}:{self._base.port}", config.connect_timeout_s)
        self._limits = Limits(
            first_byte_s=config.first_byte_timeout_s,
            between_bytes_s=config.between_bytes_timeout_s,
            total_s=config.timeout_s or math.inf,
        )
        self._headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"devstral-proxy/{__version__}"}
        if config.vllm_api_key:
            self._headers["Authorization"] = f"Bearer {config.vllm_api_key}"

    async def open(self) -> None:
        """Create the pools; connections are made when they are needed."""
        limit, pool_idle_s = self._config.max_connections, self._config.pool_idle_s
        make_pool = aiohttp.TCPConnector if self._is_direct else Connector
        self._sessions = Sessions(
            pool=self._session(make_pool(limit=limit, keepalive_timeout=pool_idle_s)),
            fresh=self._session(make_pool(limit=limit, force_close=True)),
        )
        self._chat = self._route("POST", "v1/chat/completions")
        self._models = self._route("GET", "v1/models")

    async def close(self) -> None:
        """Close every connection, also those in use."""
        await self._sessions.pool.close()
        await self._sessions.fresh.close()

    def send(
        self, request: UpstreamRequest, request_id: str, traceparent: str | None = None
    ) -> AbstractAsyncContextManager[Answer]:
        """
        Ask for a completion: `async with upstream.send(...) as answer`.

        The connection is closed on leaving, unless the answer has been read to its end.

        Raises:
            UpstreamError: on entering or inside, by cause, see proxy/errors.py.
        """
        return self._chat.send(request.body, request_id, traceparent)

    def models(self, request_id: str, traceparent: str | None = None) -> AbstractAsyncContextManager[Answer]:
        """Ask for the list of models, under the same rules as `send()`."""
        return self._models.send(None, request_id, traceparent)

    async def is_reachable(self) -> bool:
        """
        Whether the model server answers /health at all, and not with a 5xx; within two seconds.

        It does not wait for a place in the pool: a proxy that is busy is ready.
        """
        limits = Limits(first_byte_s=_PROBE_S, between_bytes_s=_PROBE_S, total_s=_PROBE_S)
        try:
            async with (
                Timers(limits),
                self._sessions.fresh.get(
                    self._base.joinpath("health"), headers=self._headers, allow_redirects=False
                ) as response,
            ):
                return response.status < 500
        except (UpstreamError, aiohttp.ClientError, OSError):
            return False

    def _route(self, method: str, path: str) -> Route:
        target = Target(method, self._base.joinpath(path), self._headers)
        if self._is_direct:
            return DirectRoute(self._sessions, self._server, target, self._limits, self._sweep)
        return PlainRoute(self._sessions, self._server, target, self._limits)

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
