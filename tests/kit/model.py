"""
The model server that the gateway under test forwards to: a raw socket that plays a script for each chat completion.

    async with Model([18080]) as model:
        play = model.play([STREAM_HEAD, event(text_chunk("Hel")), Act.RESET])
        ...  # ask the gateway, with play.mark somewhere in the messages
        play.calls  # what arrived, in order

A call belongs to the play whose mark is in its body, so that the late retries of one row are not counted in the next;
what bears no mark that is being played gets the usual answer.
The n-th call of a play gets the n-th script; when they run out, the last one is played again. Instead of scripts, a
function from the call to its script may be given.

What routers ask a model server before they use it (/health, /v1/models, /get_model_info …) is answered too.
"""

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from typing import Any, Self

from tests.fakes import completion, whole
from tests.kit.answers import text_stream
from tests.kit.pages import page


class Act(Enum):
    """A step of a script that is not bytes and not a wait."""

    RESET = auto()  #: send RST
    CLOSE = auto()  #: send FIN and read no more
    HANG = auto()  #: say nothing until the row is over, then give the usual answer


Step = bytes | float | asyncio.Event | Act
Script = Sequence[Step]


class Call:
    """
    A request as it came: `headers` in order, names in lower case.

    `is_first` on its connection; `left` is set when the gateway has closed that connection.
    """

    def __init__(self, raw: bytes, body: bytes, *, is_first: bool, left: asyncio.Event, port: int) -> None:
        first, *rest = raw.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in rest)
        self.headers = [(name.strip().lower(), value.strip()) for name, _, value in pairs]
        self.raw = raw
        self.body = body
        self.is_first = is_first
        self.left = left
        self.port = port

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def is_chat(self) -> bool:
        return self.method == "POST" and self.path.endswith("/chat/completions")

    def values(self, name: str) -> list[str]:
        """Return the values of all headers of this name."""
        return [value for key, value in self.headers if key == name]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def usual(call: Call) -> Script:
    """Return what a healthy model answers: "Hello", in the form that was asked for."""
    try:
        body = call.json
    except (ValueError, RecursionError):
        return [whole({"error": {"message": "not JSON", "type": "BadRequestError", "code": 400}}, 400)]
    if not body.get("stream"):
        return [whole(completion("Hello"))]
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    return [text_stream("Hel", "lo", usage=wants_usage)]


