"""
Hundreds of clients that take their time, on a real process: in their headers, in their bodies, in reading.

Each is ended by the proxy, however it trickles; others are served meanwhile; memory stays within a bound that is
written here, and open files come back to what they were.
"""

import asyncio
import contextlib
import csv
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.fakes import STREAM_HEAD, completion, event, text_chunk, whole
from tests.process.conftest import Group, counted, running, until
from tests.security.cases.case import HOST, POST, body, get, length, message, post

CLIENTS = 300
#: Of those who read nothing: each costs as much as fits into the kernel's buffers, before it costs no more.
READERS = 60
#: Whole answers of so many bytes, and how often one is held at the most while it is translated.
LONG_ANSWERS, LONG, MOST_TIMES_AN_ANSWER = 10, 4_000_000, 4
#: Every timer of a client's side; long enough that those who are quick never meet one.
TIMERS = {"HEADER_TIMEOUT": "2", "READ_TIMEOUT": "2", "CLIENT_IDLE": "2", "WRITE_TIMEOUT": "2", "KEEP_ALIVE": "0"}
#: More than a timer and aiohttp's ten seconds of reading on behind an answer; what is waited for must come.
PATIENCE_S = 40
#: So often a client sends a little more.
TRICKLE_S = 0.1
#: Of each client's: two reads ahead of 256,000 bytes and what waits to be sent, with room for the allocator.
MOST_BYTES_A_CLIENT = 1_000_000


class Origin:
    """A model server whose streams and answers have no end of text; it waits while nobody reads."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found = re.search(rb"Content-Length: ([0-9]+)", head)
                question = await reader.readexactly(int(found[1]) if found else 0)
                await self._answer(writer, question)
        writer.transport.abort()
        self._running.discard(task)

    async def _answer(self, writer: asyncio.StreamWriter, question: bytes) -> None:
        if b'"stream":true' in question.replace(b" ", b""):
            writer.write(STREAM_HEAD)
            while True:
                writer.write(event(text_chunk("x" * 16_000)))
                await writer.drain()
        text = "x" * LONG if b"much" in question else "Hello"
        writer.write(whole(completion(text)) if question else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()


class Attacked(Group):
    """A proxy's process, and what it holds."""

    async def rest(self) -> None:
        """Remember what it holds when it has answered a few."""
        for _ in range(5):
            await self.ask()
        self.files = self._files()
        self.resident = self._resident()

    async def ask(self) -> None:
        """An honest request, on a connection of its own."""
        async with aiohttp.ClientSession() as session:
            question = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]}
            async with session.post(f"{self.url}/v1/chat/completions", json=question) as response:
                assert response.status == 200
                assert (await response.json())["choices"][0]["message"]["content"] == "Hello"
            async with session.get(f"{self.url}/livez") as response:
                assert response.status == 200

    def grown(self) -> int:
        """How many bytes more than at rest it holds."""
        return self._resident() - self.resident

    async def recover(self) -> None:
        """Return when nothing of the attack is left."""
        await until(lambda: self._files() <= self.files + 2)  # a connection or two of the pool
        async with asyncio.timeout(PATIENCE_S):
            while await self._held() != (1, 0):  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(TRICKLE_S)
        await self.ask()

    async def _held(self) -> tuple[float, float]:
        """How many requests run, this question among them, and how many bytes of bodies are held."""
        return await counted(self, "in_flight_requests"), await counted(self, "buffered_bytes")

    def _pids(self) -> set[int]:
        return self.workers() or {self.process.pid}

    def _files(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self._pids())

    def _resident(self) -> int:
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._pids()) * os.sysconf(
            "SC_PAGE_SIZE"
        )


StartAttacked = Callable[..., Awaitable[Attacked]]


@pytest_asyncio.fixture
async def attacked() -> AsyncIterator[StartAttacked]:
    """`await attacked()`: a proxy with short timers and one worker, that has answered some requests."""
    async with contextlib.AsyncExitStack() as stack:

        async def started(**settings: str) -> Attacked:
            url = await stack.enter_async_context(Origin().listening())
            environment = {"VLLM_BASE": url, "PROXY_PROFILE": "vllm-mistral-tokenizer", **TIMERS, **settings}
            group = await stack.enter_async_context(running(1, **environment))
            proxy = Attacked(group.process)
            proxy.port = group.port
            draining = asyncio.ensure_future(drained(group.process.stdout))
            stack.push_async_callback(asyncio.wait, {draining})
            stack.callback(draining.cancel)
            await proxy.rest()
            return proxy

        yield started


