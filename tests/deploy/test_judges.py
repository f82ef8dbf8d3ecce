"""What others say of the manifests: Kubernetes' own schemas, those of the CRDs, and Checkov. See `make test-deploy`."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import OVERLAY_NAMES, ROOT, VALUES_NAMES, Manifest, Manifests, chart, overlay

pytestmark = pytest.mark.deploy

RENDERED = {f"overlay {name}": (overlay, name) for name in OVERLAY_NAMES} | {
    f"chart {name}": (chart, name) for name in VALUES_NAMES
}
#: Kinds that Kubernetes does not know by itself, and which have a schema in tests/deploy/js.
OF_OTHERS = ("HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor")
#: The first version in which sidecars are on by default, and the newest that there are schemas for.
VERSIONS = ("1.29.1", "1.37.0")


def rendered(name: str) -> Manifests:
    make, argument = RENDERED[name]
    return make(argument)


def written(manifests: Manifests, path: Path) -> Path:
    path.write_text(yaml.safe_dump_all(manifests.items), encoding="utf-8")
    return path


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", RENDERED)
def test_kubernetes_schemas_accept_it_and_know_every_field(name, version, tmp_path):
    own = Manifests(tuple(item for item in rendered(name).items if item["kind"] not in (*OF_OTHERS, "InferencePool")))
    path = written(own, tmp_path / "all.yaml")

    done = judge("deploy", "kubernetes_validate", "--strict", "--no-warn", "-k", version, str(path))

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("passed for resource", done.stdout + done.stderr)) == len(own.items)


def test_the_schemas_of_the_crds_accept_it_and_know_every_field():
    items = [item for name in RENDERED for item in rendered(name).of(*OF_OTHERS)]
    assert {item["kind"] for item in items} == set(OF_OTHERS)

    for item, faults in zip(items, crd_faults(items), strict=True):
        assert not faults, (item["kind"], faults)


def test_the_judge_of_crds_sees_wrong_and_unknown_fields():
    [scaled] = overlay("gateway-ha").of("ScaledObject")
    wrong = json.loads(json.dumps(scaled))
    wrong["spec"] |= {"pollingInterval": "often", "minReplicas": 1}
    wrong["spec"]["triggers"][0]["metadta"] = {}

    [faults] = crd_faults([wrong])
    assert {fault.partition(":")[0] for fault in faults} == {
        *("/spec/pollingInterval", "/spec/minReplicas", "/spec/triggers/0/metadta")
    }


def test_an_inference_pool_has_the_fields_of_its_first_stable_version():
    """It is held to no schema, so this is all that is checked of it: inference.networking.k8s.io/v1."""
    [pool] = overlay("inference-pool").of("InferencePool")
    route = overlay("inference-pool").get("HTTPRoute", "devstral-pool")
    [vllm] = [pod for pod in overlay("inference-pool").workloads() if pod.name == "vllm"]

    assert pool["apiVersion"] == "inference.networking.k8s.io/v1"
    assert set(pool["spec"]) == {"selector", "targetPorts", "endpointPickerRef"}
    assert pool["spec"]["selector"]["matchLabels"].items() <= vllm.labels.items()
    assert pool["spec"]["targetPorts"] == [{"number": vllm.container("vllm")["ports"][0]["containerPort"]}]
    assert set(pool["spec"]["endpointPickerRef"]) == {"name", "port", "failureMode"}
    [[backend]] = [rule["backendRefs"] for rule in route["spec"]["rules"]]
    assert (backend["group"], backend["kind"]) == ("inference.networking.k8s.io", "InferencePool")
    assert backend["name"] == pool["metadata"]["name"]


def test_checkov_has_nothing_to_say_beyond_what_is_answered(tmp_path):
    for name in RENDERED:
        written(rendered(name), tmp_path / f"{name.replace(' ', '-')}.yaml")

    settings = ROOT / "deploy" / "checkov.yaml"
    done = judge("checkov", "checkov.main", "--config-file", str(settings), "--directory", str(tmp_path))

    assert done.returncode == 0, done.stdout
    assert "Passed checks" in judge("checkov", "checkov.main", "-d", str(tmp_path), "--framework", "kubernetes").stdout


def judge(environment: str, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of an environment that `make test-deploy` sets up."""
    python = ROOT / f".venv-{environment}" / "bin" / "python"
    assert python.exists(), "make test-deploy installs it"
    return subprocess.run([python, "-m", module, *arguments], capture_output=True, text=True, timeout=300)


def crd_faults(items: list[Manifest]) -> list[list[str]]:
    command = ["node", str(Path(__file__).parent / "js" / "check.mjs")]
    done = subprocess.run(command, input=json.dumps(items), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    faults: Any = json.loads(done.stdout)
    return list(faults)
