"""
Reading a client's body: what is refused before it is read, and how long and how large it may be.

    checked_head() -> Admission.place() -> read_json_body()

What a head alone shows to be wrong takes no place. What has no place is not read: its body stays in the client, but for
what the connection reads ahead (edge/connection.py).
"""

import asyncio
from typing import Final

from aiohttp import StreamReader, hdrs, web

from proxy.config import Config
from proxy.edge.admission import Admission, Place, Priority
from proxy.edge.record import clipped
from proxy.errors import MalformedHttp, PayloadTooLarge, RequestTimeout, UnsupportedMediaType
from proxy.wire import headers as wire

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def checked_head(request: web.BaseRequest, config: Config, admission: Admission) -> Priority:
    """
    Return the priority with which a request's body may be read.

    Raises:
        UnsupportedMediaType: the body is declared as something other than plain JSON.
        PayloadTooLarge: its declared length is over `max_body_bytes`.
        InvalidRequest: there is no such priority.
    """
    headers = request.headers
    content_type = headers.get(hdrs.CONTENT_TYPE)
    if content_type is not None and content_type != "application/json" and not wire.is_json(content_type):
        raise UnsupportedMediaType(f"Content-Type must be application/json, not {clipped(content_type)}.")
    content_encoding = headers.get(hdrs.CONTENT_ENCODING)
    if content_encoding is not None and not wire.is_identity(content_encoding):
        raise UnsupportedMediaType("Content-Encoding must be identity: compressed bodies are not read.")
    length = request.content_length
    if length is not None and length > config.max_body_bytes:
        raise _too_large(config)
    return admission.priority(headers)


async def read_json_body(request: web.BaseRequest, config: Config, place: Place) -> bytes:
    """
    Return the body of a request whose head is checked and which has its place.

    Its bytes are held by the place before they are read: by the declared length, else piece by piece.

    Raises:
        Overloaded: the worker holds too many bytes.
        PayloadTooLarge: it is over `max_body_bytes`, by count.
        RequestTimeout: it did not come within `read_timeout_s`.
        MalformedHttp: its framing is broken.
    """
    content = request.content
    try:
        if content.is_eof():  # as short bodies are: no timer, no wait
            body = content.read_nowait()
            place.hold(len(body))
            if len(body) > config.max_body_bytes:
                raise _too_large(config)
            return body
        length = request.content_length
        if length is not None:
            place.hold(length)
            content.set_read_chunk_size(length)
        expect = request.headers.get(hdrs.EXPECT)
        if expect is not None and expect.lower() == "100-continue":
            await request.writer.write(_CONTINUE)
        async with asyncio.timeout(config.read_timeout_s):
            return await _read(content, config, place if length is None else None)
    except TimeoutError:
        raise RequestTimeout(f"read_timeout_s: the body did not arrive within {config.read_timeout_s:g} s.") from None
    except web.RequestPayloadError:  # from aiohttp's parser in Python; the one in C drops the rest without a word
        raise MalformedHttp("The body's chunked or length framing is broken.") from None


async def _read(content: StreamReader, config: Config, place: Place | None) -> bytes:
    """Read to the end; `place`, if there is one, holds each piece."""
    body = bytearray()  # and no list of pieces: a client may send them byte by byte
    while piece := await content.readany():
        if len(body) + len(piece) > config.max_body_bytes:
            raise _too_large(config)
        if place is not None:
            place.hold(len(piece))
        body += piece
    return bytes(body)


def _too_large(config: Config) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is over the limit of {config.max_body_bytes} bytes (max_body_bytes).")
