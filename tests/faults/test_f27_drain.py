"""F27: a graceful end does not cut streams, and balancers learn of it before connections are refused."""

import asyncio
import json
import signal

import aiohttp
import pytest

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, ScriptedUpstream, completion, event, text_chunk, whole
from tests.process.conftest import DEADLINE_S, counted, running

BEGIN = [STREAM_HEAD, event(text_chunk("a"))]
END = [event(text_chunk("b")), event(text_chunk("", finish="stop")), DONE, STREAM_END]

#: Longer than any test waits: whoever comes to its end has not waited for it.
FOR_EVER = "3600"

pytestmark = pytest.mark.parametrize("workers", [1, 2])


def ask(session, group, *, stream=True):
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    return session.post(f"{group.url}/v1/chat/completions", json=body)


async def get(group, path):
    """Ask on a new connection; return the status and whether the connection was kept."""
    reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    async with asyncio.timeout(DEADLINE_S):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), b"Connection: close" not in head


async def until_workers_know(group):
    """Return when connections are no longer kept: a worker hears of the signal a moment after it is logged."""
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(10):  # of two workers, both
            while (await get(group, "/livez"))[1]:
                pass


async def kept_connection(group):
    """Return a connection on which one request was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Connection: close" not in await reader.readuntil(b"\r\n\r\n")
    await reader.readuntil(b"}")
    return reader, writer


def last_error(stream):
    """The code of the error in front of `[DONE]`."""
    error, done, rest = stream.split(b"\n\n")[-3:]
    assert (done, rest) == (b"data: [DONE]", b"")
    return json.loads(error.removeprefix(b"data: "))["error"]["code"]


async def test_readiness_says_no_at_once_and_all_else_is_answered_while_the_delay_lasts(workers):
    async with (
        ScriptedUpstream([whole(completion())]) as upstream,
        running(workers, VLLM_BASE=upstream.url, DRAIN_DELAY=FOR_EVER) as group,
        aiohttp.ClientSession() as session,
    ):
        group.send(signal.SIGTERM)
        line = await group.log_line("not_ready")
        await until_workers_know(group)

        assert await get(group, "/readyz") == (503, False)
        assert await get(group, "/livez") == (200, False)
        for _ in range(10):
            async with ask(session, group, stream=False) as response:
                assert (response.status, response.headers["Connection"]) == (200, "close")
        assert (line["signal"], line["delay_s"]) == ("SIGTERM", float(FOR_EVER))


async def test_a_kept_connection_is_told_to_go_elsewhere(workers):
    async with running(workers, VLLM_BASE="http://127.0.0.1:1", DRAIN_DELAY=FOR_EVER) as group:
        reader, writer = await kept_connection(group)
        group.send_all(signal.SIGTERM)
        await group.log_line("not_ready")
        await until_workers_know(group)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Connection: close" in answer


async def test_after_the_delay_idle_connections_are_closed_and_streams_are_finished(workers):
    drained = asyncio.Event()
    async with (
        ScriptedUpstream([*BEGIN, drained, *END]) as upstream,
        running(workers, VLLM_BASE=upstream.url, DRAIN_DELAY="0.2") as group,
        aiohttp.ClientSession() as session,
        ask(session, group) as response,
    ):
        reader, writer = await kept_connection(group)
        group.send(signal.SIGTERM)
        draining = await group.log_line("draining")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", group.port)
        assert await reader.read() == b""
        writer.close()
        drained.set()
        stream = await response.read()

        assert stream.endswith(b"data: [DONE]\n\n")
        assert b'"b"' in stream
        assert b'"error"' not in stream
        assert draining["in_flight"] == 1
        assert (await group.log_line("shutdown"))["cut_off"] == 0
        assert await group.exit_code() == 0


async def test_a_request_whose_body_is_still_coming_is_one_that_runs(workers):
    question = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(question)}\r\n\r\n".encode()
    async with (
        ScriptedUpstream([whole(completion())]) as upstream,
        running(workers, VLLM_BASE=upstream.url) as group,
    ):
        reader, writer = await kept_connection(group)
        writer.write(head + question[:10])
        await writer.drain()
        async with asyncio.timeout(DEADLINE_S):
            while await counted(group, "in_flight_requests") != 2:  # this one and the scrape
                pass
        group.send(signal.SIGTERM)
        assert (await group.log_line("draining"))["in_flight"] == 1
        writer.write(question[10:])
        answer = await reader.read()
        writer.close()

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert await group.exit_code() == 0


@pytest.mark.parametrize("how", ["drain timeout", "second signal while draining", "second signal in the delay"])
async def test_what_runs_too_long_ends_in_an_error_event_and_the_exit_code_is_0(workers, how):
    delay = FOR_EVER if how == "second signal in the delay" else "0.1"
    timeout = "0.2" if how == "drain timeout" else FOR_EVER
    async with (
        ScriptedUpstream([*BEGIN, Do.WAIT_FOR_PEER]) as upstream,
        running(workers, VLLM_BASE=upstream.url, DRAIN_DELAY=delay, DRAIN_TIMEOUT=timeout) as group,
        aiohttp.ClientSession() as session,
        ask(session, group) as response,
    ):
        group.send(signal.SIGTERM)
        await group.log_line("draining" if how == "second signal while draining" else "not_ready")
        if how != "drain timeout":
            group.send(signal.SIGTERM)

        assert last_error(await response.read()) == "shutting_down"
        assert (await group.log_line("shutdown"))["cut_off"] == 1
        assert await group.exit_code() == 0


async def test_a_person_at_a_terminal_need_not_wait_for_balancers(workers):
    async with running(workers, VLLM_BASE="http://127.0.0.1:1", DRAIN_DELAY=FOR_EVER) as group:
        group.send_all(signal.SIGINT)

        assert await group.exit_code() == 130
