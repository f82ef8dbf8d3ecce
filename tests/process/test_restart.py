"""A new version takes over a port, and no request fails meanwhile."""

import asyncio
import errno
import os
import signal
import socket
import sys

import aiohttp
import pytest

from proxy.process.address import HeldAddress, PassedSockets, address_of
from tests.edge.test_serve import run_proxy
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, completion, event, text_chunk, whole
from tests.process.conftest import DEADLINE_S, Group, ended, running, until

BEGIN = [STREAM_HEAD, event(text_chunk("a"))]
END = [event(text_chunk("b")), event(text_chunk("", finish="stop")), DONE, STREAM_END]
CLIENTS = 4
#: of each client, before it looks whether to go on
REQUESTS = 20

linux = pytest.mark.skipif(sys.platform != "linux", reason="SO_REUSEPORT shares out connections on Linux alone")


def question(*, stream=False):
    return {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]}


class Clients:
    """Ask again and again, each client on connections that it keeps while it is allowed to."""

    def __init__(self, url):
        self.statuses = []
        self._url = url
        self._is_over = False

    async def __aenter__(self):
        self._tasks = [asyncio.ensure_future(self._ask_on()) for _ in range(CLIENTS)]
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def finish(self):
        """Let each client come to an end; raise what went wrong."""
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def _ask_on(self):
        async with aiohttp.ClientSession() as session:
            while not self._is_over:
                for _ in range(REQUESTS):
                    async with session.post(f"{self._url}/v1/chat/completions", json=question()) as response:
                        await response.read()
                        self.statuses.append(response.status)
                    await asyncio.sleep(0.01)


@linux
@pytest.mark.parametrize(("old_workers", "new_workers"), [(1, 1), (2, 2)])
async def test_one_instance_takes_over_from_another_and_no_request_fails(old_workers, new_workers):
    released = asyncio.Event()
    answers = [[*BEGIN, released, *END], [whole(completion())]]
    environment = {"REUSE_PORT": "1", "DRAIN_DELAY": "0.3"}
    async with (
        ScriptedUpstream(*answers) as upstream,
        running(old_workers, VLLM_BASE=upstream.url, **environment) as old,
        aiohttp.ClientSession() as session,
        session.post(f"{old.url}/v1/chat/completions", json=question(stream=True)) as stream,
        Clients(old.url) as clients,
        running(new_workers, "--port", str(old.port), VLLM_BASE=upstream.url, **environment) as new,
    ):
        old.send(signal.SIGTERM)
        draining = await old.log_line("draining")
        asked_before = len(clients.statuses)
        await until(lambda: len(clients.statuses) > asked_before)
        await clients.finish()
        released.set()
        whole_stream = await stream.read()
        assert await old.exit_code() == 0

        assert new.port == old.port
        assert draining["in_flight"] >= 1
        assert whole_stream.endswith(b"data: [DONE]\n\n")
        assert b'"error"' not in whole_stream
        assert len(clients.statuses) > asked_before
        assert set(clients.statuses) == {200}


@pytest.mark.parametrize("workers", [1, 2])
async def test_without_the_setting_a_second_instance_is_refused(workers):
    async with running(workers, VLLM_BASE="http://127.0.0.1:1", REUSE_PORT="1") as first:
        second = await run_proxy("--workers", str(workers), "--port", str(first.port), VLLM_BASE="http://127.0.0.1:1")
        message = await ended(second)

    assert second.returncode == os.EX_UNAVAILABLE
    assert f"cannot listen on 127.0.0.1:{first.port}" in message


async def test_without_the_setting_a_second_instance_may_start_when_the_first_accepts_no_more():
    """It need not wait for the streams of the first."""
    released = asyncio.Event()
    async with (
        ScriptedUpstream([*BEGIN, released, *END]) as upstream,
        running(2, VLLM_BASE=upstream.url) as first,
        aiohttp.ClientSession() as session,
        session.post(f"{first.url}/v1/chat/completions", json=question(stream=True)) as stream,
    ):
        first.send(signal.SIGTERM)
        await first.log_line("draining")
        async with running(2, "--port", str(first.port), VLLM_BASE=upstream.url) as second:
            assert second.port == first.port
        released.set()
        assert (await stream.read()).endswith(b"data: [DONE]\n\n")
        assert await first.exit_code() == 0


# --- the address


@linux
async def test_a_client_that_is_turned_away_comes_to_the_next_listener_and_one_that_was_there_stays():
    """The kernel of the client asks again after a second."""
    held = HeldAddress("127.0.0.1", 0, is_shared=True)
    [first] = held.listeners()
    first.listen()
    first.setblocking(False)
    early = socket.create_connection(first.getsockname())
    held.turn_away([first])

    late = socket.socket()
    late.setblocking(False)
    assert late.connect_ex(first.getsockname()) == errno.EINPROGRESS
    accepted, _ = first.accept()
    with pytest.raises(BlockingIOError):
        first.accept()
    accepted.sendall(b"hello")
    early.sendall(b"hello")
    assert (early.recv(5), accepted.recv(5)) == (b"hello", b"hello")

    [second] = HeldAddress("127.0.0.1", held.port, is_shared=True).listeners()
    second.listen()
    second.setblocking(False)
    first.close()
    async with asyncio.timeout(DEADLINE_S):
        accepted_late, _ = await asyncio.get_running_loop().sock_accept(second)
    assert accepted_late.getpeername() == late.getsockname()
    for each in (early, late, accepted, accepted_late, second):
        each.close()


def test_an_address_may_be_held_by_two_that_share_it():
    first = HeldAddress("127.0.0.1", 0, is_shared=True)
    second = HeldAddress("127.0.0.1", first.port, is_shared=True)

    assert second.port == first.port
    with pytest.raises(OSError, match="in use"):
        HeldAddress("127.0.0.1", first.port)
    first.close()
    second.close()


# --- passed sockets


AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "proxy", "serve", *sys.argv[2:]])
"""


async def run_on(listener, *flags, **environment):
    """Start a proxy as systemd does: its first passed socket is descriptor 3, and LISTEN_PID is its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", AS_SYSTEMD, str(listener.fileno()), *flags),
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | environment,
        pass_fds=[listener.fileno()],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_passed_socket_is_listened_on_and_outlives_the_process(workers):
    """One process after the other: a client that connects while there is none is answered by the second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        answers = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            process = await run_on(listener, "--workers", workers, VLLM_BASE="http://127.0.0.1:1", DRAIN_DELAY="0")
            async with asyncio.timeout(DEADLINE_S):
                answers.append(await reader.read())
            writer.close()
            assert (await Group(process).log_line("startup"))["port"] == port
            process.send_signal(signal.SIGTERM)
            await ended(process)
            assert process.returncode == 0

    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 2


async def test_what_is_passed_and_does_not_listen_is_refused():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        process = await run_on(bound, VLLM_BASE="http://127.0.0.1:1")
        message = await ended(process)

    assert process.returncode == os.EX_UNAVAILABLE
    assert "does not listen on a TCP port" in message


def test_what_was_passed_to_another_process_is_not_taken_and_nobody_inherits_it():
    environ = {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    address = address_of("127.0.0.1", 0, environ, is_shared=False)
    address.close()

    assert not isinstance(address, PassedSockets)
    assert environ == {}
