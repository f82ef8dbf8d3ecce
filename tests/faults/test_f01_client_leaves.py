"""
F01: when the client leaves, the model server stops: its connection is closed at once, in every phase.

BerriAI/litellm#13774, #37140; aio-libs/aiohttp#7056.
"""

import asyncio
import json
import socket
import struct

import pytest

from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, event, head, text_chunk, until

#: Only a bound for a test that would else hang; nothing here takes that long.
PATIENCE_S = 5


def request(*, stream: bool) -> bytes:
    body = json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def leave(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    if reset:
        peer = writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


PHASES = {
    "before the first byte of a stream": (True, [Do.WAIT_FOR_PEER], False),
    "between the upstream's head and its first event": (True, [STREAM_HEAD, Do.WAIT_FOR_PEER], False),
    "inside a stream": (True, [STREAM_HEAD, event(text_chunk("a")), Do.WAIT_FOR_PEER], True),
    "before a whole answer": (False, [Do.WAIT_FOR_PEER], False),
    "inside a whole answer": (False, [head(content_length="100") + b"{", Do.WAIT_FOR_PEER], False),
}


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize(("stream", "script", "has_answer"), PHASES.values(), ids=PHASES)
async def test_the_upstream_is_left_when_the_client_leaves(start_proxy, stream, script, has_answer, reset):
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url)
        reader, writer = await proxy.raw(request(stream=stream))
        await upstream.asked.wait()
        if has_answer:
            await reader.readuntil(b"\n\n")

        leave(writer, reset=reset)
        async with asyncio.timeout(PATIENCE_S):
            await upstream.left.wait()

        line = await proxy.log.line()
        assert (line["status"], line["error"], line["level"]) == (499, "client_disconnect", "info")
        assert len(proxy.edge.in_flight) == 0


async def test_the_upstream_is_left_when_a_client_that_does_not_read_leaves(start_proxy):
    flood = event(text_chunk("x" * 4096)) * 4000
    async with ScriptedUpstream([STREAM_HEAD + flood, Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url)
        reader, writer = await proxy.raw(request(stream=True))
        await reader.readuntil(b"\n\n")
        writer.transport.pause_reading()
        await asyncio.sleep(0.05)  # long enough for the buffers in between to fill

        leave(writer, reset=True)
        async with asyncio.timeout(PATIENCE_S):
            await upstream.left.wait()

        assert (await proxy.log.line())["status"] == 499


async def test_a_client_that_leaves_while_it_sends_its_body_costs_the_upstream_nothing(start_proxy):
    async with ScriptedUpstream([]) as upstream:
        proxy = await start_proxy(upstream.url)
        _, writer = await proxy.raw(request(stream=True)[:-10])
        await until(lambda: len(proxy.edge.in_flight))
        writer.close()

        assert (await proxy.log.line())["status"] == 499
        assert upstream.connections_made == 0
