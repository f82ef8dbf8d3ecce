"""Rotation of the log while a real proxy serves: every process goes on in the new file, and no line is lost."""

import asyncio
import contextlib
import json
import os
import signal

import pytest

from tests.edge.test_serve import run_proxy
from tests.fakes import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    ScriptedUpstream,
    completion,
    event,
    text_chunk,
    text_stream,
    whole,
)
from tests.log import log_lines
from tests.process.conftest import DEADLINE_S, Group, links_of, until


@contextlib.asynccontextmanager
async def logging_to(path, workers, *flags, **environment):
    """Yield a proxy that logs to a file, when all its workers accept connections."""
    process = await run_proxy("--workers", str(workers), "--log-file", str(path), *flags, **environment)
    try:
        group = Group(process)
        await until(lambda: log_lines(path, "startup"))
        group.port = log_lines(path, "startup")[0]["port"]
        yield group
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


def processes(group):
    return {group.process.pid, *group.workers()}


def all_write_to(group, path):
    return all(str(path) in set(links_of(pid)) for pid in processes(group))


async def ask(group, request_id):
    """Ask on a connection of its own; return the pid of the worker that answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", group.port)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"}")
    worker = group.worker_at(writer.get_extra_info("sockname")[1]) if group.workers() else group.process.pid
    question = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(question)}"
    writer.write(f"{head}\r\nx-request-id: {request_id}\r\n\r\n{question}".encode())
    await reader.readuntil(b"[DONE]\n\n")
    writer.close()
    await writer.wait_closed()
    return worker


async def ask_every_worker(group, prefix):
    """Ask until each has answered; return the ids of the requests."""
    workers, answered, asked = group.workers() or {group.process.pid}, set(), []
    async with asyncio.timeout(DEADLINE_S):
        while answered != workers:
            asked.append(f"{prefix}-{len(asked)}")
            answered.add(await ask(group, asked[-1]))
    return asked


def ids(path):
    """Return the ids of the chats that have a line there."""
    return [line["request_id"] for line in log_lines(path, "request") if line["model"] is not None]


@pytest.mark.parametrize("workers", [1, 2])
async def test_after_sighup_every_process_writes_to_the_new_file_and_no_line_is_lost(tmp_path, workers):
    path, old = tmp_path / "proxy.log", tmp_path / "proxy.log.1"
    async with (
        ScriptedUpstream([text_stream("a")]) as upstream,
        logging_to(path, workers, VLLM_BASE=upstream.url) as group,
    ):
        before = await ask_every_worker(group, "before")
        await until(lambda: len(ids(path)) == len(before))
        path.rename(old)
        between = await ask_every_worker(group, "between")
        await until(lambda: len(ids(old)) == len(before + between))
        group.send(signal.SIGHUP)
        await until(lambda: all_write_to(group, path))
        after = await ask_every_worker(group, "after")
        await until(lambda: len(ids(path)) == len(after))
        await until(lambda: log_lines(path, "config_reloaded"))

    assert sorted(ids(old)) == sorted(before + between)
    assert sorted(ids(path)) == sorted(after)
    assert len(log_lines(path, "config_reloaded")) == 1


async def test_no_line_is_lost_when_rotation_comes_while_requests_run(tmp_path):
    path = tmp_path / "proxy.log"
    async with ScriptedUpstream([text_stream("a")]) as upstream, logging_to(path, 2, VLLM_BASE=upstream.url) as group:
        asked = []

        async def go_on(name):
            while len(rotated) < 5:
                asked.append(f"{name}-{len(asked)}")
                await ask(group, asked[-1])

        rotated = []
        clients = [asyncio.ensure_future(go_on(name)) for name in "abcd"]
        for number in range(5):
            asked_before = len(asked)
            await until(lambda so_far=asked_before: len(asked) > so_far + 8)
            path.rename(tmp_path / f"proxy.log.{number}")
            group.send(signal.SIGHUP)
            await until(lambda: all_write_to(group, path))
            rotated.append(number)
        await asyncio.gather(*clients)
        await until(lambda: len([each for file in tmp_path.iterdir() for each in ids(file)]) == len(asked))

    assert sorted(each for file in tmp_path.iterdir() for each in ids(file)) == sorted(asked)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_worker_that_drains_takes_the_new_file_as_well(tmp_path, workers):
    """A drain may last for minutes; by then logrotate has packed what it renamed."""
    path = tmp_path / "proxy.log"
    goes_on = asyncio.Event()
    async with (
        ScriptedUpstream([STREAM_HEAD, event(text_chunk("a")), goes_on, DONE, STREAM_END]) as upstream,
        logging_to(path, workers, VLLM_BASE=upstream.url) as group,
    ):
        running = asyncio.ensure_future(ask(group, "long"))
        await upstream.asked.wait()
        group.send(signal.SIGTERM)
        await until(lambda: log_lines(path, "draining"))
        path.rename(tmp_path / "proxy.log.1")
        group.send(signal.SIGHUP)
        await until(lambda: path.exists() and all_write_to(group, path))
        goes_on.set()
        await running
        assert await group.exit_code() == 0

    assert ids(path) == ["long"]
    assert log_lines(path, "shutdown")


async def test_a_worker_that_is_born_later_writes_to_the_new_file(tmp_path):
    path = tmp_path / "proxy.log"
    async with ScriptedUpstream([text_stream("a")]) as upstream, logging_to(path, 2, VLLM_BASE=upstream.url) as group:
        path.rename(tmp_path / "proxy.log.1")
        group.send(signal.SIGHUP)
        await until(lambda: all_write_to(group, path))
        [dies, _] = sorted(group.workers())
        os.kill(dies, signal.SIGKILL)
        await until(lambda: dies not in group.workers() and len(group.workers()) == 2)
        await ask_every_worker(group, "after")

        assert all_write_to(group, path)
    assert log_lines(path, "worker_exited")


async def test_a_file_that_cannot_be_reopened_leaves_every_process_with_the_old_one(tmp_path):
    path, old = tmp_path / "proxy.log", tmp_path / "proxy.log.1"
    async with ScriptedUpstream([text_stream("a")]) as upstream, logging_to(path, 2, VLLM_BASE=upstream.url) as group:
        path.rename(old)
        path.mkdir()
        group.send(signal.SIGHUP)
        await until(lambda: len(log_lines(old, "log_reopen_failed")) == 3)
        asked = await ask_every_worker(group, "after")
        await until(lambda: len(ids(old)) == len(asked))
        told = {line["pid"] for line in log_lines(old, "log_reopen_failed")}
        assert told == processes(group)
        path.rmdir()
        group.send(signal.SIGHUP)
        await until(lambda: path.exists() and all_write_to(group, path))


async def test_another_path_waits_for_a_restart(tmp_path):
    path, file = tmp_path / "proxy.log", tmp_path / "proxy.toml"
    file.write_text(f"log_file = '{path}'")
    process = await run_proxy("--workers", "2", "--config", str(file), VLLM_BASE="http://127.0.0.1:1", WATCH_CONFIG="0")
    try:
        await until(lambda: log_lines(path, "startup"))
        file.write_text(f"log_file = '{tmp_path / 'other.log'}'")
        process.send_signal(signal.SIGHUP)
        await until(lambda: log_lines(path, "config_reloaded"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()

    assert log_lines(path, "config_reloaded")[0]["needs_restart"] == ["log_file"]
    assert not (tmp_path / "other.log").exists()


async def test_the_share_that_is_logged_is_another_one_after_sighup(tmp_path):
    path, file = tmp_path / "proxy.log", tmp_path / "proxy.toml"
    file.write_text("log_sample = 0")
    async with (
        ScriptedUpstream([whole(completion())], [text_stream("a")]) as upstream,
        logging_to(path, 2, "--config", str(file), VLLM_BASE=upstream.url, WATCH_CONFIG="0") as group,
    ):
        await ask_every_worker(group, "before")
        file.write_text("log_sample = 1")
        group.send(signal.SIGHUP)
        await until(lambda: log_lines(path, "config_reloaded"))
        async with asyncio.timeout(DEADLINE_S):
            while len(ids(path)) < 2:
                await ask_every_worker(group, "after")

    assert log_lines(path, "config_reloaded")[0]["changed"] == ["log_sample"]
    assert {each.partition("-")[0] for each in ids(path)} == {"after"}
