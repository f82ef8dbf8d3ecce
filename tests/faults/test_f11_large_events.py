"""
F11: an event may be as large as the cap says, however it is cut, and one that is larger ends the stream by name.

aio-libs/aiohttp#4453; NVIDIA/TensorRT-LLM#13952; sgl-project/sglang#7301.
"""

import asyncio
import json

import pytest

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, chunk, event, text_chunk

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [1000, 64 * 1024, 3 * MIB + 100], ids=["1 kB", "64 KiB", "one piece"])
async def test_three_megabytes_in_one_event_arrive_whole(start_proxy, size):
    data = b"data: " + json.dumps(text_chunk("x" * (3 * MIB))).encode() + b"\n\n"
    pieces = b"".join(chunk(data[i : i + size]) for i in range(0, len(data), size))
    script = [STREAM_HEAD + pieces + event(text_chunk("", finish="stop")) + DONE + STREAM_END]
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            stream = await response.read()

        events = [json.loads(block[6:]) for block in stream.split(b"\n\n") if block.startswith(b"data: {")]
        assert "".join(each["choices"][0]["delta"].get("content") or "" for each in events) == "x" * (3 * MIB)
        assert stream.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("has_end", [True, False], ids=["too long", "without end"])
async def test_a_larger_one_behind_others_ends_the_stream_and_names_the_cap(start_proxy, has_end):
    relayed = asyncio.Event()
    large = event(text_chunk("x" * 2000)) if has_end else chunk(b"data: " + b"x" * 2000)
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hel")), relayed, large]) as upstream:
        proxy = await start_proxy(upstream.url, max_event_bytes=1000)
        async with proxy.chat(stream=True) as response, asyncio.timeout(5):
            begun = await response.content.readuntil(b"\n\n")
            relayed.set()
            *_, error, done, rest = (begun + await response.read()).split(b"\n\n")
        await upstream.left.wait()

    assert "1000 bytes" in json.loads(error.removeprefix(b"data: "))["error"]["message"]
    assert (done, rest) == (b"data: [DONE]", b"")
