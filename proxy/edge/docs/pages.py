"""
GET /docs, GET /redoc and their files: /openapi.json in Swagger UI and in Redoc.

They are the same in every installation, so they are for everybody; what a request made there may do is up to the key
that is typed in, which is kept nowhere. No page asks another server, and none holds a script or a style:

    /docs, /redoc               the page, which names files by `?v=` and the beginning of their digest
    /docs/assets/NAME?v=...     a file, for a year; with another `v` as it is now, to be asked for each time
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from html import escape
from types import MappingProxyType
from typing import Final, NamedTuple

from aiohttp import web

from proxy import __version__
from proxy.edge.call import Call
from proxy.edge.docs.assets import NAMES, PACKAGE, VERSION, Asset, find_assets
from proxy.edge.edge import Edge
from proxy.errors import NotFound

_HTML: Final = "text/html; charset=utf-8"
_TYPES: Final = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}

_PREFIX: Final = "/docs/assets/"
_FOR_A_YEAR: Final = "public, max-age=31536000, immutable"
_ASK_EACH_TIME: Final = "no-cache"

#: Of every answer of this module.
_GUARDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)
#: Of pages: what a script that got in anyway may not ask the browser for.
_PERMISSIONS: Final = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"

#: Of pages, with what a viewer needs besides. Swagger UI's symbols, and the empty one of each tab, are data: images.
_POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src data:"

#: Redoc makes style elements: one that is empty, and gets its rules by script, and one of its scroll bar, whose text is
#: that of the locked version.
_EMPTY_STYLE: Final = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
_SCROLL_BAR_STYLE: Final = "'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='"


class _Viewer(NamedTuple):
    """One of the two; `policy` is what it needs, measured in a browser (tests/browser/test_docs.py)."""

    name: str
    styles: tuple[str, ...]
    scripts: tuple[str, ...]
    policy: str


_SWAGGER_UI: Final = _Viewer(
    "Swagger UI",
    ("swagger-ui.css", "docs.css"),
    ("swagger-ui-bundle.js", "docs.js"),
    "script-src 'self'; style-src 'self'; connect-src 'self'",
)
#: The worker is Redoc's search, which it makes out of text of its own; it may do what the page may.
_REDOC: Final = _Viewer(
    "Redoc",
    ("redoc.css",),
    ("redoc.standalone.js", "redoc.js"),
    f"script-src 'self'; style-src 'self' {_EMPTY_STYLE} {_SCROLL_BAR_STYLE}; connect-src 'self'; worker-src blob:",
)

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Devstral Proxy {version}</title>
<link rel="icon" href="data:,">
{head}</head>
<body>
{body}
</body>
</html>
"""

_ABSENT: Final = f"""\
<h1>Devstral Proxy {__version__}</h1>
<p>{{name}} is not installed. In the environment of the proxy:</p>
<pre>pip install --no-deps {PACKAGE}=={VERSION}</pre>
<p>The description itself is at <a href="/openapi.json">/openapi.json</a>.</p>"""

_EMPTY: Final = """\
<div id="docs"></div>
<noscript>
<p>This page needs JavaScript; the description itself is at <a href="/openapi.json">/openapi.json</a>.</p>
</noscript>"""


async def swagger_ui(edge: Edge, call: Call) -> web.StreamResponse:
    """GET /docs."""
    return await _show(call, _SWAGGER_UI)


async def redoc(edge: Edge, call: Call) -> web.StreamResponse:
    """GET /redoc."""
    return await _show(call, _REDOC)


def asset_routes() -> Mapping[str, Callable[[Edge, Call], Awaitable[web.StreamResponse]]]:
    """Return what answers for each file, by its path: nothing else can be asked for."""
    return {_PREFIX + name: _sending(name) for name in NAMES}


async def _show(call: Call, viewer: _Viewer) -> web.StreamResponse:
    assets = await asyncio.to_thread(find_assets)
    is_whole = all(name in assets for name in (*viewer.styles, *viewer.scripts))
    page = _page_of(viewer, assets) if is_whole else _page(_ABSENT.format(name=viewer.name))
    policy = f"{_POLICY}; {viewer.policy}" if is_whole else _POLICY
    headers = {
        **_GUARDS,
        "Content-Security-Policy": policy,
        "Permissions-Policy": _PERMISSIONS,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": _ASK_EACH_TIME,
    }
    return await call.send(page, content_type=_HTML, headers=headers)


def _page_of(viewer: _Viewer, assets: Mapping[str, Asset]) -> bytes:
    links = [
        f'<link rel="stylesheet" href="{_address(name, assets[name])}" integrity="{assets[name].integrity}">\n'
        for name in viewer.styles
    ]
    scripts = [
        f'<script defer src="{_address(name, assets[name])}" integrity="{assets[name].integrity}"></script>\n'
        for name in viewer.scripts
    ]
    return _page(_EMPTY, "".join(links + scripts))


def _page(body: str, head: str = "") -> bytes:
    return _PAGE.format(version=escape(__version__), head=head, body=body).encode()


def _address(name: str, asset: Asset) -> str:
    return f"{_PREFIX}{name}?v={asset.tag}"


def _sending(name: str) -> Callable[[Edge, Call], Awaitable[web.StreamResponse]]:
    content_type = _TYPES[name.rpartition(".")[2]]

    async def send(edge: Edge, call: Call) -> web.StreamResponse:
        asset = (await asyncio.to_thread(find_assets)).get(name)
        if asset is None:
            raise NotFound(f"{name} is not installed; /docs says how to install it.")
        is_named = call.request.rel_url.raw_query_string == f"v={asset.tag}"
        caching = _FOR_A_YEAR if is_named else _ASK_EACH_TIME
        headers = {**_GUARDS, "Cache-Control": caching, "ETag": f'"{asset.tag}"'}
        if asset.tag in [known.value for known in call.request.if_none_match or ()]:
            return await call.send(b"", status=304, content_type=content_type, headers=headers)
        return await call.send_file(asset.path, content_type=content_type, headers=headers)

    return send
