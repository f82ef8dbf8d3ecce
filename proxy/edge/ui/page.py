"""
The status page: a page, what belongs to it, and the events that it shows.

    GET /ui                  for anybody, as all of it is in the package
    GET /ui/assets/NAME      likewise
    GET /ui/events           server-sent events, for operators where requests must say who they are from

Where `ui` is off, or `auto` and somebody could come from another machine, none of these paths exists.

A browser sends no bearer token by itself. So the page asks for a key where one is needed, keeps it in a variable, and
reads the events with `fetch`, which sends headers of the page's choice; `EventSource` does not.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from aiohttp import web

from proxy.config import is_loopback
from proxy.edge.authentication import let_in
from proxy.edge.call import EVENT_STREAM, STREAM_HEADERS, Call
from proxy.edge.edge import Edge
from proxy.edge.ui.view import looking
from proxy.errors import Forbidden

Endpoint = Callable[[Edge, Call], Awaitable[web.StreamResponse]]

#: Nothing from elsewhere, nothing inline, no HTML made of text; a key that is typed cannot leave in a form.
_POLICY: Final = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        *("require-trusted-types-for 'script'", "trusted-types 'none'"),
    )
)
_HEADERS: Final = MappingProxyType(
    {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }
)

_TYPES: Final = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)

PAGE: Final = "/ui"
EVENTS: Final = "/ui/events"
_ASSETS: Final = ("status.js", "status.css", "icon.svg")

#: Arbitrary: how long a viewer may take to read what is shown in a second. Then his place is for another.
_SLOWEST_S: Final = 20.0


def is_shown(edge: Edge, call: Call) -> bool:
    """
    Whether there is a status page for this request.

    With `auto` its Host must be loopback too: else a page from elsewhere, whose name has come to stand for 127.0.0.1,
    could read this one with the browser of who runs the proxy (DNS rebinding).
    """
    setting = edge.config.ui
    return setting == "on" or (setting == "auto" and edge.is_local and _names_loopback(call.request.headers))


def _names_loopback(headers: Mapping[str, str]) -> bool:
    host = headers.get("Host", "")
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return is_loopback(name.strip("[]").lower())


async def events(edge: Edge, call: Call) -> web.StreamResponse:
    """
    Send what is shown, once a second, until the viewer leaves, may not look any more, or the process ends.

    Raises:
        Forbidden: a page from elsewhere asks.
        RateLimited: too many look already.
        ClientError: the viewer's key is not good any more.
    """
    # What a script of another origin gets it cannot read, but it would take the places of those who look.
    if call.request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("Only the status page of this server may ask for its events.")
    if call.request.method == "HEAD":
        return await call.send(b"", content_type=EVENT_STREAM, headers=STREAM_HEADERS)
    async with edge.watch.entered(looking(edge)) as seen:
        with _uncounted(edge):
            while not edge.in_flight.is_draining:
                seen, shown = await edge.watch.next(seen)
                await let_in(edge, call, operators_only=True)
                await _shown_to(call, b"data: " + shown + b"\n\n")
            return await call.end()


async def _shown_to(call: Call, event: bytes) -> None:
    try:
        async with asyncio.timeout(_SLOWEST_S):
            await call.write(event)
    except TimeoutError:
        if call.request.transport is not None:
            call.request.transport.abort()
        raise ConnectionError("The viewer does not read.") from None


@contextmanager
def _uncounted(edge: Edge) -> Iterator[None]:
    """Who looks is no request that runs: he is not among those that he sees, and the process may end without him."""
    task = asyncio.current_task()
    assert task is not None
    edge.in_flight.leave(task)
    edge.metrics.end()
    try:
        yield
    finally:
        edge.metrics.begin()


def _bytes_of(name: str) -> bytes:
    return files("proxy.edge.ui").joinpath(name).read_bytes()


def _page() -> Endpoint:
    without_key = _bytes_of("index.html")
    with_key = without_key.replace(b'data-key="none"', b'data-key="required"')

    async def page(edge: Edge, call: Call) -> web.StreamResponse:
        config = edge.config
        # A client certificate needs no key beside it: the browser shows it by itself.
        needs_key = edge.access.is_required and bool(config.keys or config.api_keys or config.issuers)
        body = with_key if needs_key else without_key
        return await call.send(body, content_type=_TYPES[".html"], headers=_HEADERS)

    return page


def _asset(name: str) -> Endpoint:
    body, content_type = _bytes_of(name), _TYPES[name[name.rindex(".") :]]

    async def asset(edge: Edge, call: Call) -> web.StreamResponse:
        return await call.send(body, content_type=content_type, headers=_HEADERS)

    return asset


#: What there is where the page is, by path.
ROUTES: Final[Mapping[str, Endpoint]] = MappingProxyType(
    {PAGE: _page(), **{f"{PAGE}/assets/{name}": _asset(name) for name in _ASSETS}, EVENTS: events}
)
