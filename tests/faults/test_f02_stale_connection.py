"""
F02: a pooled connection that the server has just closed is retried once on a fresh one, and nothing else ever is.

maximhq/bifrost#4496; sgl-project/sglang#20851. vLLM closes idle connections after 5 s.
"""

import asyncio
import gc

import pytest

from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, completion, text_stream, until, whole

FIRST = [whole(completion("first"))]


@pytest.mark.parametrize("end", [Do.CLOSE, Do.RESET], ids=["FIN", "RST"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_used_connection_that_dies_without_an_answer_is_replaced(start_proxy, stream, end):
    answer = text_stream("second") if stream else whole(completion("second"))
    async with ScriptedUpstream(FIRST, [end], [answer]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            await response.read()
        async with proxy.chat(stream=stream) as response:
            assert response.status == 200
            assert b"second" in await response.read()

        assert (len(upstream.requests), upstream.connections_made) == (3, 2)
        assert upstream.requests[1].body == upstream.requests[2].body


async def test_there_is_only_one_retry(start_proxy):
    async with ScriptedUpstream(FIRST, [Do.CLOSE]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            await response.read()
        async with proxy.chat() as response:
            assert response.status == 502

        assert len(upstream.requests) == 3


@pytest.mark.parametrize("end", [Do.CLOSE, Do.RESET], ids=["FIN", "RST"])
async def test_a_fresh_connection_that_dies_is_not_retried(start_proxy, end):
    async with ScriptedUpstream([end]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert response.status == 502
            error = (await response.json())["error"]

        assert error["code"] == "upstream_disconnected"
        assert "closed the connection without an answer" in error["message"]
        assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "begun", [b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Le", STREAM_HEAD], ids=["2", "header", "head"]
)
async def test_a_used_connection_that_dies_inside_an_answer_is_not_retried(start_proxy, begun):
    async with ScriptedUpstream(FIRST, [begun, Do.CLOSE]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            await response.read()
        async with proxy.chat(stream=True) as response:
            assert response.status == 502

        assert len(upstream.requests) == 2


async def test_a_timer_is_not_a_reason_to_retry(start_proxy):
    async with ScriptedUpstream(FIRST, [Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url, first_byte_timeout_s=0.05)
        async with proxy.chat() as response:
            await response.read()
        async with proxy.chat() as response:
            assert response.status == 504

        assert len(upstream.requests) == 2


async def test_an_idle_connection_that_is_reset_leaves_no_noise(start_proxy):
    has_head, reset = asyncio.Event(), asyncio.Event()
    answer = text_stream("first").removeprefix(STREAM_HEAD)
    async with ScriptedUpstream([STREAM_HEAD, has_head, answer, reset, Do.RESET], FIRST) as upstream:
        proxy = await start_proxy(upstream.url)
        asked = asyncio.ensure_future(proxy.chat(stream=True).__aenter__())
        await upstream.asked.wait()
        await asyncio.sleep(0.05)  # for the proxy to wait for the body of an answer whose head it has
        has_head.set()
        await (await asked).read()
        reset.set()
        await until(lambda: not upstream.open_connections)
        async with proxy.chat() as response:
            assert response.status == 200
        gc.collect()
        await asyncio.sleep(0)

        assert proxy.log.lines("library") == []


async def test_a_connection_that_was_seen_closing_is_not_used(start_proxy):
    async with ScriptedUpstream(FIRST) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            await response.read()
        upstream.close_idle()
        await until(lambda: not upstream.open_connections)
        async with proxy.chat() as response:
            assert response.status == 200

        assert (len(upstream.requests), upstream.connections_made) == (2, 2)
