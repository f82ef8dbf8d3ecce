"""The volumes of a pod as folders, so that its containers' commands can run here."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import trustme

from tests.deploy.manifests import Manifests, Workload

#: What stands for a model server far away.
FAR = "https://vllm.example.com"
#: The keys that the Secrets hold. The first two are of the same file.
KEYS = ("alice", "prometheus")


class Secrets(NamedTuple):
    """What an operator would have put into the cluster: Secret -> file -> text; and the keys in plain."""

    files: Mapping[str, Mapping[str, str]]
    keys: Mapping[str, str]


def secrets(folder: Path) -> Secrets:
    """Make keys and certificates with the proxy's own command, as the README says it."""
    keys_file = folder / "keys.json"
    keys = {name: _new_key(name, keys_file) for name in KEYS}
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1", "devstral-proxy")
    chain = "".join(blob.bytes().decode() for blob in certificate.cert_chain_pems)
    ca = authority.cert_pem.bytes().decode()
    tls = {"tls.crt": chain, "tls.key": certificate.private_key_pem.bytes().decode(), "ca.crt": ca}
    files = {
        "devstral-proxy-keys": {"keys.json": keys_file.read_text()},
        "devstral-proxy-metrics": {"token": keys["prometheus"]},
        "devstral-proxy-store": {"url": "valkeys://user:password@valkey:6379/0"},
        "devstral-proxy-tls": tls,
        "devstral-proxy-client-ca": {"ca.crt": ca},
        **{name: {"key": "vllm-key"} for name in ("vllm-api-key", "vllm-api-key-eu", "vllm-api-key-us")},
    }
    return Secrets(files, keys)


def _new_key(name: str, keys_file: Path) -> str:
    tier = ["--tier", "monitoring"] if name == "prometheus" else []
    command = [sys.executable, "-m", "proxy", "keys", "add", name, *tier, "--keys-file", str(keys_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    [key] = re.findall(r"dsp_\S+", done.stdout)
    return str(key)


class Volumes:
    """
    The files that a pod's containers see, below `folder`.

    `ports` says which port stands here for one of the pod; it is changed wherever it is written.
    """

    def __init__(
        self,
        manifests: Manifests,
        pod: Workload,
        secrets: Secrets,
        folder: Path,
        ports: Mapping[int, int] | None = None,
    ) -> None:
        self._folder = folder
        self._ports = ports or {}
        self._volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        self._paths: dict[str, str] = {}
        for container in pod.containers:
            for mount in container.get("volumeMounts", []):
                self._paths[mount["mountPath"]] = str(folder / mount["name"])
        for name, volume in self._volumes.items():
            _lay(folder / name, {file: self.here(text) for file, text in _files(manifests, volume, secrets).items()})

    def here(self, text: str) -> str:
        """A text of the manifests with the paths and ports that it has here."""
        paths = "|".join(map(re.escape, sorted(self._paths, key=len, reverse=True)))
        text = re.sub(rf"(?:{paths})\b", lambda found: self._paths[found[0]], text)
        text = text.replace("http://vllm:", "http://127.0.0.1:").replace(FAR, "http://127.0.0.1:8000")
        for port, other in self._ports.items():
            text = re.sub(rf"\b{port}\b", str(other), text)
        return text

    def environ(self, container: Mapping[str, Any]) -> dict[str, str]:
        """The variables of a container that have their value in the manifest."""
        return {entry["name"]: self.here(entry["value"]) for entry in container.get("env", []) if "value" in entry}


def proxy_flags(manifests: Manifests, secrets: Secrets, folder: Path, setenv: Callable[[str, str], None]) -> list[str]:
    """Lay the volumes of the proxy's pod below `folder`, set its variables, and return the flags of its command."""
    pod = manifests.proxy()
    volumes = Volumes(manifests, pod, secrets, folder)
    container = pod.container("proxy")
    for variable, value in volumes.environ(container).items():
        setenv(variable, value)
    return [volumes.here(argument) for argument in container["args"][1:]]


def _lay(folder: Path, files: Mapping[str, str]) -> None:
    """As a kubelet does it: files are links through `..data`, which is a link to the folder that holds them."""
    held = folder / "..2026_11_26"
    held.mkdir(parents=True)
    (folder / "..data").symlink_to(held.name)
    for name, text in files.items():
        (held / name).write_text(text, encoding="utf-8")
        (folder / name).symlink_to(f"..data/{name}")


def _files(manifests: Manifests, volume: Mapping[str, Any], secrets: Secrets) -> Mapping[str, str]:
    if "configMap" in volume:
        data: dict[str, str] = manifests.get("ConfigMap", volume["configMap"]["name"])["data"]
        return data
    if "secret" in volume:
        return secrets.files[volume["secret"]["secretName"]]
    assert {"emptyDir", "persistentVolumeClaim"} & set(volume), json.dumps(volume)
    return {}
