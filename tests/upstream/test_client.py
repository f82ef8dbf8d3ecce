"""What leaves for the model server, and what its connections may do."""

import asyncio
import gc
import io
import json
import socket
import time

import aiohappyeyeballs
import pytest

from proxy.config import Backend, Config
from proxy.edge.connection import Connection
from proxy.upstream.answer import Limits, read_whole
from proxy.upstream.client import Connections, place_of
from proxy.upstream.route import Asking, Leg
from proxy.upstream.sweep import Sweep
from tests.fakes import Do, ScriptedUpstream, completion, head, until, whole

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_the_headers_are_the_proxys_own(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, vllm_api_key="key-of-the-upstream")
        async with proxy.chat() as response:
            request_id = response.headers["x-request-id"]

        request = upstream.requests[0]
        assert {name: value for name, value in request.headers if name != "user-agent"} == {
            "host": upstream.url.removeprefix("http://"),
            "accept": "*/*",
            "accept-encoding": "identity",
            "authorization": "Bearer key-of-the-upstream",
            "x-request-id": request_id,
            "content-length": str(len(request.body)),
            "content-type": "application/json",
        }
        assert request.header("user-agent").startswith("devstral-proxy/")


@pytest.mark.parametrize(
    ("offered", "forwarded"),
    [
        (TRACE, TRACE),
        ("cc" + TRACE[2:], TRACE),
        ("ff" + TRACE[2:], None),
        (TRACE.upper(), None),
        (TRACE + "-x", None),
        ("00-" + "0" * 32 + TRACE[35:], None),
        ("canary", None),
    ],
)
async def test_a_valid_trace_context_is_passed_on(start_proxy, offered, forwarded):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        proxy.session.headers["traceparent"] = offered
        async with proxy.chat():
            pass

        passed_on = upstream.requests[0].header("traceparent")
        line = await proxy.log.line()
        if forwarded is None:
            assert passed_on is line["trace_id"] is line["span_id"] is None
        else:
            assert passed_on == f"{forwarded[:36]}{line['span_id']}{forwarded[52:]}" != forwarded
            assert line["trace_id"] == forwarded[3:35]


async def test_a_body_over_one_mebibyte_arrives_whole_and_without_a_warning(start_proxy):
    """aiohttp warns about bytes over 1 MiB, and warnings are errors in these tests."""
    text = "x" * (3 << 20)
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.post(
            f"{proxy.url}/v1/chat/completions", data=io.BytesIO(body), headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status == 200

        assert upstream.requests[0].json["messages"][0]["content"] == text


async def test_an_upstream_that_is_down_is_502_and_names_its_address(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", vllm_api_key="canary-key")
    async with proxy.chat() as response:
        error = (await response.json())["error"]

    assert (response.status, error["type"], error["code"]) == (502, "server_error", "upstream_unavailable")
    assert f"127.0.0.1:{unused_port}: connection refused" in error["message"]
    assert "canary" not in error["message"] + proxy.log.text


async def test_an_upstream_without_an_address_is_502(start_proxy):
    proxy = await start_proxy("http://no-such-host.invalid:8000")
    async with proxy.chat() as response:
        assert response.status == 502
        assert "no-such-host.invalid:8000: the name cannot be resolved" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 banana OK\r\n\r\n", b"\x15\x03\x01\x00\x02\x02"]
)
async def test_an_upstream_that_does_not_speak_http_is_502(start_proxy, answer):
    async with ScriptedUpstream([answer, Do.CLOSE]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert response.status == 502


async def test_cookies_of_the_upstream_are_not_kept(start_proxy):
    async with ScriptedUpstream([whole(completion(), set_cookie="canary=1; Path=/")]) as upstream:
        proxy = await start_proxy(upstream.url)
        for _ in range(2):
            async with proxy.chat() as response:
                assert "Set-Cookie" not in response.headers

        assert upstream.requests[1].header("cookie") is None


async def test_a_proxy_named_in_the_environment_is_not_used(start_proxy, monkeypatch, unused_port):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{unused_port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port}")
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert response.status == 200


async def test_nagles_algorithm_is_off_on_both_sides(start_proxy):
    arrived = asyncio.Event()
    async with ScriptedUpstream([head(content_type="text/event-stream"), arrived, Do.CLOSE]) as upstream:
        proxy = await start_proxy(upstream.url)
        request = asyncio.ensure_future(proxy.chat(stream=True).__aenter__())
        await upstream.asked.wait()

        sockets = [transport.get_extra_info("socket") for transport in transports_of(proxy)]
        assert [peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for peer in sockets] == [1, 1]
        arrived.set()
        (await request).close()


def transports_of(proxy):
    """The transports of the proxy's one client and its one upstream, found by their ports."""
    client = [item.transport for item in gc.get_objects() if isinstance(item, Connection) and item.transport]
    pool = proxy.client.connections._sessions.pool.connector
    return [client[-1], *(protocol.transport for protocol in pool._acquired)]


async def test_no_more_connections_than_allowed(start_proxy):
    release = asyncio.Event()
    async with ScriptedUpstream([release, whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, max_connections=2)

        async def ask():
            async with proxy.chat() as response:
                return response.status

        asked = [asyncio.ensure_future(ask()) for _ in range(5)]
        await until(lambda: len(upstream.requests) == 2 and len(proxy.edge.in_flight) == 5)
        assert upstream.connections_made == 2
        release.set()

        assert await asyncio.gather(*asked) == [200] * 5
        assert upstream.connections_made == 2


async def test_only_one_method_sends_a_completion_and_it_wants_a_translated_request():
    """The type checker proves the rest; here only that nothing else is public."""
    public = {name for name in vars(Connections) if not name.startswith("_")}

    assert public == {"open", "close", "send", "tokenize", "models", "is_healthy", "question"}
    for method in (Connections.send, Connections.tokenize):
        assert method.__annotations__["request"].__name__ == "UpstreamRequest"


async def test_closing_leaves_no_connection_behind():
    async with ScriptedUpstream([whole({"object": "list", "data": []})]) as upstream:
        backend = Backend(url=upstream.url)
        client = Connections(backend, place_of(backend), "a", Config(), Sweep())
        await client.open()
        assert await client.is_healthy()
        asking = Asking(None, "id", Limits(first_byte_s=5, between_bytes_s=5), Leg())
        async with client.models(asking) as answer:
            await read_whole(answer, 1024)
        await client.close()
        await upstream.left.wait()


async def test_a_loop_that_stood_still_while_connecting_looks_at_its_socket_before_it_gives_up(
    start_proxy, monkeypatch
):
    connect, stalls = aiohappyeyeballs.start_connection, [0.5]

    async def stalled_once(**options):
        if stalls and options["addr_infos"][0][-1][1] == int(upstream.url.rpartition(":")[2]):
            time.sleep(stalls.pop())  # noqa: ASYNC251 - nothing on this loop runs meanwhile, and then its timers are late
            await asyncio.sleep(0.01)  # as for a server that is further away than loopback: the timer is first
        return await connect(**options)

    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, connect_timeout_s=0.1, max_attempts=1)
        monkeypatch.setattr(aiohappyeyeballs, "start_connection", stalled_once)
        async with proxy.chat() as response:
            assert response.status == 200

    assert stalls == []
