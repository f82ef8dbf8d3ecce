"""A proxy of several real processes, and what the operating system says about them."""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio

from tests.edge.test_serve import run_proxy

#: Generous: the machine may do something else.
DEADLINE_S = 20


class Group:
    """A running `python -m proxy serve` with its workers, in a process group of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = 0
        self.startup: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def log_line(self, event: str) -> dict[str, Any]:
        """Return the next line with this event name from standard output."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while (line := json.loads(await self.process.stdout.readline()))["event"] != event:
                pass
        return line

    def workers(self) -> set[int]:
        """The pids of the worker processes."""
        return set(map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()))

    def worker_of(self, response: aiohttp.ClientResponse) -> int:
        """The pid of the worker that has the server's end of this connection."""
        assert response.connection is not None
        return self.worker_at(response.connection.transport.get_extra_info("sockname")[1])

    def worker_at(self, client_port: int) -> int:
        """The pid of the worker that has the connection from this port."""
        here, there = f":{self.port:04X}", f":{client_port:04X}"
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        found = [row for row in rows if row[1].endswith(here) and row[2].endswith(there)]
        [inode] = [row[9] for row in found if row[3] == "01"]  # established: others with these ports may linger
        [owner] = [pid for pid in self.workers() if f"socket:[{inode}]" in set(links_of(pid))]
        return owner

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def send_all(self, number: signal.Signals) -> None:
        """Send it to every process of the group, as a terminal and a service manager do."""
        os.killpg(self.process.pid, number)

    async def exit_code(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await self.process.wait()


def links_of(pid: int) -> Iterator[str]:
    """What the open files of a process are."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield str(entry.readlink())


def is_running(pid: int) -> bool:
    """Whether a process exists and is not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition()` is true; fail after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def ended(process: asyncio.subprocess.Process) -> str:
    """Wait for the end of a proxy that ends by itself; return what it said on standard error."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            return (await process.communicate())[1].decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def counted(group: Group, name: str) -> float:
    """Return a number without labels from the metrics, asked for on a new connection."""
    async with aiohttp.ClientSession() as session, session.get(f"{group.url}/metrics") as response:
        text = await response.text()
    [value] = re.findall(rf"^devstral_proxy_{name} (\S+)$", text, re.MULTILINE)
    return float(value)


@contextlib.asynccontextmanager
async def running(workers: int, *flags: str, **environment: str) -> AsyncIterator[Group]:
    """`async with running(2, "--flag", ..., VLLM_BASE=...) as group`: a proxy whose two workers accept connections."""
    process = await run_proxy("--workers", str(workers), *flags, **environment)
    try:
        group = Group(process)
        group.startup = await group.log_line("startup")
        group.port = group.startup["port"]
        yield group
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


StartGroup = Callable[..., Awaitable[Group]]


@pytest_asyncio.fixture
async def start_group() -> AsyncIterator[StartGroup]:
    """`await start_group(2, "--flag", ..., VLLM_BASE=...)`: the same, running until the test is over."""
    async with contextlib.AsyncExitStack() as stack:

        async def started(workers: int, *flags: str, **environment: str) -> Group:
            return await stack.enter_async_context(running(workers, *flags, **environment))

        yield started
