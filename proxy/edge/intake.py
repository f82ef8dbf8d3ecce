"""Reading a client's body: what is refused before it is read, and how long and how large it may be."""

import asyncio
from typing import Final

from aiohttp import hdrs, web

from proxy.config import Config
from proxy.edge.admission import Place
from proxy.edge.record import clipped
from proxy.errors import MalformedHttp, PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from proxy.wire import headers as wire

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_json_body(request: web.BaseRequest, config: Config, place: Place) -> bytes:
    """
    Return the request's body. Its bytes are held by `place` before they are read.

    Raises:
        Overloaded: the bodies of others leave no room for it.
        UnsupportedMediaType: it is declared as something other than plain JSON.
        PayloadTooLarge: it is over `max_body_bytes`; by its declared length before a byte is read, else by count.
        RequestTimeout: it did not come within `read_timeout_s`.
        MalformedHttp: its framing is broken.
    """
    length = _check_declared(request, config)
    if length:
        place.hold(length)
    expect = request.headers.get(hdrs.EXPECT)
    if expect is not None and expect.lower() == "100-continue":
        await request.writer.write(_CONTINUE)
    try:
        if request.content.is_eof():  # as short bodies are: no timer, no wait
            body = request.content.read_nowait()
            if len(body) > config.max_body_bytes:
                raise _too_large(config)
            return body
        async with asyncio.timeout(config.read_timeout_s):
            return await request.read() if length is not None else await _read_chunked(request, config, place)
    except TimeoutError:
        raise RequestTimeout(f"read_timeout_s: the body did not arrive within {config.read_timeout_s:g} s.") from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(config) from None
    except web.RequestPayloadError:  # from aiohttp's parser in Python; the one in C drops the rest without a word
        raise MalformedHttp("The body's chunked or length framing is broken.") from None


async def _read_chunked(request: web.BaseRequest, config: Config, place: Place) -> bytes:
    """Read a body that does not say how long it is."""
    body = bytearray()
    while piece := await request.content.readany():
        place.hold(len(piece))
        body += piece
        if len(body) > config.max_body_bytes:
            raise _too_large(config)
    return bytes(body)


def _check_declared(request: web.BaseRequest, config: Config) -> int | None:
    """Check what the headers say of the body; return its length if they say it."""
    content_type = request.headers.get(hdrs.CONTENT_TYPE)
    if content_type is not None and content_type != "application/json" and not wire.is_json(content_type):
        raise UnsupportedMediaType(f"Content-Type must be application/json, not {clipped(content_type)}.")
    content_encoding = request.headers.get(hdrs.CONTENT_ENCODING)
    if content_encoding is not None and not wire.is_identity(content_encoding):
        raise UnsupportedMediaType("Content-Encoding must be identity: compressed bodies are not read.")
    length = request.content_length
    if length is not None and length > config.max_body_bytes:
        raise _too_large(config)
    return length


def _too_large(config: Config) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is over the limit of {config.max_body_bytes} bytes (max_body_bytes).")
