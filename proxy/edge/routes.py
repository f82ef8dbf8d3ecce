"""
Which requests are answered, and by what.

Nothing is reached that is not in `ROUTES` or `PAGES`: a model server has routes that change its state (load an
adapter, sleep, pause), and none of them may open by accident. A trailing slash is dropped; nothing is redirected or
decoded.
"""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from aiohttp import web

from proxy import __version__
from proxy.edge import relay
from proxy.edge.authentication import let_in
from proxy.edge.call import Call
from proxy.edge.count import count_tokens
from proxy.edge.docs.pages import asset_routes, redoc, swagger_ui
from proxy.edge.edge import Edge
from proxy.edge.models import models
from proxy.edge.openapi import openapi_page
from proxy.edge.record import clipped
from proxy.edge.ui import page as ui
from proxy.errors import MethodNotAllowed, NotFound
from proxy.fronts.messages import COUNT_PATH, MESSAGES_PATHS
from proxy.fronts.table import FRONTS
from proxy.observe.metrics import CONTENT_TYPE

_encode = msgspec.json.Encoder().encode


Endpoint = Callable[[Edge, Call], Awaitable[web.StreamResponse]]


async def _chat(edge: Edge, call: Call) -> web.StreamResponse:
    return await relay.chat(edge, call)


async def _count(edge: Edge, call: Call) -> web.StreamResponse:
    return await count_tokens(edge, call)


async def _models(edge: Edge, call: Call) -> web.StreamResponse:
    return await models(edge, call)


async def _live(edge: Edge, call: Call) -> web.StreamResponse:
    """The loop turns: no I/O, so that a slow model server never gets the proxy restarted."""
    return await call.send(b'{"status":"ok"}')


async def _ready(edge: Edge, call: Call) -> web.StreamResponse:
    """There is a model server to work with, as far as is known: no I/O either, and not under the limits of chat."""
    status = _readiness(edge)
    return await call.send(_encode({"status": status}), status=200 if status == "ok" else 503)


async def _health(edge: Edge, call: Call) -> web.StreamResponse:
    """For people: the process is there, so 200, with what it knows."""
    summary = {
        "status": _readiness(edge),
        "version": __version__,
        "in_flight": len(edge.in_flight),
        "queued": edge.admission.queued,
        "replicas": [
            {
                "name": replica.name,
                "sight": replica.sight.value,
                "breaker": replica.breaker.state.name.lower(),
                "profile": replica.profile.name,
                "in_flight": replica.in_flight,
            }
            for replica in edge.pool.replicas
        ],
    }
    return await call.send(_encode(summary))


def _readiness(edge: Edge) -> str:
    if edge.in_flight.is_draining:
        return "draining"
    return "ok" if edge.pool.is_ready else "no_upstream"


async def _metrics(edge: Edge, call: Call) -> web.StreamResponse:
    """The sums over all workers."""
    return await call.send(await edge.metrics.render(), content_type=CONTENT_TYPE)


async def _version(edge: Edge, call: Call) -> web.StreamResponse:
    return await call.send(_encode({"name": "devstral-proxy", "version": __version__}))


async def _index(edge: Edge, call: Call) -> web.StreamResponse:
    links = {
        "chat": "/v1/chat/completions",
        "models": "/v1/models",
        "health": "/health",
        "version": "/version",
        "openapi": "/openapi.json",
        "docs": "/docs",
        **({"ui": ui.PAGE} if ui.is_shown(edge, call) else {}),
        **({} if edge.config.metrics_port else {"metrics": _METRICS}),
    }
    return await call.send(_encode({"name": "devstral-proxy", "version": __version__, "links": links}))


LIVE: Final = ("/health/live", "/livez", "/health/liveness", "/health/liveliness", "/liveness", "/ping")
READY: Final = ("/health/ready", "/readyz", "/health/readiness", "/readiness")

#: path -> method -> what answers it. HEAD is answered where GET is.
ROUTES: Final[Mapping[str, Mapping[str, Endpoint]]] = MappingProxyType(
    {
        "/v1/chat/completions": {"POST": _chat},
        **{path: {"POST": _chat} for path in FRONTS},
        COUNT_PATH: {"POST": _count},
        "/v1/models": {"GET": _models},
        "/health": {"GET": _health},
        # the names that charts and scripts of other servers use
        **{path: {"GET": _live} for path in LIVE},
        **{path: {"GET": _ready} for path in READY},
        "/metrics": {"GET": _metrics},
        "/version": {"GET": _version},
        "/openapi.json": {"GET": openapi_page(LIVE, READY)},
        "/": {"GET": _index},
    }
)

#: The same for what a browser shows: /openapi.json does not describe it, and metrics count it as other.
PAGES: Final[Mapping[str, Mapping[str, Endpoint]]] = MappingProxyType(
    {
        path: {"GET": page}
        for path, page in {"/docs": swagger_ui, "/redoc": redoc, **asset_routes(), **ui.ROUTES}.items()
    }
)

_METRICS: Final = "/metrics"
#: Routes that show what others do.
OPERATORS: Final = frozenset({_METRICS, "/health", ui.EVENTS})
#: Routes for everybody, authentication or not: what balancers ask, and what is the same in every installation.
OPEN: Final = frozenset({*LIVE, *READY, *PAGES, "/version", "/openapi.json", "/"}) - OPERATORS


#: What the listener of `metrics_port` answers.
APART: Final = frozenset({_METRICS, *LIVE, *READY})

Dispatch = Callable[[Edge, Call], Awaitable[web.StreamResponse]]


async def dispatch(edge: Edge, call: Call) -> web.StreamResponse:
    """
    Answer a request, if something does, and whoever asks may.

    Raises:
        ProxyError: nothing does, or what does failed.
    """
    path = call.request.rel_url.raw_path.rstrip("/") or "/"
    if path in MESSAGES_PATHS:
        call.more_headers["request-id"] = call.record.request_id
    make_front = FRONTS.get(path)
    if make_front is not None:  # first of all: what is refused is refused in the front's own words
        call.front = make_front(call.record.request_id)
    endpoint = _find_endpoint(call.request.method, path)
    is_hidden = path in ui.ROUTES and not ui.is_shown(edge, call)
    if is_hidden or (path == _METRICS and edge.config.metrics_port):
        raise NotFound(f"Unknown path {path}")
    if path not in OPEN:
        await let_in(edge, call, operators_only=path in OPERATORS)
    return await endpoint(edge, call)


async def dispatch_apart(edge: Edge, call: Call) -> web.StreamResponse:
    """
    Do as `dispatch` does for a request that came by the metrics' own listener.

    Raises:
        ProxyError: nothing answers it, or what does failed.
    """
    path = call.request.rel_url.raw_path.rstrip("/") or "/"
    if path not in APART:
        raise NotFound(f"Unknown path {clipped(path)}")
    endpoint = _find_endpoint(call.request.method, path)
    if path == _METRICS and edge.config.metrics_auth != "open":
        await let_in(edge, call, operators_only=True)
    return await endpoint(edge, call)


def _find_endpoint(method: str, path: str) -> Endpoint:
    methods = ROUTES.get(path) or PAGES.get(path)
    if methods is None:
        raise NotFound(f"Unknown path {clipped(path)}")
    endpoint = methods.get("GET" if method == "HEAD" else method)
    if endpoint is None:
        error = MethodNotAllowed(f"{clipped(path)} does not take {clipped(method)}")
        error.headers["Allow"] = ", ".join(["GET", "HEAD"] if "GET" in methods else methods)
        raise error
    return endpoint
