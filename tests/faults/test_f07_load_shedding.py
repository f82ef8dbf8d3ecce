"""F07 and shedding: too many requests wait, then get 503 with Retry-After, before their bodies are read."""

import asyncio
import json

import pytest

from tests.fakes import ScriptedUpstream, completion, until, whole
from tests.observe.told import told

BODY = json.dumps({"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]}).encode()


async def test_beyond_the_bound_a_request_waits_and_beyond_the_queue_it_is_503(start_proxy):
    release = asyncio.Event()
    async with ScriptedUpstream([release, whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, max_in_flight=2, max_queue=1)

        async def ask():
            async with proxy.chat() as response:
                return response.status, response.headers.get("Retry-After"), (await response.json()).get("error")

        asked = [asyncio.ensure_future(ask()) for _ in range(2)]
        await until(lambda: len(upstream.requests) == 2)
        asked.append(asyncio.ensure_future(ask()))
        await until(lambda: proxy.edge.admission.queued == 1)
        status, retry_after, error = await ask()
        assert (status, error["code"], int(retry_after) >= 1) == (503, "overloaded", True)
        async with proxy.session.get(f"{proxy.url}/livez") as response:
            assert response.status == 200
        async with proxy.session.get(f"{proxy.url}/metrics") as response:
            text = await response.text()
        assert "devstral_proxy_queued_requests 1.0" in text
        assert 'devstral_proxy_shed_total{reason="queue_full"} 1.0' in text
        release.set()
        assert [each[0] for each in await asyncio.gather(*asked)] == [200] * 3
        assert len(upstream.requests) == 3


@pytest.mark.parametrize("bounds", [{"max_in_flight": 1, "max_queue": 0}, {"max_buffered_bytes": 100}])
async def test_a_large_body_is_refused_before_it_is_read_and_the_client_can_read_why(start_proxy, bounds):
    """Twenty megabytes are on their way: closing at once would reset the connection, and the answer with it."""
    release = asyncio.Event()
    async with ScriptedUpstream([release, whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, **bounds)
        first = asyncio.ensure_future(proxy.chat().__aenter__())
        await upstream.asked.wait()
        size = 20_000_000
        reader, writer = await proxy.raw(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            % size
        )
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: " in answer
        assert b"\r\nConnection: close" in answer
        writer.close()
        release.set()
        (await first).close()


async def test_a_client_that_leaves_the_queue_frees_its_place_there(start_proxy):
    release = asyncio.Event()
    async with ScriptedUpstream([release, whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, max_in_flight=1, max_queue=1)
        first = asyncio.ensure_future(proxy.chat().__aenter__())
        await upstream.asked.wait()
        waiting = asyncio.ensure_future(proxy.chat().__aenter__())
        await until(lambda: proxy.edge.admission.queued == 1)
        waiting.cancel()
        await until(lambda: proxy.edge.admission.queued == 0)
        release.set()
        (await first).close()
        await until(lambda: proxy.edge.admission.in_flight == 0)
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_bytes_of_bodies_are_counted_while_they_come_and_given_back(start_proxy, framing):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        if framing == "length":
            head += b"Content-Length: %d\r\n\r\n" % len(BODY)
            first, rest = BODY[:10], BODY[10:]
            held = len(BODY)
        else:
            head += b"Transfer-Encoding: chunked\r\n\r\n"
            first, rest = b"a\r\n" + BODY[:10] + b"\r\n", b"%x\r\n" % (len(BODY) - 10) + BODY[10:] + b"\r\n0\r\n\r\n"
            held = 10
        reader, writer = await proxy.raw(head + first)
        await until(lambda: proxy.edge.admission.buffered_bytes == held)
        writer.write(rest)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await until(lambda: proxy.edge.admission.buffered_bytes == 0)
        writer.close()


async def test_how_long_one_waited_in_vain_is_written_down(start_proxy):
    release = asyncio.Event()
    async with ScriptedUpstream([release, whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, max_in_flight=1, queue_timeout_s=0.05)
        first = asyncio.ensure_future(proxy.chat().__aenter__())
        await upstream.asked.wait()
        async with proxy.chat() as response:
            assert response.status == 503
        async with proxy.session.post(f"{proxy.url}/v1/messages/count_tokens", json={}) as response:
            assert response.status == 503
        lines = proxy.log.lines("request")
        values = await told(proxy.edge.metrics)
        release.set()
        (await first).close()

    assert [line["queue_ms"] >= 50 for line in lines] == [True, True]
    assert values["queue_wait_seconds_count",] == 2
