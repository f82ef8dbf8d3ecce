"""
One connection and the answers on it: what may be asked on it again, and what is lost, late or too much.

The list of models is the shortest way to an exchange: `models()` sends a GET and returns the answer unread.
"""

import asyncio
import re
import socket
import ssl
import subprocess
import time
from contextlib import AsyncExitStack, suppress

import pytest

from proxy.upstream.answer import read_whole
from tests.fakes import (
    DONE,
    HEALTHY,
    STREAM_END,
    STREAM_HEAD,
    Do,
    ScriptedUpstream,
    chunk,
    event,
    head,
    text_chunk,
    text_stream,
    until,
    whole,
)

MIB = 1024 * 1024
SECOND = whole(b'"second"')
#: More than one exchange may hold unread, in few enough reads that the end of the answer is among them.
LARGE = b"x" * 400_000

KEPT = {
    "length": whole(b"first"),
    "chunked": STREAM_HEAD + chunk(b"fi") + chunk(b"rst") + STREAM_END,
    "chunk-extension": STREAM_HEAD + b"5;name=value\r\nfirst\r\n" + STREAM_END,
    "trailers": STREAM_HEAD + chunk(b"first") + b"0\r\nContent-Type: text/html\r\nRetry-After: 9\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + head(103, link="</x>", content_length="7") + whole(b"first"),
    "blank-line-after": whole(b"first") + b"\r\n",
    "HTTP/1.0-keep-alive": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nfirst",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "empty": whole(b""),
}

STRAY_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
NOT_KEPT = {
    "connection-close": whole(b"first", connection="close"),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfirst",
    "until-close": head() + b"first",
    "garbage-after": whole(b"first") + b"garbage",
    "second-answer": whole(b"first") + STRAY_HEAD + b"stray",
    "second-answers-first-byte": whole(b"first") + b"H",
    "second-answers-half-a-head": whole(b"first") + STRAY_HEAD[:30],
    "second-answers-head": whole(b"first") + STRAY_HEAD,
    "second-answer-after-chunks": STREAM_HEAD + chunk(b"first") + STREAM_END + STRAY_HEAD[:30],
}


async def first_of(client) -> bytes:
    async with client.models("first") as answer:
        return await read_whole(answer, MIB)


async def second_of(client) -> bytes:
    async with client.models("second") as answer:
        return await read_whole(answer, MIB)


@pytest.mark.parametrize("answer", KEPT.values(), ids=KEPT)
async def test_a_connection_whose_answer_is_over_is_used_again(start_proxy, answer):
    async with ScriptedUpstream([answer], [SECOND]) as upstream:
        client = (await start_proxy(upstream.url)).client
        assert await first_of(client) == (b"first" if b"first" in answer or b"rst" in answer else b"")
        assert await second_of(client) == b'"second"'

        assert upstream.connections_made == 1


@pytest.mark.parametrize("answer", NOT_KEPT.values(), ids=NOT_KEPT)
async def test_a_connection_that_said_too_much_or_ends_is_not(start_proxy, answer):
    end = [0.01, Do.CLOSE] if b"ength" not in answer and b"chunked" not in answer else []
    async with ScriptedUpstream([answer, *end], [SECOND]) as upstream:
        client = (await start_proxy(upstream.url, first_byte_timeout_s=1.0)).client
        assert await first_of(client) == b"first"
        assert await second_of(client) == b'"second"'

        assert upstream.connections_made == 2


async def test_bytes_on_an_idle_connection_end_it(start_proxy):
    async with ScriptedUpstream([whole(b"first"), 0.01, STRAY_HEAD], [SECOND]) as upstream:
        client = (await start_proxy(upstream.url)).client
        assert await first_of(client) == b"first"
        await upstream.left.wait()
        assert await second_of(client) == b'"second"'

        assert upstream.connections_made == 2


