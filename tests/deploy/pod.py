"""
A pod that runs here: its containers' commands, environments, probes and hooks as they were rendered, in the order in
which a kubelet starts and ends them.

    start   sidecars (init containers with restartPolicy: Always) one after the other, each when the one before has
            passed its startup probe; then the containers
    end     the hooks of all at once; SIGTERM to a container when its hook is over, to a sidecar only when the
            containers and the sidecars behind it have ended as well

Source: kubelet 1.33, kuberuntime/kuberuntime_container.go, killContainer: executePreStopHook, then waitForTurn, then
stopContainer. Only the grace period is not kept: what hangs fails by its own deadline.

vLLM is played by a ScriptedUpstream, which cuts off what runs when it gets SIGTERM. What differs here: ports are free
ones, everything is on 127.0.0.1, `devstral-proxy` and `python3` are this interpreter's, and two intervals are shorter.
"""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.deploy.manifests import Manifests
from tests.deploy.volumes import Secrets, Volumes
from tests.fakes import Script, ScriptedUpstream

#: Generous: the machine may do something else.
DEADLINE_S = 60
#: Instead of 5 s, which is long enough for a hook and a probe to see that it drains, and 5 s.
SHORTER = {"DRAIN_DELAY": "1.5", "HEALTH_INTERVAL": "0.5"}


class Pod:
    """`start()`, then `end()`; `happened` is what did, in order."""

    def __init__(self, manifests: Manifests, secrets: Secrets, folder: Path, vllm: ScriptedUpstream) -> None:
        self.workload = manifests.proxy()
        self.port = _free_port()
        self._vllm = vllm
        self._folder = folder
        ports = {9000: self.port, 8000: int(vllm.url.rpartition(":")[2])}
        (folder / "volumes").mkdir()
        self._volumes = Volumes(manifests, self.workload, secrets, folder / "volumes", ports)
        self._sidecars = [container["name"] for container in self.workload.spec.get("initContainers", [])]
        self._ended = {container["name"]: asyncio.Event() for container in self.workload.containers}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.happened: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def volume(self, name: str) -> Path:
        """The folder of a volume."""
        return self._folder / "volumes" / name

    @property
    def is_draining(self) -> bool:
        """Whether the proxy accepts nothing any more."""
        return '"event":"draining"' in (self._folder / "log").read_text()

    @property
    def has_lost_vllm(self) -> bool:
        return "vllm gets SIGTERM" in self.happened

    async def start(self) -> None:
        """Start all containers, and wait until every probe has been passed."""
        for container in self.workload.containers:
            if container["name"] == "proxy":
                self._processes["proxy"] = await self._started(container)
            await self._until_passed(container["startupProbe"])
            self.happened.append(f"{container['name']} started")
        for container in self.workload.containers:
            for probe in (container["livenessProbe"], container.get("readinessProbe")):
                if probe is not None:
                    await self._until_passed(probe)

    async def end(self) -> None:
        """End the pod, as deleting it does."""
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
            for container in self.workload.containers:
                tasks.create_task(self._end_one(container))

    async def run(self, *command: str, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command of the manifests; return its exit code and what it wrote."""
        process = await asyncio.create_subprocess_exec(
            *_here(command, self._pid),
            env=_inherited() | (environ or {}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(DEADLINE_S):
            written, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, written.decode()

    async def kill(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    @property
    def _pid(self) -> int:
        return self._processes["proxy"].pid if self._processes else 0

    async def _started(self, container: Mapping[str, Any]) -> asyncio.subprocess.Process:
        command = (*container["command"], *map(self._volumes.here, container["args"]))
        environ = self._volumes.environ(container) | {"PROXY_HOST": "127.0.0.1"} | SHORTER
        with (self._folder / "log").open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *_here(command, 0), env=_inherited() | environ, stdout=log, stderr=log, start_new_session=True
            )

    # --- probes

    async def _until_passed(self, probe: Mapping[str, Any]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not await self.passes(probe):  # noqa: ASYNC110 - it asks from outside, as a kubelet does
                await asyncio.sleep(0.1)

    async def passes(self, probe: Mapping[str, Any]) -> bool:
        """Ask once, within the probe's own `timeoutSeconds`."""
        if "exec" in probe:
            code, _ = await self.run(*map(self._volumes.here, probe["exec"]["command"]))
            return code == 0
        url = f"{probe['httpGet']['scheme'].lower()}://127.0.0.1:{self.port}{probe['httpGet']['path']}"
        timeout = aiohttp.ClientTimeout(total=probe["timeoutSeconds"])
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, ssl=False) as response:
                return 200 <= response.status < 400
        except (aiohttp.ClientError, TimeoutError):
            return False

    # --- the end

    async def _end_one(self, container: Mapping[str, Any]) -> None:
        name = container["name"]
        if hook := container.get("lifecycle", {}).get("preStop"):
            code, written = await self.run(*map(self._volumes.here, hook["exec"]["command"]))
            assert code == 0, written
            self.happened.append(f"{name}'s hook is over")
        for other in self._before(name):
            await self._ended[other].wait()
        if name == "proxy":
            await self._end_proxy()
        else:
            self.happened.append(f"{name} gets SIGTERM")
            await self._vllm.__aexit__()
        self._ended[name].set()

    async def _end_proxy(self) -> None:
        process = self._processes["proxy"]
        if process.returncode is None:
            self.happened.append("proxy gets SIGTERM")
            process.send_signal(signal.SIGTERM)
        self.happened.append(f"proxy ended with {await process.wait()}")

    def _before(self, name: str) -> list[str]:
        """Who must have ended before a container gets SIGTERM."""
        if name not in self._sidecars:
            return []
        mains = [container["name"] for container in self.workload.spec["containers"]]
        return [*mains, *self._sidecars[self._sidecars.index(name) + 1 :]]


@asynccontextmanager
async def running(manifests: Manifests, secrets: Secrets, folder: Path, *scripts: Script) -> AsyncIterator[Pod]:
    """A pod whose vLLM plays these scripts."""
    async with ScriptedUpstream(*scripts) as vllm:
        pod = Pod(manifests, secrets, folder, vllm)
        try:
            await pod.start()
            yield pod
        finally:
            await pod.kill()


def _here(command: tuple[str, ...], pid: int) -> list[str]:
    """A container's command with this interpreter; its process 1 is the proxy's here."""
    first = [sys.executable, "-m", "proxy"] if command[0] == "devstral-proxy" else [sys.executable]
    assert command[0] in ("devstral-proxy", "python3")
    return [*first, *(re.sub(r"os\.kill\(1,", f"os.kill({pid},", word) for word in command[1:])]


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port
