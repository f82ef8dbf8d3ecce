"""Each timer ends a request with 504 and its own name (F13). The lengths are short; none of them is measured."""

import asyncio
import json
import socket
import time

import pytest

from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, completion, event, text_chunk, text_stream, whole

#: seconds that never pass in these tests
LONG = 1000.0


async def test_connect(start_proxy):
    """A listener with a full backlog does not answer SYNs: the connection hangs, as it does with a dead host."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        host, port = full.getsockname()
        proxy = await start_proxy(f"http://{host}:{port}", connect_timeout_s=0.05)
        async with asyncio.timeout(10), proxy.chat() as response:
            error = (await response.json())["error"]
        for filler in fillers:
            filler.close()

    assert (response.status, error["code"]) == (504, "upstream_timeout")
    assert error["message"].startswith("connect_timeout_s")
    assert f"{host}:{port}" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [[], [STREAM_HEAD[:20]], [STREAM_HEAD]], ids=["nothing", "half a head", "a head"])
async def test_first_byte(start_proxy, stream, script):
    async with ScriptedUpstream([*script, Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url, first_byte_timeout_s=0.2, between_bytes_timeout_s=LONG)
        async with proxy.chat(stream=stream) as response:
            error = (await response.json())["error"]
        await upstream.left.wait()

        if script == [STREAM_HEAD] and not stream:
            assert response.status == 502  # events where JSON was asked for
            return
        assert (response.status, error["code"]) == (504, "upstream_timeout")
        assert error["message"].startswith("first_byte_timeout_s: the model server was silent for 0.2 s")
        assert (await proxy.log.line())["status"] == 504


async def test_between_bytes_before_the_client_has_anything(start_proxy):
    async with ScriptedUpstream([whole(completion())[:-5], Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url, first_byte_timeout_s=LONG, between_bytes_timeout_s=0.05)
        async with proxy.chat() as response:
            error = (await response.json())["error"]

    assert response.status == 504
    assert error["message"].startswith("between_bytes_timeout_s")


async def test_between_bytes_inside_a_stream_is_an_error_event(start_proxy):
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hel")), Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url, first_byte_timeout_s=LONG, between_bytes_timeout_s=0.05)
        async with proxy.chat(stream=True) as response:
            *_, error, done, rest = (await response.read()).split(b"\n\n")
        await upstream.left.wait()

        assert response.status == 200
        assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"
        assert (done, rest) == (b"data: [DONE]", b"")
        line = await proxy.log.line()
        assert (line["status"], line["error"], line["level"]) == (200, "upstream_timeout", "warning")


async def test_bytes_that_keep_coming_keep_a_stream_alive(start_proxy):
    events = [step for _ in range(6) for step in (0.1, event(text_chunk("x")))]
    async with ScriptedUpstream(
        [STREAM_HEAD, *events, event(text_chunk(finish="stop")), event(b"[DONE]"), b"0\r\n\r\n"]
    ) as upstream:
        proxy = await start_proxy(upstream.url, between_bytes_timeout_s=0.5)
        async with proxy.chat(stream=True) as response:
            assert b"error" not in await response.read()


async def test_total(start_proxy):
    events = [step for _ in range(1000) for step in (0.005, event(text_chunk("x")))]
    async with ScriptedUpstream([STREAM_HEAD, *events]) as upstream:
        proxy = await start_proxy(upstream.url, timeout_s=0.1)
        async with proxy.chat(stream=True) as response:
            stream = await response.read()
        await upstream.left.wait()

    error = json.loads(stream.split(b"\n\n")[-3].removeprefix(b"data: "))["error"]
    assert error["code"] == "upstream_timeout"
    assert error["message"].startswith("timeout_s: the request took longer than 0.1 s")


async def test_a_client_that_reads_slowly_is_not_the_upstreams_silence(start_proxy):
    """The timer for silences stands still while the proxy waits for its client."""
    events = event(text_chunk("x" * 4096)) * 4000
    async with ScriptedUpstream(
        [STREAM_HEAD + events + event(text_chunk(finish="stop")) + event(b"[DONE]") + b"0\r\n\r\n"]
    ) as upstream:
        proxy = await start_proxy(upstream.url, between_bytes_timeout_s=0.5)
        async with proxy.chat(stream=True) as response:
            await asyncio.sleep(1.0)  # far longer than the timer; the buffers are full long before
            assert b'"error"' not in await response.read()


async def test_a_busy_loop_is_not_the_upstreams_silence(start_proxy):
    blocked = asyncio.Event()
    end = [event(text_chunk("b")), event(text_chunk("", finish="stop")), event(b"[DONE]"), b"0\r\n\r\n"]
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("a")), blocked, *end]) as upstream:
        proxy = await start_proxy(upstream.url, between_bytes_timeout_s=0.2)
        async with proxy.chat(stream=True) as response:
            blocked.set()
            time.sleep(0.5)  # noqa: ASYNC251 - nothing on this loop runs meanwhile, and then everything is late
            assert b'"error"' not in await response.read()


async def test_a_stream_that_ends_in_time_leaves_no_timer_behind(start_proxy):
    async with ScriptedUpstream([text_stream("x")]) as upstream:
        proxy = await start_proxy(upstream.url, between_bytes_timeout_s=0.3, first_byte_timeout_s=0.3, timeout_s=0.3)
        async with proxy.chat(stream=True) as response:
            await response.read()
        await asyncio.sleep(0.4)
        async with proxy.chat(stream=True) as response:
            assert response.status == 200