async def test_the_headers_of_one_answer_are_not_the_next_ones(start_proxy):
    first = whole(b"{}", 429, retry_after="7")
    async with ScriptedUpstream(
        [first], [head(103, retry_after="9") + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"]
    ) as upstream:
        client = (await start_proxy(upstream.url)).client
        async with client.models("first") as answer:
            assert (answer.status, answer.retry_after, answer.content_type) == (429, "7", "application/json")
            await answer.read_some()
        async with client.models("second") as answer:
            assert (answer.status, answer.retry_after, answer.content_type) == (200, None, None)

        assert upstream.connections_made == 1


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("answer", [whole(LARGE), STREAM_HEAD + chunk(LARGE) + STREAM_END], ids=["length", "chunked"])
async def test_a_connection_that_was_stopped_because_of_a_large_answer_reads_the_next(start_proxy, answer, is_read):
    """The end can be among the bytes because of which reading stops."""
    has_all = asyncio.Event()
    async with ScriptedUpstream([has_all, answer], [SECOND]) as upstream:
        client = (await start_proxy(upstream.url, max_connections=1, first_byte_timeout_s=2.0)).client
        asyncio.get_running_loop().call_later(0.05, has_all.set)
        async with client.models("first") as first:
            await asyncio.sleep(0.05)
            if is_read:
                assert await read_whole(first, MIB) == LARGE
        assert await second_of(client) == b'"second"'


async def test_leaving_an_exchange_does_not_end_the_next_one_on_its_connection(start_proxy):
    go_on = asyncio.Event()
    async with ScriptedUpstream([whole(b"first")], [head(content_length="6"), b"sec", go_on, b"ond"]) as upstream:
        client = (await start_proxy(upstream.url)).client
        async with AsyncExitStack() as leaving:
            first = await leaving.enter_async_context(client.models("first"))
            await read_whole(first, MIB)
            first.close()
            async with client.models("second") as second:
                await leaving.aclose()
                go_on.set()
                assert await read_whole(second, MIB) == b"second"

        assert upstream.connections_made == 1


FAILURES = {
    "closed": [Do.CLOSE],
    "reset": [Do.RESET],
    "not-http": [b"SSH-2.0-OpenSSH\r\n"],
    "half-a-head": [b"HTTP/1.1 200 OK\r\nContent-Le", Do.CLOSE],
    "endless-head": [b"HTTP/1.1 200 OK\r\n" + b"X-Filler: abcdefgh\r\n" * 6_000],
    "switching": [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc"],
    "cut-length": [head(content_type="application/json", content_length="9") + b"{}", Do.CLOSE],
    "cut-chunks": [STREAM_HEAD + event(text_chunk("x")), Do.CLOSE],
    "bad-chunk": [STREAM_HEAD + b"zz\r\n"],
    "silent": [Do.WAIT_FOR_PEER],
    "silent-after-head": [STREAM_HEAD, Do.WAIT_FOR_PEER],
    "silent-in-body": [STREAM_HEAD + event(text_chunk("x")), Do.WAIT_FOR_PEER],
    "redirect": [whole(b"{}", 307)],
    "refused": [whole(b'{"error":{"message":"m"}}', 503)],
    "unread": [head(content_type="text/html", content_length="100000") + b"x" * 10],
    "no-done": [text_stream("x").replace(DONE, b"")],
    "endless-after-done": [STREAM_HEAD + event(text_chunk("", finish="stop")) + DONE, Do.WAIT_FOR_PEER],
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("script", FAILURES.values(), ids=FAILURES)
async def test_failures_do_not_use_up_the_pool(start_proxy, script, stream):
    async with ScriptedUpstream(*[script] * 4, [whole(b"{}")]) as upstream:
        proxy = await start_proxy(
            upstream.url, max_connections=2, first_byte_timeout_s=0.6, between_bytes_timeout_s=0.2
        )
        for _ in range(4):
            async with proxy.chat(stream=stream) as response:
                await response.read()
        assert await second_of(proxy.client) == b"{}"

        pool = proxy.client.connections._sessions.pool.connector
        await until(lambda: not pool._acquired)
        assert not proxy.edge.sweep._watches


async def test_clients_that_leave_do_not_use_up_the_pool(start_proxy):
    script = [STREAM_HEAD + event(text_chunk("x")), Do.WAIT_FOR_PEER]
    async with ScriptedUpstream(*[script] * 4, [SECOND]) as upstream:
        proxy = await start_proxy(upstream.url, max_connections=2)
        for _ in range(4):
            response = await proxy.chat(stream=True)
            await response.content.readany()
            response.close()
        await until(lambda: not proxy.edge.in_flight)
        assert await second_of(proxy.client) == b'"second"'

        assert not proxy.edge.sweep._watches


async def test_an_answer_that_is_complete_before_its_framing_breaks_is_complete(start_proxy):
    broken = text_stream("x").removesuffix(STREAM_END) + b"zz\r\n"
    async with ScriptedUpstream([broken]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            text = await response.read()

        assert text.endswith(b"data: [DONE]\n\n")
        assert b"error" not in text


async def test_an_upstream_that_speaks_first_is_502(start_proxy):
    """It is another program: its greeting can be there before the connection has an owner."""

    def greet() -> None:
        for _ in range(2):  # the look at /health, and the request
            peer, _ = listener.accept()
            with peer, suppress(ConnectionResetError):
                peer.sendall(b"220 mail.example ESMTP\r\n")
                while peer.recv(MIB):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        greeting = asyncio.get_running_loop().run_in_executor(None, greet)
        proxy = await start_proxy(f"http://127.0.0.1:{listener.getsockname()[1]}", first_byte_timeout_s=2.0)
        busy = asyncio.get_running_loop().create_task(keep_busy())
        async with proxy.chat() as response:
            assert response.status == 502
        busy.cancel()
        await greeting


async def keep_busy() -> None:
    """Let every turn of the loop last long enough for a peer to answer within it."""
    while True:
        time.sleep(0.005)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(0)


# --- slow clients

FLOOD = [event(text_chunk(f"{number:06d}" + "x" * 32_000)) for number in range(320)]
FLOOD_STREAM = STREAM_HEAD + b"".join(FLOOD) + event(text_chunk("", finish="stop")) + DONE + STREAM_END


async def slow_client(proxy, version: str = "1.1", **fields) -> socket.socket:
    """A client that has asked for a stream and reads nothing yet; the proxy can have few bytes on their way to it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", proxy.port))
    body = b'{"model":"devstral","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
    lines = f"POST /v1/chat/completions HTTP/{version}\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    await loop.sock_sendall(client, lines.encode() + body)
    return client


async def read_until_silent(client: socket.socket) -> bytes:
    """Return what comes until nothing comes for a while, or the connection ends."""
    received = bytearray()
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(0.5):
                piece = await asyncio.get_running_loop().sock_recv(client, MIB)
            if not piece:
                break
            received += piece
    return bytes(received)


#: a client's version of HTTP, and how far the proxy leaves aiohttp's ways: pushed, pulled directly, and mixed
WAYS = [("1.1", "push"), ("1.1", "upstream"), ("1.0", "push"), ("1.1", "none")]


@pytest.mark.parametrize(("version", "shortcuts"), WAYS)
async def test_a_slow_client_gets_every_byte_in_order_and_nothing_after_the_end(start_proxy, version, shortcuts):
    """Comments are due all the time, also while the client has yet to read the end."""
    async with ScriptedUpstream([FLOOD_STREAM]) as upstream:
        proxy = await start_proxy(upstream.url, keep_alive_s=0.05, shortcuts=shortcuts)
        with await slow_client(proxy, version) as client:
            await asyncio.sleep(0.3)
            received = await read_until_silent(client)

        assert [int(number) for number in re.findall(rb'"content": ?"(\d{6})x', received)] == list(range(len(FLOOD)))
        assert received.endswith(b"[DONE]\n\n" if version == "1.0" else b"[DONE]\n\n\r\n0\r\n\r\n")


async def test_a_client_that_has_yet_to_read_the_end_gets_no_comment_after_it(start_proxy):
    """The end is written while the client is slow: nothing of an event goes out before all of it has come."""
    long_event = event(text_chunk("x" * 10 * MIB))
    async with ScriptedUpstream(
        [STREAM_HEAD + long_event + event(text_chunk("", finish="stop")) + DONE + STREAM_END]
    ) as upstream:
        proxy = await start_proxy(upstream.url, keep_alive_s=0.1)
        with await slow_client(proxy) as client:
            await asyncio.sleep(1.0)
            received = await read_until_silent(client)

        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(("version", "shortcuts"), WAYS)
async def test_the_whole_time_ends_also_while_the_client_reads_nothing(start_proxy, version, shortcuts):
    async with ScriptedUpstream([FLOOD_STREAM]) as upstream:
        proxy = await start_proxy(upstream.url, timeout_s=0.3, shortcuts=shortcuts)
        with await slow_client(proxy, version):
            async with asyncio.timeout(3):
                await upstream.left.wait()


async def test_a_client_that_leaves_while_the_upstream_is_stopped_frees_the_connection(start_proxy):
    async with ScriptedUpstream([FLOOD_STREAM], [SECOND]) as upstream:
        proxy = await start_proxy(upstream.url, max_connections=1)
        with await slow_client(proxy):
            await asyncio.sleep(0.3)
            assert proxy.edge.in_flight
        await until(lambda: not proxy.edge.in_flight)
        assert await second_of(proxy.client) == b'"second"'

        assert not proxy.edge.sweep._watches


async def test_a_stream_that_is_cut_off_while_the_upstream_is_stopped_says_so_and_ends(start_proxy):
    async with ScriptedUpstream([FLOOD_STREAM], [SECOND]) as upstream:
        proxy = await start_proxy(upstream.url, max_connections=1)
        with await slow_client(proxy) as client:
            await asyncio.sleep(0.3)
            proxy.edge.in_flight.cut_off()
            received = await read_until_silent(client)

        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert received.count(b"shutting down") == 1
        numbers = [int(number) for number in re.findall(rb'"content": ?"(\d{6})x', received)]
        assert numbers == list(range(len(numbers)))
        assert await second_of(proxy.client) == b'"second"'


# --- requests that wait for each other


async def test_requests_sent_at_once_are_answered_one_by_one_and_whole(start_proxy):
    body = b'{"model":"devstral","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
    ask = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with ScriptedUpstream([text_stream("one")], [text_stream("two")], [text_stream("three")]) as upstream:
        proxy = await start_proxy(upstream.url)
        reader, writer = await proxy.raw(ask * 3)
        answers = [await reader.readuntil(b"\r\n0\r\n\r\n") for _ in range(3)]
        writer.close()

        assert [re.findall(rb'"content": "(\w+)"', answer) for answer in answers] == [[b"one"], [b"two"], [b"three"]]
        assert upstream.connections_made == 1


# --- TLS


@pytest.fixture
def tls(tmp_path, monkeypatch) -> ssl.SSLContext:
    """The side of a server whose certificate the proxy trusts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=127.0.0.1"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run([*make.split(), *files], check=True, capture_output=True)
    trusting = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_over_tls_a_slow_client_gets_every_byte_and_the_connection_is_used_again(start_proxy, tls):
    connections, answers = [], [FLOOD_STREAM, whole(LARGE), SECOND]

    async def answer(reader, writer):
        with suppress(asyncio.IncompleteReadError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                if request.startswith(b"GET /health "):
                    writer.write(HEALTHY)
                    break
                if writer not in connections:
                    connections.append(writer)
                length = re.search(rb"(?i)content-length: (\d+)", request)
                await reader.readexactly(int(length[1]) if length else 0)
                writer.write(answers.pop(0))
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls) as server:
        proxy = await start_proxy(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with await slow_client(proxy) as client:
            await asyncio.sleep(0.3)
            received = await read_until_silent(client)
        assert await first_of(proxy.client) == LARGE
        assert await second_of(proxy.client) == b'"second"'

        assert [int(number) for number in re.findall(rb'"content": ?"(\d{6})x', received)] == list(range(len(FLOOD)))
        assert received.endswith(b"0\r\n\r\n")
        assert len(connections) == 1
        await proxy.client.connections.close()
