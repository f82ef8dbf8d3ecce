"""Rendered pods of real containers end without cutting a stream: `make test-image`, as root on Debian."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.container_pod import ContainerPod
from tests.deploy.engine import Engine
from tests.deploy.manifests import overlay
from tests.deploy.volumes import secrets

pytestmark = pytest.mark.image

IMAGE = "localhost/devstral-proxy:pods"


@pytest.fixture(scope="module")
def engine() -> Engine:
    engine = Engine()
    engine.prepare()
    engine.build(IMAGE)
    return engine


@pytest.fixture
def pod(engine: Engine, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ContainerPod]:
    (tmp_path / "secrets").mkdir()
    name = f"test-{request.param}"
    pod = ContainerPod(engine, IMAGE, overlay(request.param), secrets(tmp_path / "secrets"), tmp_path, name)
    try:
        pod.start()
        yield pod
    finally:
        pod.remove()


def is_whole(answer: bytes) -> bool:
    return b"last" in answer and answer.endswith(b"data: [DONE]\n\n") and b'"error"' not in answer


@pytest.mark.parametrize("pod", ["sidecar"], indirect=True)
def test_a_proxy_with_vllm_as_its_sidecar_serves_to_the_end(pod):
    """The kubelet sends SIGTERM to the proxy, and to vLLM when the proxy has ended."""
    vllm, proxy = pod.workload.container("vllm"), pod.workload.container("proxy")
    assert pod.passes("vllm", vllm["startupProbe"])
    assert pod.passes("proxy", proxy["livenessProbe"])

    pod.ask()
    pod.sigterm("proxy")
    assert not pod.passes("proxy", proxy["readinessProbe"])
    assert pod.is_running("proxy")
    pod.go_on()

    assert pod.exit_code("proxy") == 0
    assert pod.exit_code("client") == 0
    assert is_whole(pod.answer)
    assert pod.is_running("vllm")


@pytest.mark.parametrize("pod", ["sidecar-inject"], indirect=True)
def test_a_vllm_with_the_proxy_as_its_sidecar_waits_for_it(pod):
    """Both hooks begin at once; vLLM's is over when the proxy has served its client, in another container."""
    hooks = {
        name: pod.workload.container(name)["lifecycle"]["preStop"]["exec"]["command"] for name in ("proxy", "vllm")
    }
    pod.ask()
    waiting = threading.Thread(target=lambda: pod.exec("vllm", *hooks["vllm"]))
    waiting.start()
    pod.exec("proxy", *hooks["proxy"])
    waiting.join(7)
    assert waiting.is_alive()
    assert b"last" not in pod.answer

    pod.go_on()
    waiting.join(60)
    assert not waiting.is_alive()
    assert is_whole(pod.answer)
    assert pod.exit_code("proxy") == 0
    pod.sigterm("vllm")
    assert pod.exit_code("vllm") == 0
