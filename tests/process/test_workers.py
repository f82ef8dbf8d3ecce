"""Several workers behind one port: who serves, what a death costs, and how all of them end."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from proxy.process.address import HeldAddress
from tests.edge.test_serve import run_proxy
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, ScriptedUpstream, event, text_chunk
from tests.process.conftest import DEADLINE_S, ended, is_running, until

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="asks Linux which process has a connection")

#: A connection lands on either of two workers; that so many land on one happens once in 10^18 runs.
MOST_TRIES = 60

BEGIN = [STREAM_HEAD, event(text_chunk("a"))]
END = [event(text_chunk("b")), event(text_chunk("", finish="stop")), DONE, STREAM_END]


def ask(session, group, *, stream=True):
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    return session.post(f"{group.url}/v1/chat/completions", json=body)


@contextlib.asynccontextmanager
async def a_stream_on_each(group):
    """Yield a running stream for each worker, by its pid. Other connections are closed again."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        streams = {}
        for _ in range(MOST_TRIES):
            response = await ask(session, group)
            pid = group.worker_of(response)
            if pid in streams:
                response.close()
            else:
                streams[pid] = response
                stack.callback(response.close)
            if streams.keys() == group.workers():
                break
        yield streams


async def until_all_serve(group):
    """Return when every worker has answered a connection."""
    seen = set()
    async with asyncio.timeout(DEADLINE_S):
        while seen != group.workers():
            reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"}")
            seen.add(group.worker_at(writer.get_extra_info("sockname")[1]))
            writer.close()


async def test_all_workers_serve_the_one_port_that_is_announced_once(start_group):
    async with ScriptedUpstream([*BEGIN, Do.WAIT_FOR_PEER]) as upstream:
        group = await start_group(2, VLLM_BASE=upstream.url)
        async with a_stream_on_each(group) as streams:
            assert len(streams) == 2
        group.send(signal.SIGTERM)
        log, message = await group.process.communicate()

    assert group.startup["workers"] == 2
    assert group.startup["pid"] == group.process.pid
    assert message.decode().count(f"http://127.0.0.1:{group.port}/v1") == 1
    assert b'"event":"startup"' not in log


async def test_one_worker_is_the_process_itself(start_group):
    group = await start_group(1, VLLM_BASE="http://127.0.0.1:1")

    assert group.workers() == set()
    assert (group.startup["workers"], group.startup["pid"]) == (1, group.process.pid)


async def test_a_killed_worker_is_replaced_and_the_other_workers_streams_go_on(start_group):
    killed = asyncio.Event()
    async with ScriptedUpstream([*BEGIN, killed, *END]) as upstream:
        group = await start_group(2, VLLM_BASE=upstream.url)
        async with a_stream_on_each(group) as streams:
            victim, survivor = streams
            os.kill(victim, signal.SIGKILL)
            line = await group.log_line("worker_exited")
            with pytest.raises(aiohttp.ClientError):
                await streams[victim].read()
            await until(lambda: len(group.workers()) == 2)
            killed.set()
            whole = await streams[survivor].read()

        assert (line["pid"], line["signal"], line["restarts"], line["level"]) == (victim, "SIGKILL", 1, "error")
        assert whole.endswith(b"data: [DONE]\n\n")
        assert b'"error"' not in whole
        assert survivor in group.workers()
        assert victim not in group.workers()
        await until_all_serve(group)


async def test_a_worker_that_is_told_to_end_by_itself_finishes_its_stream_and_is_replaced(start_group):
    told = asyncio.Event()
    async with ScriptedUpstream([*BEGIN, told, *END]) as upstream:
        group = await start_group(2, VLLM_BASE=upstream.url)
        async with a_stream_on_each(group) as streams:
            pid, response = next(iter(streams.items()))
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGTERM)
            told.set()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
            assert (await group.log_line("worker_exited"))["exit_code"] == 0
            await until(lambda: len(group.workers() - {pid}) == 2)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize("whom", ["send", "send_all"])
async def test_running_streams_of_all_workers_are_finished(start_group, number, code, whom):
    """Whoever signals the whole group has signalled once: the workers do not count it again."""
    signalled = asyncio.Event()
    async with ScriptedUpstream([*BEGIN, signalled, *END]) as upstream:
        group = await start_group(2, VLLM_BASE=upstream.url)
        async with a_stream_on_each(group) as streams:
            getattr(group, whom)(number)
            draining = await group.log_line("draining")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", group.port)
            signalled.set()
            wholes = [await response.read() for response in streams.values()]

        assert len(wholes) == 2
        assert all(whole.endswith(b"data: [DONE]\n\n") and b'"error"' not in whole for whole in wholes)
        assert (draining["signal"], draining["in_flight"]) == (number.name, 2)
        assert (await group.log_line("shutdown"))["cut_off"] == 0
        assert await group.exit_code() == code


