"""What a service manager hears, over a real socket, from a proxy of one process and of several."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from proxy.process.notify import Manager, manager_of
from tests.edge.test_serve import run_proxy
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, ScriptedUpstream, event, text_chunk
from tests.process.conftest import DEADLINE_S, Group, until
from tests.process.test_workers import a_stream_on_each

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="asks Linux about processes")

#: A manager that waits so long; its program pings twice in that time.
WATCHDOG_S = 2.0
BEGIN = [STREAM_HEAD, event(text_chunk("a"))]
END = [event(text_chunk("b")), event(text_chunk("", finish="stop")), DONE, STREAM_END]


class Socket:
    """A service manager's socket, and what came to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    async def message(self) -> dict[str, str]:
        """Return the next message, its lines by name."""
        async with asyncio.timeout(DEADLINE_S):
            data = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
        return dict(line.split("=", 1) for line in data.decode().split("\n"))

    async def until(self, name: str) -> dict[str, str]:
        """Return the next message that has a line of this name."""
        while name not in (message := await self.message()):
            pass
        return message

    def heard(self) -> list[str]:
        """Return the first line of every message that is there, and take them away."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._socket.recv(4096).decode().split("\n")[0])
        return found


@pytest.fixture
def manager(request, tmp_path) -> Iterator[Socket]:
    """At a path, or where a test asks for it by a name of the kernel's, which systemd's own socket had for long."""
    is_path = getattr(request, "param", "path") == "path"
    made = Socket(str(tmp_path / "notify") if is_path else f"@devstral-proxy-test-{os.getpid()}")
    yield made
    made.close()


@contextlib.asynccontextmanager
async def told(manager: Socket, workers: int, *flags: str, **environment: str) -> AsyncIterator[Group]:
    """Start a proxy that has this manager; it need not have said anything yet."""
    process = await run_proxy("--workers", str(workers), *flags, NOTIFY_SOCKET=manager.name, **environment)
    try:
        yield Group(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def started(group: Group) -> None:
    group.startup = await group.log_line("startup")
    group.port = group.startup["port"]


# --- a life


@pytest.mark.parametrize("manager", ["path", "abstract"], indirect=True)
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_life_is_told_from_ready_to_stopping(manager, workers):
    flags = ("--drain-delay-s", "0.2", "--drain-timeout-s", "30")
    async with told(manager, workers, *flags, VLLM_BASE="http://127.0.0.1:1") as group:
        ready = await manager.message()
        await started(group)
        async with aiohttp.ClientSession() as session, session.get(f"{group.url}/livez") as response:
            assert response.status == 200
        assert ready == {
            "READY": "1",
            "STATUS": f"Serving {group.url} with {workers} worker{'s' if workers > 1 else ''}",
        }

        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        group.send(signal.SIGHUP)
        reloading = await manager.message()
        assert reloading.keys() == {"RELOADING", "MONOTONIC_USEC"}
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert await manager.message() == ready

        group.send(signal.SIGTERM)
        stopping = await manager.message()
        assert stopping["STOPPING"] == "1"
        assert 30e6 < int(stopping["EXTEND_TIMEOUT_USEC"]) < 60e6
        assert await manager.message() == {"STATUS": "SIGTERM: nothing is accepted, 0 requests run"}
        assert await group.exit_code() == 0
        assert manager.heard() == []


@pytest.mark.parametrize("workers", [1, 2])
async def test_settings_that_are_refused_are_told_and_the_service_is_still_ready(manager, workers, tmp_path):
    config = tmp_path / "proxy.toml"
    config.write_text('vllm_base = "http://127.0.0.1:1"\n')
    async with told(manager, workers, "--config", str(config), "--watch-config-s", "0") as group:
        await manager.until("READY")
        await started(group)
        config.write_text("vllm_bsae = 1\n")
        group.send(signal.SIGHUP)
        await manager.until("RELOADING")
        message = await manager.until("READY")

        assert message["STATUS"].endswith("the last settings were refused, see the log")


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_end_may_take_as_long_as_the_settings_say_and_no_ready_comes_while_it_ends(manager, workers):
    async with ScriptedUpstream([*BEGIN, Do.WAIT_FOR_PEER]) as upstream:
        async with told(manager, workers, "--drain-timeout-s", "300", VLLM_BASE=upstream.url) as group:
            await manager.until("READY")
            await started(group)
            async with a_stream_on(group):
                group.send(signal.SIGTERM)
                assert int((await manager.until("STOPPING"))["EXTEND_TIMEOUT_USEC"]) > 300e6
                assert (await manager.message())["STATUS"].endswith("1 requests run")
                group.send(signal.SIGHUP)
                group.send(signal.SIGTERM)
                await group.exit_code()

        assert manager.heard() == []


@contextlib.asynccontextmanager
async def a_stream_on(group: Group) -> AsyncIterator[aiohttp.ClientResponse]:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    url = f"{group.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        await response.content.readuntil(b"\n\n")
        yield response


async def test_a_worker_that_cannot_listen_is_never_ready(manager, unused_tcp_port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", unused_tcp_port))
        taken.listen()
        async with told(manager, 2, "--port", str(unused_tcp_port)) as group:
            assert await group.exit_code() == os.EX_UNAVAILABLE

    assert manager.heard() == []


# --- the watchdog

WATCHDOG = {"WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_watchdog_hears_that_the_loops_turn(manager, workers):
    async with told(manager, workers, VLLM_BASE="http://127.0.0.1:1", **WATCHDOG) as group:
        await manager.until("READY")
        for _ in range(4):
            assert await manager.message() == {"WATCHDOG": "1"}
        assert group.process.returncode is None


async def test_a_process_whose_loop_does_not_turn_is_silent(manager):
    """SIGSTOP is what an endless loop is to everybody else. That it wakes up again is not part of the claim."""
    async with told(manager, 1, VLLM_BASE="http://127.0.0.1:1", **WATCHDOG) as group:
        await manager.until("WATCHDOG")
        group.send(signal.SIGSTOP)
        manager.heard()
        await asyncio.sleep(2 * WATCHDOG_S)

        assert manager.heard() == []


async def test_a_worker_that_hangs_is_replaced_and_the_others_streams_go_on(manager):
    release = asyncio.Event()
    async with (
        ScriptedUpstream([*BEGIN, release, *END]) as upstream,
        told(manager, 2, VLLM_BASE=upstream.url, **WATCHDOG) as group,
    ):
        await manager.until("READY")
        await started(group)
        async with a_stream_on_each(group) as streams:
            hung, other = streams
            os.kill(hung, signal.SIGSTOP)
            assert (await group.log_line("worker_hung"))["pid"] == hung
            assert (await group.log_line("worker_exited"))["signal"] == "SIGKILL"
            await until(lambda: len(group.workers() - {hung}) == 2)
            manager.heard()
            await manager.until("WATCHDOG")
            release.set()

            assert (await streams[other].read()).endswith(b"data: [DONE]\n\n")
            assert other in group.workers()


async def test_when_no_worker_turns_the_manager_hears_nothing(manager):
    async with told(manager, 2, VLLM_BASE="http://127.0.0.1:1", **WATCHDOG) as group:
        await manager.until("READY")
        await started(group)
        group.send_all(signal.SIGSTOP)
        manager.heard()
        await asyncio.sleep(2 * WATCHDOG_S)
        assert manager.heard() == []


async def test_workers_are_not_killed_because_the_whole_machine_was_stopped(manager):
    async with told(manager, 2, VLLM_BASE="http://127.0.0.1:1", **WATCHDOG) as group:
        await manager.until("READY")
        await started(group)
        workers = group.workers()
        group.send_all(signal.SIGSTOP)
        await asyncio.sleep(2 * WATCHDOG_S)
        manager.heard()
        group.send_all(signal.SIGCONT)
        for _ in range(3):
            await manager.until("WATCHDOG")

        assert group.workers() == workers


# --- nobody listens


@pytest.mark.parametrize("address", ["/nowhere/notify", "@nobody-has-this-name", "vsock:2:1234", "nonsense", "@", "/"])
async def test_a_manager_that_is_not_there_changes_nothing(address, start_group):
    group = await start_group(1, VLLM_BASE="http://127.0.0.1:1", NOTIFY_SOCKET=address, WATCHDOG_USEC="100000")
    group.send(signal.SIGHUP)
    await group.log_line("config_reloaded")
    group.send(signal.SIGTERM)

    assert await group.exit_code() == 0


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": "/x"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000"}, 30.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000"}, None),
    ],
)
def test_the_watchdog_is_on_if_the_environment_says_so_for_this_process(environ, watchdog_s):
    environ["HOME"] = "/root"

    found = manager_of(environ)

    assert found.watchdog_s == watchdog_s
    assert found.beat_s == (watchdog_s / 2 if watchdog_s else None)
    assert environ == {"HOME": "/root"}


def test_a_manager_whose_queue_is_full_is_not_waited_for(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind(str(tmp_path / "notify"))
        manager = Manager(str(tmp_path / "notify"))
        for _ in range(10_000):
            manager.status("x")
        manager.ready("x")
