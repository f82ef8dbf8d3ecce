"""Rendered pods that run: their probes, their ends, and the hook that has vLLM wait for the proxy."""

import asyncio
import importlib.util
import json
import ssl
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import trustme

from tests.deploy.manifests import OVERLAYS, Manifests, chart, overlay
from tests.deploy.pod import DEADLINE_S, Pod, running
from tests.deploy.volumes import Secrets, secrets
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, ScriptedUpstream, Soon, event, text_chunk, whole

HOOK = OVERLAYS.parent / "components" / "vllm" / "wait_idle.py"
QUESTION = {"model": "devstral", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}

#: Every way in which proxy and vLLM stand in one pod.
SIDECARS = {
    "overlay sidecar": lambda: overlay("sidecar"),
    "overlay sidecar-inject": lambda: overlay("sidecar-inject"),
    "chart sidecar": lambda: chart("sidecar"),
}


@pytest_asyncio.fixture
async def known(tmp_path: Path) -> Secrets:
    folder = tmp_path / "secrets"
    folder.mkdir()
    return await asyncio.to_thread(secrets, folder)


class Stream:
    """An answer that a client reads: it has begun, and goes on when it is told."""

    def __init__(self) -> None:
        self.go_on = Soon()
        self.begun = asyncio.Event()
        self.text = b""

    @property
    def script(self) -> list[Any]:
        return [
            *(STREAM_HEAD, event(text_chunk("", role="assistant")), event(text_chunk("first")), self.go_on),
            *(event(text_chunk("last")), event(text_chunk("", finish="stop")), DONE, STREAM_END),
        ]

    async def read(self, pod: Pod, key: str) -> None:
        async with aiohttp.ClientSession() as session, self._asked(session, pod, key) as response:
            assert response.status == 200, await response.text()
            async for piece in response.content.iter_any():
                self.text += piece
                if b"first" in self.text:
                    self.begun.set()

    @staticmethod
    def _asked(session: aiohttp.ClientSession, pod: Pod, key: str) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        return session.post(f"{pod.url}/v1/chat/completions", json=QUESTION, headers=headers)

    @property
    def is_whole(self) -> bool:
        return b"last" in self.text and self.text.endswith(b"data: [DONE]\n\n") and b'"error"' not in self.text


async def end_while_streaming(pod: Pod, stream: Stream, known: Secrets) -> None:
    """End the pod while a client reads, and have the answer go on a while after nothing new is accepted."""
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(stream.read(pod, known.keys["alice"]))
        await stream.begun.wait()
        tasks.create_task(pod.end())
        while not (pod.is_draining or pod.has_lost_vllm):  # noqa: ASYNC110 - what is waited for is another process
            await asyncio.sleep(0.05)
        readiness = pod.workload.container("proxy")["readinessProbe"]
        assert not await pod.passes(readiness)
        await asyncio.sleep(1.5)  # three looks of the hook, which must not take this for the end
        stream.go_on.set()


@pytest.mark.parametrize("kind", SIDECARS)
async def test_a_stream_outlives_the_end_of_a_pod_of_proxy_and_vllm(kind, known, tmp_path):
    """vLLM gets SIGTERM when the proxy has served its last client, whichever of them is the sidecar."""
    stream = Stream()
    async with running(SIDECARS[kind](), known, tmp_path, stream.script) as pod:
        await end_while_streaming(pod, stream, known)

        assert stream.is_whole, stream.text
        assert pod.happened.index("proxy ended with 0") >= 0
        if kind == "overlay sidecar-inject":
            assert pod.happened[:2] == ["proxy started", "vllm started"]
            hooks = ["proxy's hook is over", "vllm's hook is over", "vllm gets SIGTERM", "proxy ended with 0"]
            assert pod.happened[2:] == hooks
        else:
            assert pod.happened[:2] == ["vllm started", "proxy started"]
            assert pod.happened[2:] == ["proxy gets SIGTERM", "proxy ended with 0", "vllm gets SIGTERM"]


async def test_without_the_hook_the_stream_is_cut(known, tmp_path):
    """The test above can fail: vLLM, being the main container, would get SIGTERM at once."""
    manifests = without_hooks(overlay("sidecar-inject"))
    stream = Stream()
    async with running(manifests, known, tmp_path, stream.script) as pod:
        await end_while_streaming(pod, stream, known)

        assert not stream.is_whole
        assert pod.happened[2:] == ["vllm gets SIGTERM", "proxy gets SIGTERM", "proxy ended with 0"]


def without_hooks(manifests: Manifests) -> Manifests:
    items = json.loads(json.dumps(manifests.items))
    for pod in Manifests(tuple(items)).workloads():
        for container in pod.containers:
            container.pop("lifecycle", None)
    return Manifests(tuple(items))


@pytest.mark.parametrize("rendered", [lambda: overlay("gateway"), lambda: chart("gateway")], ids=["overlay", "chart"])
async def test_a_gateway_answers_its_probes_prometheus_and_clients_and_ends_with_0(rendered, known, tmp_path):
    stream = Stream()
    stream.go_on.set()
    async with running(rendered(), known, tmp_path, stream.script) as pod:
        await stream.read(pod, known.keys["alice"])
        assert stream.is_whole
        operator = await scrape(pod, known.files["devstral-proxy-metrics"]["token"])
        assert operator[0] == 200
        assert b"\ndevstral_proxy_in_flight_requests " in operator[1]
        assert (await scrape(pod, known.keys["alice"]))[0] == 403
        await pod.end()

        assert pod.happened == ["proxy started", "proxy gets SIGTERM", "proxy ended with 0"]