@pytest.mark.parametrize("how", ["second signal", "drain timeout"])
async def test_what_still_runs_when_the_time_is_over_is_told_so_by_every_worker(start_group, how):
    limit = "0.2" if how == "drain timeout" else "300"
    async with ScriptedUpstream([*BEGIN, Do.WAIT_FOR_PEER]) as upstream:
        group = await start_group(2, "--drain-timeout-s", limit, VLLM_BASE=upstream.url)
        async with a_stream_on_each(group) as streams:
            group.send(signal.SIGTERM)
            await group.log_line("draining")
            if how == "second signal":
                group.send(signal.SIGTERM)
            errors = [(await response.read()).split(b"\n\n")[-3] for response in streams.values()]

        codes = [json.loads(error.removeprefix(b"data: "))["error"]["code"] for error in errors]
        assert codes == ["shutting_down", "shutting_down"]
        assert (await group.log_line("shutdown"))["cut_off"] == 2
        assert await group.exit_code() == 0


async def test_a_signal_while_the_workers_start_ends_them():
    process = await run_proxy("--workers", "2", VLLM_BASE="http://127.0.0.1:1")
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    await until(lambda: process.returncode is not None or Path(children).read_text())
    process.send_signal(signal.SIGTERM)
    await ended(process)

    assert process.returncode == 0


async def test_workers_finish_their_streams_and_end_when_the_supervisor_is_killed(start_group):
    killed = asyncio.Event()
    async with ScriptedUpstream([*BEGIN, killed, *END]) as upstream:
        group = await start_group(2, VLLM_BASE=upstream.url)
        async with a_stream_on_each(group) as streams:
            workers = group.workers()
            group.send(signal.SIGKILL)
            await group.exit_code()
            for _ in workers:  # each of them notices, and not only when the other has ended
                assert (await group.log_line("supervisor_lost"))["level"] == "error"
            killed.set()
            for response in streams.values():
                assert (await response.read()).endswith(b"data: [DONE]\n\n")
        await until(lambda: not any(map(is_running, workers)))


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_client_that_had_connected_before_the_signal_is_answered(start_group, workers):
    """All processes sleep while clients connect, so their connections are in the kernel's queue when the end comes."""
    group = await start_group(workers, VLLM_BASE="http://127.0.0.1:1")
    group.send_all(signal.SIGSTOP)
    streams = []
    for _ in range(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        streams.append((reader, writer))
    group.send(signal.SIGTERM)
    group.send_all(signal.SIGCONT)

    answers = [await reader.read() for reader, _ in streams]
    for _, writer in streams:
        writer.close()
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 30
    assert await group.exit_code() == 0


# --- the address


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1), (2, 2)])
async def test_a_second_instance_does_not_join_the_first_ones_port(start_group, first, second):
    group = await start_group(first, VLLM_BASE="http://127.0.0.1:1")
    process = await run_proxy("--workers", str(second), "--port", str(group.port))
    message = await ended(process)

    assert process.returncode == os.EX_UNAVAILABLE
    assert f"cannot listen on 127.0.0.1:{group.port}" in message
    assert "Traceback" not in message


def test_a_port_is_taken_before_the_first_worker_listens():
    first = HeldAddress("127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="in use"):
            HeldAddress("127.0.0.1", first.port)
    finally:
        first.close()
    HeldAddress("127.0.0.1", first.port).close()


def test_a_worker_listens_beside_the_held_port():
    held = HeldAddress("127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", held.port), reuse_port=True) as listener:
        with socket.create_connection(("127.0.0.1", held.port)):
            listener.accept()[0].close()
        held.close()


async def test_settings_that_no_worker_could_use_start_none():
    process = await run_proxy("--workers", "2", "--option", "param_drop=messages", VLLM_BASE="http://127.0.0.1:1")
    message = await ended(process)

    assert process.returncode == os.EX_CONFIG
    assert "cannot name messages" in message
    assert "Traceback" not in message


async def test_a_start_that_fails_in_the_workers_ends_with_their_code(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import proxy.edge.server\n"
        "def broken(*_):\n"
        "    raise RuntimeError('planted')\n"
        "proxy.edge.server.Pool = broken\n"
    )
    root = Path(__file__).parents[2]
    process = await run_proxy("--workers", "2", VLLM_BASE="http://127.0.0.1:1", PYTHONPATH=f"{tmp_path}:{root}")
    message = await ended(process)

    assert process.returncode == 1
    assert "planted" in message