async def drained(log: asyncio.StreamReader) -> None:
    """Read the proxy's log, so that it can go on writing."""
    while await log.read(65536):
        pass


class Slow:
    """One client, with a receive buffer as small as it can be: what it does not read waits in the proxy."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self._socket.setblocking(False)
        self._port = port

    async def connect(self) -> None:
        await asyncio.get_running_loop().sock_connect(self._socket, ("127.0.0.1", self._port))

    async def send(self, data: bytes) -> bool:
        """Send; return whether the connection is still there."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError:
            return False
        return True

    async def all(self) -> bytes:
        """Read to the end, which the proxy must make."""
        said = b""
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.get_running_loop().sock_recv(self._socket, 65536):
                said += data
        return said

    async def sip(self) -> bool:
        """Read five bytes; return whether there may be more."""
        try:
            return bool(await asyncio.get_running_loop().sock_recv(self._socket, 5))
        except ConnectionError:
            return False

    def close(self) -> None:
        self._socket.close()


@contextlib.asynccontextmanager
async def slow_clients(port: int, number: int = CLIENTS) -> AsyncIterator[list[Slow]]:
    clients = [Slow(port) for _ in range(number)]
    try:
        await asyncio.gather(*(client.connect() for client in clients))
        yield clients
    finally:
        for client in clients:
            client.close()


async def trickle(client: Slow, beginning: bytes, piece: bytes) -> bytes:
    """Send a beginning, then a piece again and again, until the proxy has ended the connection; return what it said."""
    await client.send(beginning)
    reading = asyncio.ensure_future(client.all())
    while not reading.done():
        await client.send(piece)
        await asyncio.wait({reading}, timeout=TRICKLE_S)
    return await reading


def statuses(answers: list[bytes]) -> set[bytes]:
    return {answer[:12] for answer in answers}


#: attack -> what comes first, what trickles, what the proxy says
TRICKLES = {
    "headers, byte by byte": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: ", b"a", b"HTTP/1.1 408"),
    "headers, line by line": (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n", b"HTTP/1.1 408"),
    "the start line": (b"POST /v1/chat/", b"a", b"HTTP/1.1 408"),
    "headers behind a request": (get() + b"GET / HTTP/1.1\r\nX-A: ", b"a", b"HTTP/1.1 200"),
    "empty lines": (b"", b"\r\n", b""),
    "a body": (message(POST, HOST, b"Content-Length: 100000"), b"{", b"HTTP/1.1 408"),
    "a body in chunks": (message(POST, HOST, b"Transfer-Encoding: chunked"), b"1\r\n{\r\n", b"HTTP/1.1 408"),
    "a chunk's extension": (message(POST, HOST, b"Transfer-Encoding: chunked") + b"5;", b"a", b"HTTP/1.1 408"),
    "trailers": (message(POST, HOST, b"Transfer-Encoding: chunked") + b"0\r\nX: ", b"a", b"HTTP/1.1 408"),
    "a body that nobody wants": (
        message(b"GET /livez HTTP/1.1", HOST, b"Content-Length: 100000"),
        b"{",
        b"HTTP/1.1 200",
    ),
}


async def test_what_trickles_in_is_ended_and_holds_up_nobody(attacked):
    """All kinds at once, so that aiohttp's ten seconds are waited for once."""
    proxy = await attacked()
    async with slow_clients(proxy.port) as clients, asyncio.timeout(PATIENCE_S):
        kinds = [list(TRICKLES)[number % len(TRICKLES)] for number in range(CLIENTS)]
        trickling = [
            asyncio.ensure_future(trickle(client, *TRICKLES[kind][:2]))
            for client, kind in zip(clients, kinds, strict=True)
        ]
        await proxy.ask()
        answers = await asyncio.gather(*trickling)

        assert {(kind, answer[:12]) for kind, answer in zip(kinds, answers, strict=True)} == {
            (kind, said) for kind, (_, _, said) in TRICKLES.items()
        }
        assert proxy.grown() < CLIENTS * MOST_BYTES_A_CLIENT
    await proxy.recover()


async def test_connections_that_say_nothing_are_ended_without_a_word(attacked):
    proxy = await attacked()
    async with slow_clients(proxy.port) as clients, asyncio.timeout(PATIENCE_S):
        await proxy.ask()

        assert await asyncio.gather(*(client.all() for client in clients)) == [b""] * CLIENTS
    await proxy.recover()


async def test_connections_that_are_kept_and_then_say_nothing_are_ended(attacked):
    proxy = await attacked()
    async with slow_clients(proxy.port) as clients, asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(client.send(get()) for client in clients))
        await proxy.ask()

        assert statuses(await asyncio.gather(*(client.all() for client in clients))) == {b"HTTP/1.1 200"}
    await proxy.recover()


