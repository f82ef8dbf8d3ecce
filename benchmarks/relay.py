"""
The yardstick: the least that an aiohttp program can do and still be a proxy.

It reads the request's body, sends the same bytes on, and copies the answer's bytes as they come. It parses nothing,
checks nothing, logs nothing and has no timers. It is written as aiohttp's documentation shows it, and stays as it is:
a change here changes every ratio in results/ and every limit in limits.json.

    python -m benchmarks.relay UPSTREAM_URL PORT
"""

import argparse
from collections.abc import AsyncIterator
from typing import Final

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

SESSION: Final = web.AppKey("session", ClientSession)
UPSTREAM: Final = web.AppKey("upstream", str)


async def relay(request: web.Request) -> web.StreamResponse:
    """Send the request on and copy the answer."""
    body = await request.read()
    url = request.app[UPSTREAM] + request.path
    headers = {name: request.headers[name] for name in ("Content-Type", "Authorization") if name in request.headers}
    async with request.app[SESSION].request(request.method, url, data=body, headers=headers) as answer:
        response = web.StreamResponse(status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]})
        response.content_length = answer.content_length
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        await response.write_eof()
    return response


async def _session(app: web.Application) -> AsyncIterator[None]:
    session = ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(), auto_decompress=False)
    app[SESSION] = session
    yield
    await session.close()


def main() -> None:
    """Serve until the process is told to end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay")
    parser.add_argument("upstream")
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    app = web.Application(client_max_size=0)
    app[UPSTREAM] = arguments.upstream
    app.cleanup_ctx.append(_session)
    app.router.add_route("*", "/{path:.*}", relay)
    web.run_app(
        app, host="127.0.0.1", port=arguments.port, loop=uvloop.new_event_loop(), access_log=None, print=lambda _: None
    )


if __name__ == "__main__":
    main()
