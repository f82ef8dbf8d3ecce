"""
How long a client may take over its headers, and how long its connection is kept between requests.

This also holds aiohttp to what `Connection` takes from its `RequestHandler` without a public name: `_request_count`,
`_messages`, `_waiter` and `_next_keepalive_close_time`.
"""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.edge.connection import Connection
from tests.fakes import ScriptedUpstream, completion, text_stream, until, whole

BODY = json.dumps({"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)
REQUEST = HEAD + BODY
HEALTH = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
#: What a client would send if it went on.
PARTS = {
    "a letter": b"P",
    "a line": b"POST / HTTP/1.1\r\n",
    "all but the end": HEALTH[:-2],
    "one byte less": HEALTH[:-1],
}
SHORT_S = 0.05
#: Some times `SHORT_S`, and what the sweep adds to it.
LONG_AFTER_S = 0.4
#: Longer than a test.
NEVER_S = 60


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one answer with a length; return its status and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
    return int(head.split(b" ")[1]), await reader.readexactly(length)


def assert_timed_out(data: bytes) -> None:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 408 Request Timeout"
    assert b"Connection: close" in lines
    assert b"Content-Length: %d" % len(body) in lines
    assert any(line.startswith(b"Date: ") for line in lines)
    assert json.loads(body)["error"] == {
        "message": "header_timeout_s: the request's headers did not arrive within 0.05 s.",
        "type": "invalid_request_error",
        "param": None,
        "code": "request_timeout",
    }


# --- headers that do not come


async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", header_timeout_s=SHORT_S, client_idle_s=NEVER_S)
    reader, writer = await proxy.raw(b"")

    assert await reader.read() == b""
    writer.close()
    assert proxy.log.lines("request") == []


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("before", [b"", HEALTH], ids=["first", "next"])
async def test_a_part_of_a_head_is_answered_408_and_the_connection_ends(
    start_proxy, unused_port, monkeypatch, before, part
):
    monkeypatch.setattr("proxy.edge.connection._LAST_WORDS_S", NEVER_S)  # the end is said at once
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", header_timeout_s=SHORT_S, client_idle_s=NEVER_S)
    reader, writer = await proxy.raw(before)
    if before:
        assert (await answer(reader))[0] == 200
    writer.write(part)

    data = await reader.read()
    writer.close()
    assert_timed_out(data)
    line = proxy.log.lines("request")[-1]
    assert (line["status"], line["error"], line["client_ip"]) == (408, "request_timeout", "127.0.0.1")
    assert f"x-request-id: {line['request_id']}".encode() in data
    await until(lambda: proxy.edge.sweep._watches == set())


async def test_what_comes_after_a_408_is_not_answered_any_more(start_proxy, unused_port, monkeypatch):
    monkeypatch.setattr("proxy.edge.connection._LAST_WORDS_S", SHORT_S)
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", header_timeout_s=SHORT_S)
    reader, writer = await proxy.raw(HEALTH[:-2])
    first = await reader.readuntil(b"}}")
    writer.write(b"\r\n" + HEALTH)

    assert_timed_out(first)
    assert await reader.read() == b""
    await asyncio.sleep(LONG_AFTER_S)
    writer.close()
    assert proxy.edge.sweep._watches == set()
    assert len(proxy.log.lines("request")) == 1


async def test_a_408_that_nobody_reads_does_not_keep_the_connection(start_proxy, unused_port, monkeypatch):
    monkeypatch.setattr("proxy.edge.connection._LAST_WORDS_S", SHORT_S)
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", header_timeout_s=SHORT_S)
    _, writer = await proxy.raw(b"GET ")
    writer.transport.pause_reading()  # so that the client does not close on seeing the end

    await until(lambda: proxy.log.lines("request"))
    await until(lambda: proxy.edge.sweep._watches == set())
    writer.close()


async def test_a_client_that_leaves_in_its_headers_is_forgotten(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", header_timeout_s=NEVER_S)
    _, writer = await proxy.raw(b"GET ")
    await until(lambda: len(proxy.edge.sweep._watches) == 1)
    writer.close()

    await until(lambda: proxy.edge.sweep._watches == set())
    assert proxy.log.lines("request") == []


# --- what the headers' timer must not end


async def test_a_connection_between_requests_is_not_looked_at_and_stays(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", header_timeout_s=SHORT_S, client_idle_s=NEVER_S)
    reader, writer = await proxy.raw(HEALTH)
    assert (await answer(reader))[0] == 200
    assert proxy.edge.sweep._watches == set()
    await asyncio.sleep(LONG_AFTER_S)
    writer.write(HEALTH)

    assert (await answer(reader))[0] == 200
    writer.close()


async def test_empty_lines_between_requests_are_no_head(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", header_timeout_s=SHORT_S, client_idle_s=NEVER_S)
    reader, writer = await proxy.raw(HEALTH)
    assert (await answer(reader))[0] == 200
    writer.write(b"\r\n")
    await asyncio.sleep(LONG_AFTER_S)
    writer.write(HEALTH)

    assert (await answer(reader))[0] == 200
    writer.close()


@pytest.mark.parametrize("cut", [len(HEAD), len(HEAD) + 1, len(REQUEST) - 1], ids=["before", "in", "at the end"])
@pytest.mark.parametrize("requests", [1, 2])
async def test_a_body_that_comes_late_is_no_head(start_proxy, cut, requests):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, header_timeout_s=SHORT_S, client_idle_s=NEVER_S)
        reader, writer = await proxy.raw(b"")
        for _ in range(requests):
            writer.write(REQUEST[:cut])
            await asyncio.sleep(LONG_AFTER_S)
            writer.write(REQUEST[cut:])
            assert (await answer(reader))[0] == 200
            await asyncio.sleep(LONG_AFTER_S)
        writer.close()


async def test_a_part_of_the_next_head_does_not_cut_the_answer_before_it(start_proxy):
    go_on = asyncio.Event()
    async with ScriptedUpstream([go_on, text_stream("Hello")]) as upstream:
        proxy = await start_proxy(upstream.url, header_timeout_s=SHORT_S, client_idle_s=NEVER_S)
        body = BODY[:-1] + b',"stream":true}'
        head = HEAD.replace(b"%d" % len(BODY), b"%d" % len(body))
        reader, writer = await proxy.raw(head + body)
        await upstream.asked.wait()
        writer.write(HEALTH[:-2])
        await asyncio.sleep(LONG_AFTER_S)
        go_on.set()

        first = await reader.readuntil(b"0\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200 ")
        assert b"data: [DONE]" in first
        assert_timed_out(await reader.read())
        writer.close()


async def test_a_head_behind_another_request_is_whole_when_its_rest_comes(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", header_timeout_s=SHORT_S, client_idle_s=NEVER_S)
    reader, writer = await proxy.raw(HEALTH + HEALTH[:-2])
    assert (await answer(reader))[0] == 200
    await asyncio.sleep(LONG_AFTER_S)
    writer.write(HEALTH[-2:])

    assert (await answer(reader))[0] == 200
    assert proxy.edge.sweep._watches == set()
    writer.close()


async def test_a_process_that_stood_still_reads_what_has_come_before_it_refuses(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", header_timeout_s=SHORT_S, client_idle_s=NEVER_S)
    loop = asyncio.get_running_loop()
    with connected(proxy.port) as client, closing_pair() as (alarm, bell):

        def stand_still() -> None:
            alarm.recv(1)
            client.send(HEALTH[-2:])
            time.sleep(LONG_AFTER_S)

        # What stands still is a socket's turn: the loop has looked for others that have something before it.
        loop.add_reader(alarm, stand_still)
        for _ in range(2):
            client.send(HEALTH[:-2])
            await until(lambda: len(proxy.edge.sweep._watches) == 1)
            bell.send(b"!")
            assert (await loop.sock_recv(client, 4096)).startswith(b"HTTP/1.1 200 ")
        loop.remove_reader(alarm)


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """A client that the loop does not write for: its bytes go out while the loop stands still."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setblocking(False)
        yield client


@contextmanager
def closing_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


async def test_a_head_that_came_behind_a_declined_upgrade_is_no_part(start_proxy):
    """aiohttp keeps what comes behind an upgrade, and reads it in `finish_response`, past `data_received`."""
    go_on = asyncio.Event()
    async with ScriptedUpstream([go_on, whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, header_timeout_s=SHORT_S, client_idle_s=NEVER_S)
        upgrade = HEAD[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + BODY
        reader, writer = await proxy.raw(upgrade)
        await upstream.asked.wait()
        writer.write(HEALTH)
        await until(lambda: any(isinstance(watch, Connection) for watch in proxy.edge.sweep._watches))
        go_on.set()
        assert [(await answer(reader))[0], (await answer(reader))[0]] == [200, 200]
        await asyncio.sleep(LONG_AFTER_S)
        writer.write(HEALTH)

        assert (await answer(reader))[0] == 200
        writer.close()


# --- connections between requests


async def test_a_connection_without_a_next_request_is_closed_without_a_word(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", client_idle_s=SHORT_S, header_timeout_s=NEVER_S)
    reader, writer = await proxy.raw(HEALTH)
    assert (await answer(reader))[0] == 200

    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("before", [b"", HEALTH], ids=["first", "next"])
async def test_a_short_client_idle_does_not_cut_headers_that_have_begun(start_proxy, unused_port, before):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", client_idle_s=0.1, header_timeout_s=NEVER_S)
    reader, writer = await proxy.raw(before)
    if before:
        assert (await answer(reader))[0] == 200
    writer.write(HEALTH[:-2])
    await asyncio.sleep(LONG_AFTER_S)
    writer.write(HEALTH[-2:])

    assert (await answer(reader))[0] == 200
    writer.close()