@pytest.mark.parametrize("rendered", [lambda: overlay("edge"), lambda: chart("edge")], ids=["overlay", "chart"])
async def test_with_tls_probes_are_answered_and_a_renewed_certificate_needs_no_restart(rendered, known, tmp_path):
    """The kubelet puts a Secret's new files into a new folder, and turns the symbolic link `..data` to it."""
    async with running(rendered(), known, tmp_path, [Do.CLOSE]) as pod:
        folder = pod.volume("tls")
        assert (folder / "tls.crt").readlink() == Path("..data/tls.crt")
        before = await asyncio.to_thread(certificate_of, pod)

        renew(folder)
        async with asyncio.timeout(DEADLINE_S):
            while await asyncio.to_thread(certificate_of, pod) == before:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
        assert await pod.passes(pod.workload.container("proxy")["livenessProbe"])
        await pod.end()

        assert pod.happened == ["proxy started", "proxy gets SIGTERM", "proxy ended with 0"]


def certificate_of(pod: Pod) -> str:
    return ssl.get_server_certificate(("127.0.0.1", pod.port))


def renew(folder: Path) -> None:
    issued = trustme.CA().issue_cert("localhost")
    new = folder / "..2026_11_27"
    new.mkdir()
    (new / "tls.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    (new / "tls.key").write_bytes(issued.private_key_pem.bytes())
    (folder / "..data_tmp").symlink_to(new.name)
    (folder / "..data_tmp").rename(folder / "..data")


async def scrape(pod: Pod, key: str) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as session, session.get(f"{pod.url}/metrics", headers=headers) as response:
        return response.status, await response.read()


async def test_helm_test_says_whether_the_release_is_ready(known, tmp_path):
    """The command of the test's pod, against the release that it was rendered with."""
    manifests = chart("gateway")
    [container] = manifests.get("Pod", "release-devstral-proxy-ready")["spec"]["containers"]
    async with running(manifests, known, tmp_path, [Do.CLOSE]) as pod:
        arguments = [word.replace("release-devstral-proxy:9000", f"127.0.0.1:{pod.port}") for word in container["args"]]
        assert await pod.run(*container["command"], *arguments) == (0, "devstral-proxy: ready\n")
        await pod.end()

        code, says = await pod.run(*container["command"], *arguments)
        assert (code, says) == (1, f"devstral-proxy: not ready: nothing listens at 127.0.0.1:{pod.port}\n")


# --- the hook by itself


@pytest.fixture
def hook() -> ModuleType:
    specification = importlib.util.spec_from_file_location("wait_idle", HOOK)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def hook_process(*arguments: str) -> Any:
    return asyncio.create_subprocess_exec(sys.executable, str(HOOK), *arguments, stdout=asyncio.subprocess.PIPE)


async def ended(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(DEADLINE_S):
        written, _ = await process.communicate()
    assert process.returncode == 0
    return written.decode().strip()


def metrics(running: int, waiting: int) -> bytes:
    lines = [
        "# TYPE vllm:num_requests_running gauge",
        f'vllm:num_requests_running{{engine="0",model_name="devstral"}} {running}.0',
        f'vllm:num_requests_waiting{{engine="0",model_name="devstral"}} {waiting}.0',
        f'vllm:num_requests_waiting_by_reason{{engine="0",model_name="devstral",reason="capacity"}} {waiting}.0',
    ]
    return whole("\n".join(lines).encode() + b"\n")


async def test_the_hook_waits_until_vllm_runs_nothing_in_two_looks():
    scripts = [[metrics(*found)] for found in ((2, 1), (0, 1), (0, 0), (1, 0), (0, 0))]
    async with ScriptedUpstream(*scripts) as vllm:
        process = await hook_process("--vllm", vllm.url.rpartition(":")[2])

        assert await ended(process) == "wait_idle: idle"
        assert len(vllm.requests) == 6


async def test_the_hook_gives_up_at_its_limit():
    async with ScriptedUpstream([metrics(1, 0)]) as vllm:
        process = await hook_process("--vllm", vllm.url.rpartition(":")[2], "--limit", "1")

        assert await ended(process) == "wait_idle: still in use at the limit"


async def test_the_hook_does_not_wait_for_a_vllm_that_is_gone(hook, monkeypatch):
    monkeypatch.setattr(hook, "LOOK_EVERY_S", 0.001)
    async with ScriptedUpstream([]) as vllm:
        port = int(vllm.url.rpartition(":")[2])
    requests = hook.Requests(port)

    assert [requests.are_none() for _ in range(hook.MOST_FAILURES)] == [False] * (hook.MOST_FAILURES - 1) + [True]


async def test_when_vllm_alone_is_started_anew_the_hook_does_not_hold_it_up(hook, known, tmp_path, monkeypatch):
    """Kubernetes runs the hook also when vLLM has failed its liveness probe; then the proxy goes on serving."""
    monkeypatch.setattr(hook, "SAYS_SO_WITHIN_S", 0.5)
    monkeypatch.setattr(hook, "LOOK_EVERY_S", 0.1)
    async with running(overlay("sidecar-inject"), known, tmp_path, [Do.CLOSE]) as pod:
        assert await asyncio.to_thread(hook.drains, pod.port) is False
