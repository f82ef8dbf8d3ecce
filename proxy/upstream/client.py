"""
The upstream edge: the connections to one replica, and everything that can go wrong on them.

Only an `UpstreamRequest` leaves through `send()`, and only `translate_request` makes one. Headers are built here and
never copied from the client: no Authorization, no Cookie, no hop-by-hop header of a client can reach the model server.
aiohttp's exceptions are turned into this project's own where the read happens, inside a stream too.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
from yarl import URL

from proxy import __version__
from proxy.config import Backend, Config
from proxy.translate.request import UpstreamRequest, token_question
from proxy.upstream.answer import Answer, Limits, read_at_most
from proxy.upstream.direct import DirectRoute
from proxy.upstream.plain import Connector, PlainRoute, UnixConnector
from proxy.upstream.route import Asking, Leg, Progress, Route, Server, Sessions, Target
from proxy.upstream.shortcuts import takes
from proxy.upstream.sweep import Sweep

#: Arbitrary: the longest that a question about health or abilities may take.
_PROBE_S: Final = 2.0
_PROBE: Final = Limits(first_byte_s=_PROBE_S, between_bytes_s=_PROBE_S, total_s=_PROBE_S)
#: Far above a list of models or a short prompt's tokens.
_LONGEST_PROBE: Final = 1024 * 1024


class Place(NamedTuple):
    """Where a replica is: the URL that is connected to, and the host that it is asked for, if that is another."""

    url: URL
    host: str | None = None
    socket: str | None = None


def place_of(backend: Backend, address: str | None = None) -> Place:
    """Return the place of a backend, or of one address of its name."""
    if backend.url.startswith("unix:"):
        return Place(URL("http://localhost"), None, backend.url.removeprefix("unix:"))
    url = URL(backend.url)
    if address is None:
        return Place(url)
    return Place(url.with_host(address), url.host)


def authorities(backends: Sequence[Backend]) -> Mapping[str, bytes]:
    """
    Return a digest of each `ca_file`, by path. Connections that were opened with another one are not to be kept.

    Raises:
        OSError: one cannot be read.
    """
    paths = {backend.ca_file for backend in backends if backend.ca_file}
    return {path: hashlib.sha256(Path(path).read_bytes()).digest() for path in paths}


class Connections:
    """The connections to one replica. `open()` before use, `close()` after."""

    def __init__(self, backend: Backend, place: Place, name: str, config: Config, sweep: Sweep) -> None:
        self.progress = Progress()
        self._backend = backend
        self._place = place
        self._config = config
        self._sweep = sweep
        self._is_direct = takes(config, "upstream")
        self._server = Server(name, config.connect_timeout_s, self.progress)
        self._headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"devstral-proxy/{__version__}"}
        if place.host is not None:
            self._headers["Host"] = place.host if place.url.is_default_port() else f"{place.host}:{place.url.port}"
        if backend.api_key:
            self._headers["Authorization"] = f"Bearer {backend.api_key}"

    async def open(self) -> None:
        """
        Create the pools; connections are made when they are needed.

        Raises:
            OSError, ValueError: the file of certificates cannot be used.
        """
        context = await asyncio.to_thread(_trusting, self._backend.ca_file) if self._backend.ca_file else None
        self._sessions = Sessions(
            pool=self._session(self._connector(context, keepalive_timeout=self._config.pool_idle_s)),
            fresh=self._session(self._connector(context, force_close=True)),
        )
        self._chat = self._route("POST", "v1/chat/completions")
        self._models = self._route("GET", "v1/models")
        self._tokenize = self._route("POST", "tokenize")

    async def close(self) -> None:
        """Close every connection, also those in use."""
        await self._sessions.pool.close()
        await self._sessions.fresh.close()

    def send(self, request: UpstreamRequest, asking: Asking) -> AbstractAsyncContextManager[Answer]:
        """
        Ask for a completion: `async with connections.send(...) as answer`. `asking.body` is filled in here.

        The connection is closed on leaving, unless the answer has been read to its end.

        Raises:
            UpstreamError: on entering or inside, by cause, see proxy/errors.py.
        """
        return self._chat.send(Asking(request.body, *asking[1:]))

    def tokenize(self, request: UpstreamRequest, asking: Asking) -> AbstractAsyncContextManager[Answer]:
        """Ask how many tokens a request's prompt has, under the same rules as `send()`."""
        return self._tokenize.send(Asking(token_question(request), *asking[1:]))

    def models(self, asking: Asking) -> AbstractAsyncContextManager[Answer]:
        """Ask for the list of models, under the same rules as `send()`."""
        return self._models.send(asking)

    async def is_healthy(self) -> bool:
        """
        Whether the replica answers /health at all, and not with a 5xx; within two seconds.

        It does not wait for a place in the pool: a proxy that is busy is ready.

        Raises:
            UpstreamError: nothing listens there.
        """
        status, _ = await self.question("GET", "health", None)
        return status < 500

    async def question(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """
        Ask something small on a connection of its own; return the status and the body. Redirects are not followed.

        Raises:
            UpstreamError: by cause; every timer is two seconds.
        """
        target = Target(method, self._place.url.joinpath(path.lstrip("/")), self._headers, self._place.host)
        route = PlainRoute(self._sessions, self._server, target)
        async with route.send(Asking(body, "probe", _PROBE, Leg(), is_fresh=True)) as answer:
            return answer.status, await read_at_most(answer, _LONGEST_PROBE)

    def _route(self, method: str, path: str) -> Route:
        target = Target(method, self._place.url.joinpath(path), self._headers, self._place.host)
        if self._is_direct:
            return DirectRoute(self._sessions, self._server, target, self._sweep)
        return PlainRoute(self._sessions, self._server, target)

    def _connector(self, context: ssl.SSLContext | None, **options: float) -> aiohttp.BaseConnector:
        limit = self._config.max_connections
        if self._place.socket is not None:
            make_unix = aiohttp.UnixConnector if self._is_direct else UnixConnector
            return make_unix(path=self._place.socket, limit=limit, **options)  # type: ignore[arg-type]
        make_tcp = aiohttp.TCPConnector if self._is_direct else Connector
        return make_tcp(limit=limit, ssl=context or True, **options)  # type: ignore[arg-type]

    def _session(self, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            # `total` and `sock_read` cost a timer per request and per event: timers.py does their work.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
            trust_env=False,
        )


def _trusting(ca_file: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)
