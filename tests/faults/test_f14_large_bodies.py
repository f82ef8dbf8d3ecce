"""F14: the limit of a body is named, and held before the body is read. envoyproxy/ai-gateway#827, #1209."""

import asyncio
import json

import pytest

from tests.fakes import ScriptedUpstream, completion, whole

MIB = 1024 * 1024
LIMIT = 32 * MIB


def assert_too_large(answer: bytes) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close" in head
    error = json.loads(body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "payload_too_large")
    assert str(LIMIT) in error["message"]


async def test_a_declared_length_over_the_limit_is_refused_before_a_byte_of_it_is_sent(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    reader, writer = await proxy.raw(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (33 * MIB)
    )
    assert_too_large(await reader.readuntil(b"}}"))
    writer.close()


async def test_a_client_that_sends_it_all_the_same_still_gets_its_answer(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    reader, writer = await proxy.raw(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (33 * MIB)
    )
    for _ in range(33):
        writer.write(b"x" * MIB)
        await writer.drain()
    assert_too_large(await reader.read())
    writer.close()


async def test_a_chunked_body_is_counted_and_refused_at_the_limit(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    reader, writer = await proxy.raw(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(33):
        writer.write(b"100000\r\n" + b"x" * MIB + b"\r\n")
        await writer.drain()
    assert_too_large(await reader.readuntil(b"}}"))
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_just_under_the_limit_arrives_whole(start_proxy, chunked):
    text = "x" * (8 * MIB)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, max_body_bytes=len(body))
        reader, writer = await proxy.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
        writer.write(data)
        async with asyncio.timeout(20):
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()

        assert upstream.requests[0].json["messages"][0]["content"] == text
