"""
Too many requests, or too many bytes of them: some wait, some are refused before their bodies are read, all are told.

F07, F26: a refusal says when to come back. ai-dynamo/dynamo#12268: admission comes before buffering.
"""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from proxy.edge.connection import _READ_AHEAD_BYTES, Connection
from tests.conftest import Proxy, StartProxy
from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, completion, event, text_chunk, until, whole

MIB = 1024 * 1024
NEVER_S = 60
#: What uvloop reads at once.
ONE_READ_BYTES = 256_000


def body_of(text: str = "Hi", **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]} | fields).encode()


def head_of(length: int | None, *headers: str) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return "\r\n".join(["POST /v1/chat/completions HTTP/1.1", "Host: x", framing, *headers, "", ""]).encode()


def request_of(text: str = "Hi", *headers: str) -> bytes:
    body = body_of(text)
    return head_of(len(body), *headers) + body


class Client:
    """One connection and what it gets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Return status, headers and JSON body of the next answer."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", 0))
        data = await self.reader.readexactly(length)
        return int(first.split(" ")[1]), headers, json.loads(data) if length else None

    async def refusal(self) -> None:
        """Read the next answer, which says that there is too much to do, and when to come back."""
        status, headers, answer = await self.answer()
        assert (status, answer["error"]["type"], answer["error"]["code"]) == (503, "server_error", "overloaded")
        assert int(headers["retry-after"]) >= 1


class Bench:
    """An upstream that answers when it is told to, and clients of the proxy before it."""

    def __init__(self, start_proxy: StartProxy, upstream: ScriptedUpstream, answer: asyncio.Event) -> None:
        self._start_proxy = start_proxy
        self.upstream = upstream
        self.answer = answer
        self._clients: list[Client] = []

    async def start(self, **settings: Any) -> Proxy:
        self.proxy = await self._start_proxy(self.upstream.url, **settings)
        return self.proxy

    async def client(self, data: bytes) -> Client:
        client = Client(*await self.proxy.raw(data))
        self._clients.append(client)
        return client

    async def running(self, count: int = 1) -> list[Client]:
        """Return clients whose requests the upstream has and does not answer yet."""
        clients = []
        for number in range(count):
            clients.append(await self.client(request_of(f"running {number}")))
            await until(lambda: len(self.upstream.requests) == len(clients))
        return clients

    async def waiting(self, data: bytes) -> Client:
        """Return a client whose request waits for its turn."""
        before = self.proxy.edge.admission.queued
        client = await self.client(data)
        await until(lambda: self.proxy.edge.admission.queued == before + 1)
        return client

    @property
    def asked(self) -> list[str]:
        """What the upstream was asked, in order."""
        return [request.json["messages"][0]["content"] for request in self.upstream.requests]

    async def end(self) -> None:
        for client in self._clients:
            client.writer.close()
        admission = self.proxy.edge.admission
        await until(lambda: (admission.in_flight, admission.queued, admission.buffered_bytes) == (0, 0, 0))


@pytest_asyncio.fixture
async def bench(start_proxy: StartProxy) -> AsyncIterator[Bench]:
    answer = asyncio.Event()
    async with ScriptedUpstream([answer, whole(completion())]) as upstream:
        bench = Bench(start_proxy, upstream, answer)
        yield bench
        await bench.end()


# --- the bounded queue


async def test_beyond_what_may_run_some_wait_and_are_served_and_more_are_refused(bench):
    await bench.start(max_in_flight=2, max_queue=1, queue_timeout_s=NEVER_S)
    clients = await bench.running(2)
    clients.append(await bench.waiting(request_of("waiting")))

    refused = await bench.client(request_of("too many"))
    await refused.refusal()
    refused.writer.write(request_of("again"))  # its body was read, so its connection may go on
    await refused.refusal()

    bench.answer.set()
    assert [(await client.answer())[0] for client in clients] == [200, 200, 200]
    assert bench.asked == ["running 0", "running 1", "waiting"]
    line = bench.proxy.log.lines("request")[0]
    assert (line["status"], line["error"], line["error_type"]) == (503, "overloaded", "server_error")


async def test_who_waits_longer_than_the_queues_timeout_is_refused(bench):
    await bench.start(max_in_flight=1, queue_timeout_s=0.05)
    await bench.running()
    waiting = await bench.client(request_of("waiting"))

    await waiting.refusal()
    assert bench.asked == ["running 0"]


async def test_a_waiting_client_that_leaves_frees_its_place_in_the_queue(bench):
    await bench.start(max_in_flight=1, max_queue=1, queue_timeout_s=NEVER_S)
    (running,) = await bench.running()
    leaving = await bench.waiting(request_of("leaving"))
    leaving.writer.close()
    await until(lambda: bench.proxy.edge.admission.queued == 0)

    waiting = await bench.waiting(request_of("waiting"))
    bench.answer.set()
    assert [(await client.answer())[0] for client in (running, waiting)] == [200, 200]
    assert bench.asked == ["running 0", "waiting"]
    assert (await bench.proxy.log.line())["status"] == 499


async def test_a_running_client_that_leaves_makes_room_for_the_next(bench):
    await bench.start(max_in_flight=1, queue_timeout_s=NEVER_S)
    (running,) = await bench.running()
    waiting = await bench.waiting(request_of("waiting"))
    running.writer.close()

    await until(lambda: "waiting" in bench.asked)
    bench.answer.set()
    assert (await waiting.answer())[0] == 200


async def test_a_stream_keeps_its_place_to_its_end(start_proxy):
    script = [STREAM_HEAD, event(text_chunk("Hello", role="assistant")), Do.WAIT_FOR_PEER]
    async with ScriptedUpstream(script) as upstream:
        bench = Bench(start_proxy, upstream, asyncio.Event())
        await bench.start(max_in_flight=1, max_queue=0)
        body = body_of(stream=True)
        streaming = await bench.client(head_of(len(body)) + body)
        await streaming.reader.readuntil(b"Hello")

        await (await bench.client(request_of())).refusal()
        await bench.end()


async def test_nothing_but_chat_passes_through_admission(bench):
    proxy = await bench.start(max_in_flight=1, max_queue=0)
    await bench.running()
    bench.answer.set()

    for path in ("/livez", "/readyz", "/health", "/metrics", "/version", "/", "/v1/models"):
        async with proxy.session.get(proxy.url + path) as response:
            assert response.status == 200, path


async def test_metrics_say_how_many_wait_and_why_requests_were_refused(bench):
    proxy = await bench.start(max_in_flight=1, max_queue=1, queue_timeout_s=NEVER_S)
    await bench.running()
    await bench.waiting(request_of())
    await (await bench.client(request_of())).refusal()

    async with proxy.session.get(f"{proxy.url}/metrics") as response:
        text = await response.text()
    assert "devstral_proxy_queued_requests 1.0" in text
    assert 'devstral_proxy_shed_total{reason="queue_full"} 1.0' in text
    assert 'devstral_proxy_shed_total{reason="queue_timeout"} 0.0' in text


# --- before the body is read


async def test_a_refusal_does_not_wait_for_the_body(bench):
    await bench.start(max_in_flight=1, max_queue=0)
    await bench.running()

    refused = await bench.client(head_of(20 * MIB))
    await refused.refusal()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_sends_20_mb_all_the_same_still_gets_its_refusal(bench, chunked):
    await bench.start(max_in_flight=1, max_queue=0)
    await bench.running()
    refused = await bench.client(head_of(None if chunked else 20 * MIB))
    for _ in range(20):
        piece = b"x" * MIB
        refused.writer.write(b"%x\r\n%b\r\n" % (MIB, piece) if chunked else piece)
        await refused.writer.drain()

    status, headers, _ = await refused.answer()
    assert (status, headers["connection"]) == (503, "close")
    assert bench.proxy.edge.admission.buffered_bytes == len(body_of("running 0"))


async def test_a_body_of_20_mb_waits_in_the_client_until_its_turn(bench):
    await bench.start(max_in_flight=1, queue_timeout_s=NEVER_S)
    (running,) = await bench.running()
    body = body_of("x" * (20 * MIB))
    waiting = await bench.waiting(head_of(len(body)))
    waiting.writer.write(body)
    drained = asyncio.ensure_future(waiting.writer.drain())
    await asyncio.wait({drained}, timeout=0.5)
    assert not drained.done()
    connections = [thing for thing in gc.get_objects() if isinstance(thing, Connection) and thing.transport]
    assert 0 < max(connection._body.total_bytes for connection in connections) <= 2 * _READ_AHEAD_BYTES + ONE_READ_BYTES

    bench.answer.set()
    assert (await running.answer())[0] == 200
    assert (await waiting.answer())[0] == 200
    await drained
    assert bench.asked[1] == "x" * (20 * MIB)


async def test_100_continue_is_sent_only_to_who_has_its_turn(bench):
    await bench.start(max_in_flight=1, max_queue=1, queue_timeout_s=NEVER_S)
    (running,) = await bench.running()
    body = body_of("expected")
    head = head_of(len(body), "Expect: 100-continue")
    waiting = await bench.waiting(head)
    refused = await bench.client(head)

    await refused.refusal()
    assert waiting.reader._buffer == b""  # what has come to the client while the other was answered
    bench.answer.set()
    assert (await running.answer())[0] == 200
    assert (await waiting.answer())[0] == 100
    waiting.writer.write(body)
    assert (await waiting.answer())[0] == 200


@pytest.mark.parametrize(
    ("header", "length", "status"),
    [("Content-Type: text/plain", 2, 415), ("X-A: b", 33 * MIB, 413), ("x-proxy-priority: soon", 2, 400)],
)
async def test_what_the_head_shows_to_be_wrong_takes_no_place(bench, header, length, status):
    await bench.start(max_in_flight=1, max_queue=0)
    await bench.running()
    client = await bench.client(head_of(length, header))

    answered, _, answer = await client.answer()
    assert answered == status
    if status == 400:
        assert answer["error"]["param"] == "x-proxy-priority"


# --- bytes of bodies


async def test_bodies_over_the_workers_bound_are_refused_by_their_declared_length(bench):
    await bench.start(max_buffered_bytes=1000)
    held = await bench.client(head_of(900))
    await until(lambda: bench.proxy.edge.admission.buffered_bytes == 900)

    await (await bench.client(head_of(200))).refusal()
    await (await bench.client(head_of(200, "Expect: 100-continue"))).refusal()
    fits = await bench.client(request_of("x" * 10))
    await until(lambda: bench.asked == ["x" * 10])

    held.writer.close()
    await until(lambda: bench.proxy.edge.admission.in_flight == 1)
    large = await bench.client(request_of("x" * 800))
    await until(lambda: len(bench.asked) == 2)
    bench.answer.set()
    assert [(await client.answer())[0] for client in (fits, large)] == [200, 200]


async def test_a_chunked_body_is_refused_at_the_piece_that_is_too_much(bench):
    await bench.start(max_buffered_bytes=MIB)
    await bench.client(head_of(1000))
    await until(lambda: bench.proxy.edge.admission.buffered_bytes == 1000)
    growing = await bench.client(head_of(None))
    for _ in range(2):
        growing.writer.write(b"%x\r\n%b\r\n" % (MIB // 2, b"x" * (MIB // 2)))
        await growing.writer.drain()

    await growing.refusal()
    await until(lambda: bench.proxy.edge.admission.buffered_bytes == 1000)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_bound_alone_is_served(bench, chunked):
    await bench.start(max_buffered_bytes=1000)
    bench.answer.set()
    body = body_of("x" * MIB)
    data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    client = await bench.client(head_of(None if chunked else len(body)) + data)

    assert (await client.answer())[0] == 200


async def test_a_chunked_body_that_is_there_at_once_is_held_like_any_other(bench):
    await bench.start()
    body = body_of("chunked")
    await bench.client(head_of(None) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    await until(lambda: bench.asked == ["chunked"])

    assert bench.proxy.edge.admission.buffered_bytes == len(body)


async def test_a_chunked_body_that_is_there_at_once_has_the_same_limit(bench):
    await bench.start(max_body_bytes=100)
    client = await bench.client(head_of(None) + b"96\r\n" + b"x" * 150 + b"\r\n0\r\n\r\n")

    status, _, answer = await client.answer()
    assert (status, answer["error"]["code"]) == (413, "payload_too_large")


# --- priorities


@pytest.mark.parametrize("header", ["x-proxy-priority: batch", "Authorization: Bearer sk-night"])
async def test_interactive_requests_go_before_batch_requests(bench, header):
    await bench.start(max_in_flight=1, queue_timeout_s=NEVER_S, batch_keys="sk-night")
    clients = await bench.running()
    clients.append(await bench.waiting(request_of("batch", header)))
    clients.append(await bench.waiting(request_of("interactive", "x-proxy-priority: interactive")))
    clients.append(await bench.waiting(request_of("no word", "Authorization: Bearer sk-day")))

    bench.answer.set()
    assert [(await client.answer())[0] for client in clients] == [200] * 4
    assert bench.asked == ["running 0", "interactive", "no word", "batch"]
    assert "sk-night" not in bench.proxy.log.text


async def test_a_full_queue_gives_up_a_batch_request_for_an_interactive_one(bench):
    await bench.start(max_in_flight=1, max_queue=1, queue_timeout_s=NEVER_S)
    (running,) = await bench.running()
    batch = await bench.waiting(request_of("batch", "x-proxy-priority: batch"))
    interactive = await bench.client(request_of("interactive"))

    await batch.refusal()
    bench.answer.set()
    assert [(await client.answer())[0] for client in (running, interactive)] == [200, 200]
    assert bench.asked == ["running 0", "interactive"]
