"""How long a client may take over the head of a request, and how long it may say nothing between two."""

import asyncio
import json

import pytest

from tests.fakes import ScriptedUpstream, completion, until, whole

BODY = json.dumps({"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)


async def rest_of(reader):
    async with asyncio.timeout(5):
        return await reader.read()


@pytest.mark.parametrize("begun", [b"P", HEAD[:-2], b"GET /livez HTTP/1.1\r\nX: " + b"y" * 100])
async def test_a_head_that_does_not_end_is_408_and_the_connection_is_over(start_proxy, begun):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, header_timeout_s=0.1)
        reader, writer = await proxy.raw(begun)
        answer = await rest_of(reader)
        writer.close()

        assert answer.startswith(b"HTTP/1.1 408 ")
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (error["code"], error["type"]) == ("request_timeout", "invalid_request_error")
        assert error["message"].startswith("header_timeout_s")
        assert (await proxy.log.line())["status"] == 408


async def test_bytes_that_trickle_do_not_move_the_deadline(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, header_timeout_s=0.2)
        reader, writer = await proxy.raw(HEAD[:10])
        trickle = asyncio.ensure_future(drip(writer))
        assert (await rest_of(reader)).startswith(b"HTTP/1.1 408 ")
        trickle.cancel()
        writer.close()


async def drip(writer):
    while True:
        writer.write(b"a")
        await asyncio.sleep(0.01)


async def test_a_connection_that_says_nothing_is_closed_without_a_word(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, header_timeout_s=0.1)
        reader, writer = await proxy.raw(b"")
        assert await rest_of(reader) == b""
        writer.close()
        assert proxy.log.lines("request") == []


async def test_the_time_for_a_head_does_not_count_the_body_the_answer_or_the_pause_after_it(start_proxy):
    async with ScriptedUpstream([0.3, whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, header_timeout_s=0.1)
        reader, writer = await proxy.raw(HEAD + BODY[:5])
        await asyncio.sleep(0.3)
        writer.write(BODY[5:])
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await until(lambda: proxy.log.lines("request"))
        await asyncio.sleep(0.3)
        writer.write(HEAD + BODY)
        await until(lambda: len(proxy.log.lines("request")) == 2)
        assert [line["status"] for line in proxy.log.lines("request")] == [200, 200]
        writer.close()


async def test_the_next_head_on_a_kept_connection_has_the_same_time(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, header_timeout_s=0.1)
        reader, writer = await proxy.raw(HEAD + BODY)
        await until(lambda: proxy.log.lines("request"))
        writer.write(HEAD[:20])
        assert b"HTTP/1.1 408 " in await rest_of(reader)
        writer.close()


async def test_a_kept_connection_without_a_next_request_is_closed(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, client_idle_s=0.2)
        reader, writer = await proxy.raw(HEAD + BODY)
        answer = await rest_of(reader)
        writer.close()

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"408" not in answer
