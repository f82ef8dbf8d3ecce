"""
The processes of a run: replicas and the proxy, each in a group of its own, to be killed, stopped and started again.

Nothing outlives the run: the kernel ends a process when its parent ends, and `end()` kills its whole group.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.processes import tree
from tests.live.servers import ROOT, Server, free_port, stop_with_parent

_LOOK_S: Final = 0.1
_METRIC: Final = re.compile(r"^devstral_proxy_(\w+?)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Actor:
    """One program: `start()`, then what is done to it. Signals go to its whole group."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """
        Start it, and wait until /health is 200.

        Raises:
            RuntimeError: it ended, or was not healthy in time.
        """
        self.server.log.parent.mkdir(parents=True, exist_ok=True)
        with self.server.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - some ms, and nobody waits
                self.server.command,
                cwd=ROOT,
                env={**os.environ, **self.server.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=stop_with_parent,
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.server.start_s):
                while self.is_running:
                    if await asyncio.to_thread(self.is_healthy):
                        return
                    await asyncio.sleep(_LOOK_S)
        raise RuntimeError(f"{self.server.name} did not start: {self.server.log}")

    def is_healthy(self) -> bool:
        """Return whether it answers that it is well."""
        return _is_healthy(self.url)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every process of its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.send(signal.SIGKILL)
        await self.ended()

    async def ended(self) -> None:
        """Wait until it has ended."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)

    async def end(self) -> None:
        """Kill what there is of it, if it was started."""
        if self._process is not None:
            await self.kill()


class Proxy(Actor):
    """The proxy, as an operator starts it."""

    def children(self) -> list[int]:
        """Return the workers that a supervisor looks after."""
        return tree(self.pid)[1:]

    def workers(self) -> list[int]:
        """Return the processes that serve: the children, or itself where there is one worker."""
        return self.children() or [self.pid]

    def files(self) -> int:
        """Return how many files and sockets they have open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.workers())

    def sockets(self) -> int:
        """Return how many sockets they have open."""
        return sum(len(sockets_of(pid)) for pid in self.workers())

    async def metrics(self) -> dict[str, float]:
        """
        Return every metric by its name and labels, without prefix; {} when nobody answers.

        The request that asks for them is not in `in_flight_requests`.
        """
        try:
            text = await asyncio.to_thread(_get, f"{self.url}/metrics")
        except (OSError, urllib.error.URLError):
            return {}
        found = {name + labels: float(value) for name, labels, value in _METRIC.findall(text)}
        return found | {"in_flight_requests": found["in_flight_requests"] - 1}


def sockets_of(pid: int) -> list[str]:
    """Return what stands for each socket that a process has open; none where it has ended."""
    found = []
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            target = os.readlink(path)
            if target.startswith("socket:"):
                found.append(target)
    return found


def scripted_replica(logs: Path) -> Server:
    """Describe a replica that is tests/chaos/model.py."""
    port = free_port()
    return Server(
        name=f"model-{port}",
        command=[sys.executable, "-m", "tests.chaos.model", str(port)],
        environment={},
        url=f"http://127.0.0.1:{port}",
        log=logs / f"model-{port}.log",
        start_s=20,
    )


def proxy_before(urls: list[str], logs: Path, environment: Mapping[str, str], module: str = "proxy") -> Server:
    """Describe the proxy in front of `urls`; `environment` has its settings."""
    port = free_port()
    return Server(
        name=f"proxy-{port}",
        command=[sys.executable, "-m", module, "serve", "--vllm-base", ",".join(urls), "--port", str(port)],
        environment={"LOG_LEVEL": "warning", **environment},
        url=f"http://127.0.0.1:{port}",
        log=logs / f"proxy-{port}.log",
        start_s=20,
    )


def _is_healthy(url: str) -> bool:
    try:
        _get(f"{url}/health")
    except (OSError, urllib.error.URLError):
        return False
    return True


def _get(url: str) -> str:
    with _OPENER.open(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text
