"""The process: what it says when it starts, how it ends, and what becomes of running requests (F27)."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, ScriptedUpstream, event, text_chunk

START_S = 20


class Process:
    """A running `python -m proxy serve`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.port = 0
        self.human_line = ""

    async def log_line(self, event: str) -> dict[str, Any]:
        """Return the next line with this event name from standard output."""
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            while (line := json.loads(await self._process.stdout.readline()))["event"] != event:
                pass
        return line

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exit_code(self) -> int:
        async with asyncio.timeout(START_S):
            return await self._process.wait()


StartProcess = Callable[..., Awaitable[Process]]


@pytest_asyncio.fixture
async def start_process() -> AsyncIterator[StartProcess]:
    """`await start_process("--flag", ..., VLLM_BASE=...)`: a proxy process that has said that it listens."""
    processes = []

    async def started(*flags: str, **environment: str) -> Process:
        process = await run_proxy(*flags, **environment)
        processes.append(process)
        proxy = Process(process)
        proxy.port = (await proxy.log_line("startup"))["port"]
        assert process.stderr is not None
        proxy.human_line = (await process.stderr.readline()).decode()
        return proxy

    yield started
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run_proxy(*flags: str, **environment: str) -> asyncio.subprocess.Process:
    """
    Start the proxy on a free port, as the leader of a process group: its workers can be signalled with it.

    It goes on accepting after SIGTERM only if `DRAIN_DELAY` says so.
    """
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "proxy", "serve", "--port", "0", *flags),
        env=inherited | {"DRAIN_DELAY": "0", "PROXY_PROFILE": "vllm-mistral-tokenizer"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def test_the_first_line_says_where_it_listens_and_what_is_behind_it(start_process):
    proxy = await start_process("--profile", "passthrough", VLLM_BASE="http://127.0.0.1:1/v1/")

    assert f"http://127.0.0.1:{proxy.port}/v1 -> http://127.0.0.1:1, profile passthrough" in proxy.human_line
    assert "demo" not in proxy.human_line


@pytest.mark.parametrize(("ui", "is_shown"), [("auto", True), ("off", False)])
async def test_it_says_where_its_pages_are(start_process, ui, is_shown):
    proxy = await start_process("--ui", ui, VLLM_BASE="http://127.0.0.1:1")

    assert f"{proxy.url}/docs" in proxy.human_line
    assert (f"{proxy.url}/ui" in proxy.human_line) is is_shown


async def test_without_an_upstream_it_says_that_it_plays_a_demo_and_how_to_use_a_real_one(start_process):
    proxy = await start_process()

    assert "built-in demo model, not a real one" in proxy.human_line
    assert "VLLM_BASE=http://HOST:8000 make run" in proxy.human_line
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{proxy.url}/v1/models") as response:
            model = (await response.json())["data"][0]["id"]
        messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        body = {"model": model, "messages": messages}
        async with session.post(f"{proxy.url}/v1/chat/completions", json=body) as response:
            assert response.status == 200
            assert (await response.json())["choices"][0]["message"]["content"]
        async with session.get(f"{proxy.url}/readyz") as response:
            assert response.status == 200
    proxy.signal(signal.SIGTERM)
    assert await proxy.exit_code() == 0


async def test_a_taken_port_is_exit_code_69_and_named(start_process):
    first = await start_process()
    second = await run_proxy("--port", str(first.port))
    _, message = await second.communicate()

    assert second.returncode == os.EX_UNAVAILABLE
    assert f"cannot listen on 127.0.0.1:{first.port}" in message.decode()
    assert "Traceback" not in message.decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_ends_an_idle_process_at_once(start_process, number, code):
    """A connection that is kept alive does not hold it up."""
    proxy = await start_process(VLLM_BASE="http://127.0.0.1:1")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{proxy.url}/livez") as response:
            assert response.status == 200
        proxy.signal(number)

        assert await proxy.exit_code() == code


async def test_a_running_stream_is_finished_and_nothing_new_is_accepted(start_process):
    signalled = asyncio.Event()
    end = [event(text_chunk("b")), event(text_chunk("", finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("a")), signalled, *end]) as upstream:
        proxy = await start_process(VLLM_BASE=upstream.url)
        async with aiohttp.ClientSession() as session, ask(session, proxy) as response:
            proxy.signal(signal.SIGTERM)
            await proxy.log_line("draining")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)
            signalled.set()
            stream = await response.read()

        assert b'"b"' in stream
        assert stream.endswith(b"data: [DONE]\n\n")
        assert b'"error"' not in stream
        assert await proxy.exit_code() == 0


@pytest.mark.parametrize("how", ["second signal", "drain timeout"])
async def test_what_still_runs_when_the_time_is_over_is_told_so(start_process, how):
    limit = "0.2" if how == "drain timeout" else "300"
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("a")), Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_process("--drain-timeout-s", limit, VLLM_BASE=upstream.url)
        async with aiohttp.ClientSession() as session, ask(session, proxy) as response:
            proxy.signal(signal.SIGTERM)
            await proxy.log_line("draining")
            if how == "second signal":
                proxy.signal(signal.SIGTERM)
            *_, error, done, rest = (await response.read()).split(b"\n\n")

        assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "shutting_down"
        assert (done, rest) == (b"data: [DONE]", b"")
        assert (await proxy.log_line("request"))["error"] == "shutting_down"
        assert (await proxy.log_line("shutdown"))["cut_off"] == 1
        assert await proxy.exit_code() == 0
        await upstream.left.wait()


async def test_a_request_that_has_no_answer_yet_gets_503_when_the_time_is_over(start_process):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_process("--drain-timeout-s", "0", VLLM_BASE=upstream.url)
        async with aiohttp.ClientSession() as session:
            asked = asyncio.ensure_future(ask(session, proxy, stream=False).__aenter__())
            await upstream.asked.wait()
            proxy.signal(signal.SIGTERM)
            response = await asked

            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert (await response.json())["error"]["code"] == "shutting_down"
        assert await proxy.exit_code() == 0


def ask(session: aiohttp.ClientSession, proxy: Process, *, stream: bool = True) -> Any:
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}
    return session.post(f"{proxy.url}/v1/chat/completions", json=body)
