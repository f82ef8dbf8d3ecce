"""
A model server that takes nothing on trust: it keeps every byte that it gets, and reads requests by the letter.

    async with RecordingOrigin() as origin:
        ...  # point the proxy at origin.url
        assert origin.problems == []
        assert origin.texts == ["one", "two"]

What is not a request as the proxy itself writes one is a problem: another method or path, a header that is not on the
list, two of a kind, a body that is not as long as its length says, bytes behind the last request. Each chat request is
answered with its own last text, so that an answer shows whose it is.
"""

import asyncio
import json
import re
from typing import Any, Final, NamedTuple, Self

from proxy.translate.profile import UNPROBED, build_profile
from proxy.translate.request import translate_request
from tests.fakes import HEALTHY, completion, text_stream, whole

#: Every header that the proxy sends, and what its value must be.
HEADERS: Final = {
    b"Host": rb"127\.0\.0\.1:[0-9]+",
    b"Accept": rb"\*/\*",
    b"Accept-Encoding": rb"identity",
    b"User-Agent": rb"devstral-proxy/[0-9.]+",
    b"x-request-id": rb"[A-Za-z0-9._-]{1,128}",
    b"traceparent": rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]",
    b"tracestate": rb"[a-z0-9][\x21-\x7e][\x20-\x7e]{0,510}",
    b"Content-Length": rb"0|[1-9][0-9]*",
    b"Content-Type": rb"application/json",
}
_OPTIONAL: Final = {b"traceparent", b"tracestate"}
_START: Final = b"POST /v1/chat/completions HTTP/1.1"
_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")


class Seen(NamedTuple):
    """A request that was read."""

    headers: dict[bytes, bytes]
    body: Any

    @property
    def text(self) -> str:
        """What the user said last."""
        return str(self.body["messages"][-1]["content"])


class NotARequest(ValueError):
    """The bytes are not what the proxy itself sends."""


def head_of(lines: list[bytes]) -> dict[bytes, bytes]:
    """
    Return the headers of a head.

    Raises:
        NotARequest: it is not one that the proxy writes.
    """
    if lines[0] != _START:
        raise NotARequest(f"start line {lines[0]!r}")
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        found = _LINE.fullmatch(line)
        if found is None:
            raise NotARequest(f"header line {line!r}")
        name, value = found.groups()
        if name in headers or name not in HEADERS or not re.fullmatch(HEADERS[name], value):
            raise NotARequest(f"header {line!r}")
        headers[name] = value
    if missing := HEADERS.keys() - headers.keys() - _OPTIONAL:
        raise NotARequest(f"without {missing}")
    return headers


class RecordingOrigin:
    """A server on 127.0.0.1. Questions for /health are answered and not recorded."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.problems: list[str] = []
        self._left_over: dict[_Connection, bytes] = {}
        self._connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def texts(self) -> list[str]:
        """The texts of all requests, in the order in which they came."""
        return [seen.text for seen in self.seen]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in [*self._connections]:
            connection.transport.abort()
        await asyncio.sleep(0)

    def judged(self) -> list[str]:
        """Return what was wrong, bytes that belong to no request among it."""
        pending = [
            f"left over: {bytes(connection.received)!r}" for connection in self._connections if connection.received
        ]
        return self.problems + pending


class _Connection(asyncio.Protocol):
    def __init__(self, origin: RecordingOrigin) -> None:
        self._origin = origin
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._origin._connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._origin._connections.discard(self)
        if self.received:
            self._origin.problems.append(f"left over at the end: {bytes(self.received)!r}")

    def data_received(self, data: bytes) -> None:
        self.received += data
        try:
            while self._take():
                pass
        except NotARequest as exc:
            self._origin.problems.append(str(exc))
            self.received.clear()
            self.transport.abort()

    def _take(self) -> bool:
        """Read one request, if there is a whole one; answer it."""
        head, end, rest = bytes(self.received).partition(b"\r\n\r\n")
        if not end:
            return False
        if head.startswith(b"GET /health HTTP/1.1\r\n"):
            del self.received[: len(head) + 4]
            self.transport.write(HEALTHY)
            return True
        headers = head_of(head.split(b"\r\n"))
        size = int(headers[b"Content-Length"])
        if len(rest) < size:
            return False
        del self.received[: len(head) + 4 + size]
        self._answer(headers, rest[:size])
        return True

    def _answer(self, headers: dict[bytes, bytes], body: bytes) -> None:
        try:
            seen = Seen(headers, json.loads(body))
        except ValueError:
            raise NotARequest(f"body {body!r}") from None
        self._origin.seen.append(seen)
        is_streamed = seen.body.get("stream", False)
        self.transport.write(text_stream(seen.text) if is_streamed else whole(completion(seen.text)))


def translated(body: bytes) -> Any:
    """Return what the origin must get for a client's body."""
    return json.loads(translate_request(body, build_profile(UNPROBED)).body)
