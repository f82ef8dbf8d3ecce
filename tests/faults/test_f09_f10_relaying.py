"""
F09: an event is relayed before the next one exists. F10: where the bytes are cut does not matter.

BerriAI/litellm#26102; ggml-org/llama.cpp#24774; vllm-project/aibrix#2653; anomalyco/opencode#25858.
"""

import asyncio

import pytest

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, chunk, event, head, text_chunk

TEXTS = ["Grüße, ", "世界 ", "🌍", '\\n"\r']


async def test_each_event_is_relayed_before_the_next_is_sent(start_proxy):
    """No clocks: the upstream sends an event only after the client has the one before."""
    seen = [asyncio.Event() for _ in TEXTS]
    script = [STREAM_HEAD]
    for text, relayed in zip(TEXTS, seen, strict=True):
        script += [event(text_chunk(text)), relayed]
    script += [event(text_chunk("", finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream(script) as upstream, asyncio.timeout(10):
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            for relayed in seen:
                await anext(events_with_text(response))
                relayed.set()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")


async def events_with_text(response):
    while True:
        data = await response.content.readuntil(b"\n\n")
        if b'"content":""' not in data.replace(b" ", b""):
            yield data


def answer() -> bytes:
    events = [text_chunk("", role="assistant"), *map(text_chunk, TEXTS), text_chunk("", finish="stop")]
    return b"".join(map(event, events)) + DONE + STREAM_END


async def test_a_stream_that_comes_byte_by_byte_is_the_same_stream(start_proxy):
    whole = STREAM_HEAD + answer()
    bytewise = [step for i in range(len(whole)) for step in (whole[i : i + 1], 0.0)]
    async with ScriptedUpstream([whole], bytewise) as upstream:
        proxy = await start_proxy(upstream.url)
        streams = []
        for _ in range(2):
            async with proxy.chat(stream=True) as response:
                streams.append(await response.read())

        assert streams[0] == streams[1]
        assert "世界".encode() in streams[0] or b"\\u4e16\\u754c" in streams[0]


async def test_an_http_chunk_may_end_anywhere(start_proxy):
    lines = b"".join(b"data: " + part.partition(b"data: ")[2] for part in answer().split(b"\r\n") if b"data: " in part)
    sizes = (1, 2, 3, 7, 50, len(lines))
    scripts = [
        [STREAM_HEAD + b"".join(chunk(lines[i : i + size]) for i in range(0, len(lines), size)) + STREAM_END]
        for size in sizes
    ]
    async with ScriptedUpstream(*scripts) as upstream:
        proxy = await start_proxy(upstream.url)
        streams = set()
        for _ in sizes:
            async with proxy.chat(stream=True) as response:
                streams.add(await response.read())

        assert len(streams) == 1
        assert streams.pop().endswith(b"data: [DONE]\n\n")


async def test_one_event_of_three_megabytes_passes(start_proxy):
    """F11: aio-libs/aiohttp#4453."""
    events = [event(text_chunk("x" * (3 << 20))), event(text_chunk("", finish="stop"))]
    async with ScriptedUpstream([STREAM_HEAD, *events, DONE, STREAM_END]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            stream = await response.read()

        assert stream.count(b"x") >= 3 << 20
        assert b'"error"' not in stream


async def test_an_event_over_the_cap_is_an_error_that_names_the_cap(start_proxy):
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("x" * 2000))]) as upstream:
        proxy = await start_proxy(upstream.url, max_event_bytes=1000)
        async with proxy.chat(stream=True) as response:
            assert response.status == 502
            assert "1000 bytes" in (await response.json())["error"]["message"]
        await upstream.left.wait()


@pytest.mark.parametrize("http", [b"HTTP/1.0", b"HTTP/1.1"])
async def test_a_client_of_http_1_0_gets_the_stream_without_chunks(start_proxy, http):
    stream_head = head(content_type="text/event-stream", transfer_encoding="chunked")
    async with ScriptedUpstream([stream_head + answer()]) as upstream:
        proxy = await start_proxy(upstream.url)
        body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
        request = (
            b"POST /v1/chat/completions " + http + b"\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        )
        reader, writer = await proxy.raw(request % len(body) + body)
        received = await reader.read()
        writer.close()

        assert (b"Transfer-Encoding: chunked" in received) == (http == b"HTTP/1.1")
        assert b"data: [DONE]\n\n" in received
