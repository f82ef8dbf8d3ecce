"""
An upstream that plays a script over a real socket.

    async with ScriptedUpstream(script) as upstream:
        ...  # point the proxy at upstream.url

A script is a sequence of steps: bytes to send, an `asyncio.Event` or a number of seconds to wait for, or one of the
constants below. The n-th request gets the n-th script; when they run out, the last one is played again. After a script
the connection stays open for the next request, as it does in HTTP/1.1. Questions for /health are answered with 200 and
leave no trace, neither they nor their connections, unless the test wants to have them (`health=None`).
"""

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Literal, Self


class Do(Enum):
    """A step that is not a piece of bytes and not a wait."""

    RESET = auto()  #: send RST
    CLOSE = auto()  #: send FIN and read no more
    HALF_CLOSE = auto()  #: send FIN, keep reading
    WAIT_FOR_PEER = auto()  #: wait until the peer has closed its side


Step = bytes | float | asyncio.Event | Do
Script = Sequence[Step]


#: What /health is answered with.
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Request:
    """A request as it came: `headers` in order, names in lower case."""

    def __init__(self, head: bytes, body: bytes) -> None:
        first, *rest = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = first.split(" ")
        self.headers = [
            (name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in rest)
        ]
        self.body = body
        self.raw = head

    def header(self, name: str) -> str | None:
        """Return the only value of a header, or None."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Soon(asyncio.Event):
    """What a test waits for; if it does not come, the test fails and does not hang."""

    async def wait(self) -> Literal[True]:
        async with asyncio.timeout(20):
            return await super().wait()


class ScriptedUpstream:
    """A server on 127.0.0.1 that records what it gets and answers by script."""

    def __init__(self, *scripts: Script, port: int = 0, health: Script | None = (HEALTHY,)) -> None:
        self._scripts = scripts
        self._port = port
        self.health = health
        self.health_checks = 0
        self._connections: set[_Connection] = set()
        self._probes: set[_Connection] = set()
        self.requests: list[Request] = []
        self.connections_made = 0
        #: set when a request has arrived
        self.asked = asyncio.Event()
        #: set when a peer has closed a connection, or reset it
        self.left = Soon()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in [*self._connections, *self._probes]:
            await connection.stop()

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def close_idle(self) -> None:
        """Send FIN on every connection."""
        for connection in self._connections:
            connection.transport.close()

    def next_script(self) -> Script:
        return self._scripts[min(len(self.requests), len(self._scripts)) - 1]


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._received = bytearray()
        self._more = asyncio.Event()
        self._peer_left = asyncio.Event()
        self._has_asked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._upstream._connections.add(self)
        self._upstream.connections_made += 1
        self._task = asyncio.get_running_loop().create_task(self._run())

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._more.set()

    def eof_received(self) -> bool:
        self._note_peer_left()
        return True  # keep writing: what the script says happens, not what asyncio thinks best

    def connection_lost(self, exc: BaseException | None) -> None:
        self._note_peer_left()
        self._upstream._connections.discard(self)
        self._upstream._probes.discard(self)

    def _note_peer_left(self) -> None:
        self._peer_left.set()
        self._more.set()
        # A look at /health that ends before it is read is none of the test's requests either.
        if self._has_asked and self not in self._upstream._probes:
            self._upstream.left.set()

    async def stop(self) -> None:
        self._task.cancel()
        self.transport.abort()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while (request := await self._request()) is not None:
            self._has_asked = True
            if request.target == "/health" and self._upstream.health is not None:
                self._become_probe()
                script = self._upstream.health
            else:
                self._upstream.requests.append(request)
                self._upstream.asked.set()
                script = self._upstream.next_script()
            for step in script:
                await self._play(step)
        self.transport.close()

    def _become_probe(self) -> None:
        upstream = self._upstream
        upstream.health_checks += 1
        if self not in upstream._probes:
            upstream._probes.add(self)
            upstream._connections.discard(self)
            upstream.connections_made -= 1

    async def _play(self, step: Step) -> None:
        if isinstance(step, bytes):
            self.transport.write(step)
        elif isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, Do):
            await self._do(step)
        else:
            await asyncio.sleep(step)

    async def _do(self, step: Do) -> None:
        if step is Do.WAIT_FOR_PEER:
            await self._peer_left.wait()
        elif step is Do.HALF_CLOSE:
            self.transport.write_eof()
        elif step is Do.CLOSE:
            self.transport.close()
        else:
            linger_zero = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
            self.transport.abort()

    async def _request(self) -> Request | None:
        """Return the next request, or None when the peer has left."""
        while (end := self._received.find(b"\r\n\r\n")) == -1:
            if not await self._got_more():
                return None
        request = Request(bytes(self._received[:end]), b"")
        del self._received[: end + 4]
        length = int(request.header("content-length") or 0)
        while len(self._received) < length:
            if not await self._got_more():
                return None
        request.body = bytes(self._received[:length])
        del self._received[:length]
        return request

    async def _got_more(self) -> bool:
        if self._peer_left.is_set():
            return False
        self._more.clear()
        await self._more.wait()
        return not self._peer_left.is_set()


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition()` is true; fail after five seconds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


# --- pieces of answers

REASONS = {
    200: "OK",
    307: "Temporary Redirect",
    400: "Bad Request",
    429: "Too Many Requests",
    503: "Service Unavailable",
}


def head(status: int = 200, **headers: str) -> bytes:
    """A status line and headers; underscores in names stand for hyphens."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def whole(body: bytes | Any, status: int = 200, **headers: str) -> bytes:
    """A complete answer with a JSON body."""
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(status, **{"content_type": "application/json", "content_length": str(len(payload))} | headers) + payload


STREAM_HEAD = head(content_type="text/event-stream; charset=utf-8", transfer_encoding="chunked")
STREAM_END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(payload: bytes | Any) -> bytes:
    """One server-sent event in one HTTP chunk."""
    return chunk(b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode()) + b"\n\n")


DONE = event(b"[DONE]")


def text_chunk(text: str | None = None, *, finish: str | None = None, role: str | None = None) -> dict[str, Any]:
    """A chat.completion.chunk as vLLM sends it."""
    delta: dict[str, Any] = {} if role is None else {"role": role}
    if text is not None:
        delta["content"] = text
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "devstral",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
    }


def text_stream(*texts: str) -> bytes:
    """A whole streamed answer."""
    events = [text_chunk("", role="assistant"), *map(text_chunk, texts), text_chunk("", finish="stop")]
    return STREAM_HEAD + b"".join(map(event, events)) + DONE + STREAM_END


def completion(text: str = "Hello") -> dict[str, Any]:
    """A chat.completion as vLLM sends it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "devstral",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "tool_calls": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2},
    }
