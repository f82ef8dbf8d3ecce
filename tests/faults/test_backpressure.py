"""
A client that stops reading stops the model server too, and what waits in between stays small.

Unread answers that pile up in the proxy are how one slow client takes a process down. What the kernel's socket buffers
hold is not the proxy's: they are seen to fill up here.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import pytest_asyncio

from tests.edge.test_serve import Process, run_proxy
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, event, text_chunk

MIB = 1024 * 1024
STREAMS = 20
#: 20 MiB: twice what the socket buffers between the upstream and a client were seen to take in.
FLOOD = [event(text_chunk(f"{number:06d}" + "x" * 32_000)) for number in range(640)]
FLOOD_BYTES = sum(map(len, FLOOD))
#: A flooded stream that waits was seen to hold 1.2 to 2.3 MiB: up to 0.5 MiB each of what has been read and is not
#: asked for, of the piece in translation, of its translation, and of the copy that the transport could not send.
#: Without backpressure it is the flood.
MOST_MIB_PER_STREAM = 4.0
#: Only bounds for a test that would else hang.
PATIENCE_S = 30
#: Nothing has moved for so long: whoever can be waiting, waits.
STILL_S = 1.0


class FloodingUpstream:
    """Answers every request with FLOOD, as fast as it is read, and counts what it could write of each answer."""

    def __init__(self) -> None:
        self.written: list[int] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
        answer = len(self.written)
        self.written.append(0)
        writer.write(STREAM_HEAD + event(text_chunk("", role="assistant")))
        for piece in FLOOD:
            writer.write(piece)
            await writer.drain()
            self.written[answer] += len(piece)
        writer.write(event(text_chunk("", finish="stop")) + DONE + STREAM_END)
        await writer.drain()
        writer.close()

    async def stalled(self, streams: int) -> None:
        """Return when there are so many answers, and none of them has moved for a while."""
        before = None
        async with asyncio.timeout(PATIENCE_S):
            while len(self.written) < streams or before != self.written:
                before = list(self.written)
                await asyncio.sleep(STILL_S)


@pytest_asyncio.fixture
async def slow_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose connections hold little, so that it stops the proxy soon when it does not read."""

    def small_socket(address: Any) -> socket.socket:
        made = socket.socket(*address[:3])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        return made

    connector = aiohttp.TCPConnector(limit=0, socket_factory=small_socket)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=16 * 1024) as session:
        yield session


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FloodingUpstream]:
    async with FloodingUpstream() as flooding:
        yield flooding


@pytest_asyncio.fixture
async def proxy_process(upstream: FloodingUpstream) -> AsyncIterator[tuple[Process, int]]:
    """`python -m proxy serve` in front of the flood, and its process id."""
    process = await run_proxy(VLLM_BASE=upstream.url)
    proxy = Process(process)
    proxy.port = (await proxy.log_line("startup"))["port"]
    yield proxy, process.pid
    process.kill()
    await process.communicate()


async def asked(session: aiohttp.ClientSession, url: str) -> aiohttp.ClientResponse:
    """Ask for a stream, and read none of it."""
    body = {"model": "devstral", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    response = await session.post(f"{url}/v1/chat/completions", json=body)
    assert response.status == 200
    return response


async def assert_whole(response: aiohttp.ClientResponse) -> None:
    """Read what was left unread: every event is there, in order, up to the end."""
    async with asyncio.timeout(PATIENCE_S):
        stream = await response.read()
    numbers = [int(number) for number in re.findall(rb'"content": ?"(\d{6})x{32000}"', stream)]
    assert numbers == list(range(len(FLOOD)))
    assert stream.count(b'"finish_reason":"stop"') + stream.count(b'"finish_reason": "stop"') == 1
    assert b'"error"' not in stream
    assert stream.endswith(b"data: [DONE]\n\n")


def resident_bytes(pid: int) -> int:
    """Return what a process holds in memory (VmRSS; proc(5) counts it in KiB)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


async def test_a_client_that_stops_reading_stops_the_upstream(start_proxy, upstream, slow_session):
    proxy = await start_proxy(upstream.url)
    response = await asked(slow_session, proxy.url)
    await upstream.stalled(1)
    assert 0 < upstream.written[0] < FLOOD_BYTES

    await assert_whole(response)

    assert upstream.written == [FLOOD_BYTES]


async def test_streams_that_nobody_reads_take_little_memory_and_are_whole_in_the_end(
    upstream: FloodingUpstream,
    proxy_process: tuple[Process, int],
    slow_session: aiohttp.ClientSession,
    capsys: pytest.CaptureFixture[str],
) -> None:
    proxy, pid = proxy_process
    await assert_whole(await asked(slow_session, proxy.url))  # what a first request loads is not a stream's
    before = resident_bytes(pid)

    responses = await asyncio.gather(*(asked(slow_session, proxy.url) for _ in range(STREAMS)))
    await upstream.stalled(1 + STREAMS)
    per_stream = (resident_bytes(pid) - before) / STREAMS / MIB
    with capsys.disabled():
        written = sum(upstream.written[1:]) / STREAMS / MIB
        print(f"\n{STREAMS} unread streams: {per_stream:.3f} MiB each in the proxy, {written:.1f} MiB each sent to it")
    assert max(upstream.written[1:]) < FLOOD_BYTES
    assert per_stream < MOST_MIB_PER_STREAM

    for response in responses:
        await assert_whole(response)
    assert upstream.written == [FLOOD_BYTES] * (1 + STREAMS)
