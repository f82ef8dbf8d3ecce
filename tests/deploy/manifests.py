"""Kubernetes manifests as they are rendered: by kustomize out of an overlay, by Helm out of a file of values."""

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
CHART = ROOT / "deploy" / "helm" / "devstral-proxy"
TOOLS = ROOT / ".venv-kube" / "bin"

OVERLAY_NAMES = sorted(path.name for path in OVERLAYS.iterdir())
VALUES_NAMES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir())

#: The namespace of all manifests.
NAMESPACE = "devstral"

Manifest = dict[str, Any]


class Workload(NamedTuple):
    """A pod's template, or a pod, with the labels that selectors see."""

    name: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def container(self, name: str) -> dict[str, Any]:
        [found] = [container for container in self.containers if container["name"] == name]
        return found


class Manifests(NamedTuple):
    """What one rendering made."""

    items: tuple[Manifest, ...]

    def of(self, *kinds: str) -> list[Manifest]:
        return [item for item in self.items if item["kind"] in kinds]

    def get(self, kind: str, name: str) -> Manifest:
        [found] = [item for item in self.of(kind) if item["metadata"]["name"] == name]
        return found

    def workloads(self) -> Iterator[Workload]:
        """Every pod that would run."""
        for item in self.of("Deployment", "Pod"):
            template = item["spec"]["template"] if item["kind"] == "Deployment" else item
            yield Workload(item["metadata"]["name"], template["metadata"]["labels"], template["spec"])

    def proxy(self) -> Workload:
        """The pod that serves: the Deployment that has a container `proxy`."""
        pods = [pod for pod in self.workloads() if any(c["name"] == "proxy" for c in pod.containers)]
        [found] = pods
        return found

    def settings_file(self) -> str:
        """The text of proxy.toml."""
        [found] = [item for item in self.of("ConfigMap") if "proxy.toml" in item["data"]]
        return str(found["data"]["proxy.toml"])


@functools.cache
def overlay(name: str) -> Manifests:
    """What `kubectl apply -k` would send."""
    return _parsed(tool("kubectl", "kustomize", str(OVERLAYS / name)))


def joined(folder: Path, *components: str) -> Manifests:
    """What an overlay in `folder` would send that is the overlay `gateway` and components, in this order."""
    to_kubernetes = os.path.relpath(OVERLAYS.parent, folder)  # kustomize takes no absolute path
    kustomization = {
        "resources": [f"{to_kubernetes}/overlays/gateway"],
        "components": [f"{to_kubernetes}/components/{name}" for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    return _parsed(tool("kubectl", "kustomize", str(folder)))


@functools.cache
def chart(values: str, *flags: str) -> Manifests:
    """What `helm install` would send, its test's pod included; `values` is a name of ci/, or "" for the defaults."""
    files = ["--values", str(CHART / "ci" / f"{values}-values.yaml")] if values else []
    return _parsed(tool("helm", "template", "release", str(CHART), "--namespace", NAMESPACE, *files, *flags))


def _parsed(text: str) -> Manifests:
    return Manifests(tuple(item for item in yaml.safe_load_all(text) if item))


def tool(name: str, *arguments: str) -> str:
    """Run helm or kubectl; return what it writes."""
    done = run_tool(name, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the lock has helm and kubectl for Linux on x86_64")
    assert (TOOLS / name).exists(), "make .venv-kube/.stamp installs it"
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, timeout=120)
