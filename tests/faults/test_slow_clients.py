"""
Clients that take their time: in their headers (slowloris), in their bodies, and in reading.

Each is ended by a timer of its own, whatever trickles meanwhile, and others are served.
"""

import asyncio
import json

import pytest

from tests.conftest import SHORTCUTS
from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, completion, event, text_chunk, until, whole

#: More slow clients than the worker has places for requests.
SLOW_CLIENTS = 50
BODY = json.dumps({"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]}).encode()
#: Often enough that no silence is as long as a timer.
TRICKLE_S = 0.02


async def trickled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece: bytes) -> bytes:
    """Send a piece again and again until the proxy ends the connection; return what it said."""

    async def trickle() -> None:
        while not writer.transport.is_closing():
            writer.write(piece)
            await asyncio.sleep(TRICKLE_S)

    sending = asyncio.ensure_future(trickle())
    try:
        async with asyncio.timeout(10):
            return await reader.readuntil(b"}}")
    finally:
        sending.cancel()
        await asyncio.wait({sending})
        writer.close()


def code_of(answer: bytes) -> tuple[int, str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    return int(head.split(b" ")[1]), error["code"], error["message"].partition(":")[0]


async def test_headers_that_trickle_end_in_408_and_hold_up_nobody(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, header_timeout_s=0.3, max_in_flight=2, max_queue=0)
        clients = [await proxy.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n") for _ in range(SLOW_CLIENTS)]
        answers = [asyncio.ensure_future(trickled(*client, b"X-A: b\r\n")) for client in clients]
        async with proxy.chat() as response:
            assert response.status == 200

        assert {code_of(answer) for answer in await asyncio.gather(*answers)} == {
            (408, "request_timeout", "header_timeout_s")
        }
        await until(lambda: proxy.edge.sweep._watches == set())


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_trickles_ends_in_408_and_gives_back_what_it_held(start_proxy, unused_port, chunked):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", read_timeout_s=0.3)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100000"
    client = await proxy.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
    answering = asyncio.ensure_future(trickled(*client, b"1\r\n{\r\n" if chunked else b"{"))
    await until(lambda: proxy.edge.admission.buffered_bytes > 0)

    assert code_of(await answering) == (408, "request_timeout", "read_timeout_s")
    assert (proxy.edge.admission.in_flight, proxy.edge.admission.buffered_bytes) == (0, 0)


async def test_a_client_that_never_reads_is_ended_by_timeout_s_and_gives_back_its_place(start_proxy, monkeypatch):
    monkeypatch.setattr("proxy.edge.call._LAST_WORDS_S", 0.1)
    flood = [event(text_chunk("x" * 32_000))] * 1000
    async with ScriptedUpstream([STREAM_HEAD, *flood, Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url, timeout_s=1.0)
        body = BODY[:-1] + b',"stream":true}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        reader, writer = await proxy.raw(head + body)
        await reader.readuntil(b"data: ")
        writer.transport.pause_reading()

        await until(lambda: proxy.edge.admission.in_flight == 0)
        await until(upstream.left.is_set)
        line = await proxy.log.line()
        writer.transport.abort()
        # aiohttp's own writer has no last words for who does not read: for it the client has left
        assert line["error"] == ("client_disconnect" if SHORTCUTS == "none" else "upstream_timeout")