class Play:
    """The scripts of one row, and the calls that came for it."""

    def __init__(self, script_of: Callable[[int, Call], Script]) -> None:
        #: Letters and digits alone: it has to arrive as it is.
        self.mark = f"mark{os.urandom(6).hex()}"
        self.calls: list[Call] = []
        self.over = asyncio.Event()
        self._script_of = script_of
        self._came = asyncio.Condition()

    async def take(self, call: Call) -> Script:
        """Count the call; return its script."""
        async with self._came:
            self.calls.append(call)
            self._came.notify_all()
        return self._script_of(len(self.calls), call)

    async def called(self, count: int = 1) -> None:
        """Return when so many calls have come."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.calls) >= count)


class Model:
    """The model server, on every port of `ports`; 0 takes a free one. See the top of this file."""

    def __init__(self, ports: Sequence[int] = (0,)) -> None:
        self.ports = list(ports)
        self.strays: list[Call] = []
        #: How many chat completions were asked for, with a mark or without.
        self.generated = 0
        self._awake = asyncio.Event()
        self._awake.set()
        self._servers: dict[int, asyncio.Server] = {}
        self._plays: dict[bytes, Play] = {}
        self.connections: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        for index, port in enumerate(list(self.ports)):
            self.ports[index] = await self.listen(port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end_plays()
        for port in list(self._servers):
            await self.refuse(port)
        await asyncio.gather(*(connection.stop() for connection in list(self.connections)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    async def listen(self, port: int) -> int:
        """Accept connections; return the port."""
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", port)
        port = server.sockets[0].getsockname()[1]
        self._servers[port] = server
        return port

    async def refuse(self, port: int) -> None:
        """Let connections to this port be refused, and end those that are open, as a process does that ended."""
        server = self._servers.pop(port)
        server.close()
        for connection in [each for each in self.connections if each.port == port]:
            connection.transport.abort()

    @asynccontextmanager
    async def down(self, ports: Iterable[int] | None = None) -> AsyncIterator[None]:
        """Be down inside the block, on these ports or on all."""
        chosen = list(self.ports if ports is None else ports)
        for port in chosen:
            await self.refuse(port)
        try:
            yield
        finally:
            for port in chosen:
                await self.listen(port)

    def play(self, *scripts: Script | Callable[[Call], Script]) -> Play:
        """Play these to the calls that bear the mark of what is returned."""

        def script_of(number: int, call: Call) -> Script:
            script = scripts[min(number, len(scripts)) - 1]
            return script(call) if callable(script) else script

        play = Play(script_of)
        self._plays[play.mark.encode()] = play
        return play

    def wedge(self) -> None:
        """Let status pages hang too, as those of a wedged process do, until the plays end."""
        self._awake.clear()

    def end_plays(self) -> None:
        """Let whatever hangs be answered; calls with old marks get the usual answer from now on."""
        for play in self._plays.values():
            play.over.set()
        self._plays.clear()
        self._awake.set()

    async def script_for(self, call: Call) -> tuple[Script, Play | None]:
        if call.is_chat:
            self.generated += 1
            play = next((play for mark, play in self._plays.items() if mark in call.body), None)
            return (usual(call), None) if play is None else (await play.take(call), play)
        answer = page(call.method, call.path)
        if answer is None:
            self.strays.append(call)
            answer = whole({"ok": True})
        return [self._awake, answer], None


class _Connection(asyncio.Protocol):
    def __init__(self, model: Model) -> None:
        self._model = model
        self._reader = asyncio.StreamReader(limit=1 << 20)
        self._left = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment] # a TCP transport, whoever's loop
        self._socket = transport.get_extra_info("socket")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = transport.get_extra_info("sockname")[1]
        self._model.connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def data_received(self, data: bytes) -> None:
        if not self._left.is_set():
            self._reader.feed_data(data)

    def eof_received(self) -> bool:
        self._note_left()
        return True  # keep writing: what the script says happens

    def connection_lost(self, exc: BaseException | None) -> None:
        self._note_left()
        self._model.connections.discard(self)

    def _note_left(self) -> None:
        if not self._left.is_set():
            self._left.set()
            self._reader.feed_eof()

    async def stop(self) -> None:
        self._task.cancel()
        self.transport.abort()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        is_first = True
        with suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            while True:
                call = await self._next_call(is_first=is_first)
                is_first = False
                script, play = await self._model.script_for(call)
                for step in script:
                    await self._do(step, call, play)
        self.transport.close()

    async def _do(self, step: Step, call: Call, play: Play | None) -> None:
        if isinstance(step, bytes):
            if not self.transport.is_closing():
                self.transport.write(step)
        elif isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, float):
            await asyncio.sleep(step)
        elif step is Act.CLOSE:
            self.transport.close()
        elif step is Act.RESET:
            linger_zero = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
            self.transport.abort()
        elif play is not None:
            await play.over.wait()
            for each in usual(call):
                await self._do(each, call, play)

    async def _next_call(self, *, is_first: bool) -> Call:
        raw = (await self._reader.readuntil(b"\r\n\r\n"))[:-4]
        call = Call(raw, b"", is_first=is_first, left=self._left, port=self.port)
        if call.values("expect"):
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in call.values("transfer-encoding"):
            call.body = await self._chunks()
        else:
            [length] = call.values("content-length") or ["0"]
            call.body = await self._reader.readexactly(int(length))
        return call

    async def _chunks(self) -> bytes:
        parts = []
        while size := int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readuntil(b"\r\n")
        return b"".join(parts)