def _asked(text: str, *, is_streamed: bool = False) -> bytes:
    content = body(text)[:-1] + (b', "stream": true}' if is_streamed else b"}")
    return message(POST, HOST, length(content), content=content)


#: attack -> what is asked, and never read
UNREAD = {
    "a stream": _asked("Hi", is_streamed=True),
    "a page": get(b"/openapi.json", b"Connection: close"),
    "a pipeline of pages": get(b"/openapi.json") * 200,
    "a pipeline of answers": post() * 200,
    "a pipeline of streams": _asked("Hi", is_streamed=True) * 20,
    "a pipeline of refusals": post("x", start=b"POST /nowhere HTTP/1.1") * 500,
}


@pytest.mark.parametrize("asked", UNREAD.values(), ids=UNREAD)
async def test_what_is_asked_and_never_read_is_ended_and_holds_up_nobody(attacked, asked):
    """The proxy has let go of every connection, while its clients still have their ends open."""
    proxy = await attacked()
    async with slow_clients(proxy.port, READERS) as clients, asyncio.timeout(PATIENCE_S):
        sending = [asyncio.ensure_future(client.send(asked)) for client in clients]
        await proxy.ask()
        await proxy.recover()
        await asyncio.gather(*sending)

        assert proxy.grown() < READERS * MOST_BYTES_A_CLIENT


async def test_long_answers_that_are_never_read_are_ended(attacked):
    """Longer than what the kernel takes off the proxy's hands (some 2.5 MB, Linux 6)."""
    proxy = await attacked()
    async with slow_clients(proxy.port, LONG_ANSWERS) as clients, asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(client.send(_asked("much")) for client in clients))
        await proxy.ask()
        await proxy.recover()

        assert proxy.grown() < LONG_ANSWERS * MOST_TIMES_AN_ANSWER * LONG


async def read_slowly(client: Slow) -> None:
    while await client.sip():  # noqa: ASYNC110 - slowness is what is tested
        await asyncio.sleep(TRICKLE_S)


async def test_a_stream_that_is_read_by_a_few_bytes_is_ended(attacked):
    proxy = await attacked()
    async with slow_clients(proxy.port, READERS) as clients, asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(client.send(UNREAD["a stream"]) for client in clients))
        reading = [asyncio.ensure_future(read_slowly(client)) for client in clients]
        await proxy.ask()
        await proxy.recover()

        assert proxy.grown() < READERS * MOST_BYTES_A_CLIENT
        for sipping in reading:  # what the kernel has would last them for minutes
            sipping.cancel()
        await asyncio.wait(reading)


#: Debian's slowhttptest: its flags for each kind of attack.
SLOWHTTPTEST = {
    "slow headers": ("-H", "-i", "1"),
    "slow body": ("-B", "-i", "1", "-s", "100000", "-f", "application/json"),
    "slow read": ("-X", "-k", "3", "-w", "16", "-y", "32", "-n", "1", "-z", "4"),
}


@pytest.mark.parametrize("flags", SLOWHTTPTEST.values(), ids=SLOWHTTPTEST)
async def test_slowhttptest_finds_the_service_available(attacked, installed, tmp_path, flags):
    program = installed("slowhttptest")
    proxy = await attacked()
    target = f"{proxy.url}/openapi.json" if "-X" in flags else f"{proxy.url}/v1/chat/completions"
    report = str(tmp_path / "report")
    arguments = (*flags, "-c", str(CLIENTS), "-r", "200", "-l", "6", "-p", "5", "-u", target, "-g", "-o", report)
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            output, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text().splitlines()))
    assert len(rows) > 2, output
    assert {row["Service Available"] for row in rows} == {str(CLIENTS)}  # else 0
    await proxy.recover()
