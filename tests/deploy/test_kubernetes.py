"""deploy/kubernetes: what every overlay's manifests must be, without a cluster."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from proxy import __version__
from proxy.cli import main
from tests.deploy import generated
from tests.deploy.manifests import OVERLAY_NAMES, OVERLAYS, ROOT, Manifests, joined, overlay
from tests.deploy.rules import RULES, metric_names
from tests.deploy.volumes import proxy_flags

README = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", OVERLAY_NAMES)
def test_an_overlay_keeps_the_rules(name, rule):
    rule(overlay(name))


@pytest.mark.parametrize("name", OVERLAY_NAMES)
def test_the_proxy_can_use_the_settings_of_an_overlay(name, known, tmp_path, monkeypatch, capsys):
    flags = proxy_flags(overlay(name), known, tmp_path, monkeypatch.setenv)

    assert main(["check-config", *flags]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", OVERLAY_NAMES)
def test_another_text_of_the_settings_is_a_rollout(name):
    """The ConfigMap's name ends in a hash of what it holds."""
    names = {item["metadata"]["name"] for item in overlay(name).of("ConfigMap")}

    assert all(re.fullmatch(r"(devstral-proxy|vllm-wait-idle)-[a-z0-9]{10}", found) for found in names)


def test_the_regions_differ_in_nothing_but_their_names():
    """Each has its own replicas first, and the other's."""
    texts = [overlay(f"region-{region}").settings_file() for region in ("eu", "us")]
    swapped = re.sub(r"\b(eu|us)\b", lambda found: {"eu": "us", "us": "eu"}[found[0]], texts[0])

    assert swapped == texts[1]


def test_prometheus_adapter_makes_the_number_that_the_autoscaler_asks_for():
    adapter = yaml.safe_load((OVERLAYS.parent / "prometheus-adapter.yaml").read_text())
    [rule] = adapter["rules"]["custom"]
    [scaler] = overlay("gateway-ha").of("HorizontalPodAutoscaler")
    asked = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"}

    assert asked == {rule["name"]["as"]}
    assert rule["seriesQuery"].startswith(f"{rule['name']['as']}{{")
    assert rule["name"]["as"] in metric_names()


def test_vllm_has_longer_to_end_than_its_hook_takes():
    [vllm] = [pod for pod in overlay("gateway").workloads() if pod.name == "vllm"]
    command = vllm.container("vllm")["lifecycle"]["preStop"]["exec"]["command"]
    after_s = int(command[command.index("--after") + 1])
    [limit_s] = re.findall(r'"--limit", type=float, default=([\d.]+)', _hook().read_text())

    assert vllm.spec["terminationGracePeriodSeconds"] > after_s + float(limit_s) + 30


def test_proxies_have_noticed_before_the_hook_looks_at_vllm():
    """What they look up is at most `dns_refresh_s` old, and what they are told as old as cluster DNS keeps it: 30 s."""
    [vllm] = [pod for pod in overlay("gateway").workloads() if pod.name == "vllm"]
    command = vllm.container("vllm")["lifecycle"]["preStop"]["exec"]["command"]

    assert int(command[command.index("--after") + 1]) > 10 + 30


def test_only_the_proxy_and_prometheus_reach_vllm():
    [policy] = [item for item in overlay("gateway").of("NetworkPolicy") if item["metadata"]["name"] == "vllm"]
    [way] = policy["spec"]["ingress"]

    assert way["from"] == [
        {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "devstral-proxy"}}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}},
    ]


@pytest.mark.parametrize("name", ["sidecar", "sidecar-inject"])
def test_vllm_beside_the_proxy_is_on_loopback_and_probed_by_commands(name):
    """An httpGet comes from the node, which does not reach it."""
    vllm = overlay(name).proxy().container("vllm")

    assert "--host=127.0.0.1" in vllm["args"]
    assert not vllm.get("ports")
    assert all("exec" in value for key, value in vllm.items() if key.endswith("Probe"))


def test_what_is_made_of_other_files_is_up_to_date():
    """`python -m tests.deploy.generated` makes it so."""
    for path, text in generated.files():
        assert path.read_text(encoding="utf-8") == text, path


def test_the_alerts_are_those_of_prometheus():
    [rule] = overlay("gateway-ha").of("PrometheusRule")

    assert rule["spec"] == yaml.safe_load(generated.ALERTS.read_text(encoding="utf-8"))


# --- components that no overlay has

#: In the order in which they stand in an overlay's list.
JOINED = [
    ("monitoring", "tls"),
    ("monitoring", "metrics-port"),
    ("monitoring", "metrics-port", "tls"),
]


@pytest.mark.parametrize("components", JOINED, ids=" ".join)
def test_components_that_are_joined_keep_the_rules(components, known, tmp_path, monkeypatch, capsys):
    manifests = joined(tmp_path, *components)
    for rule in RULES:
        rule(manifests)
    flags = proxy_flags(manifests, known, tmp_path / "volumes", monkeypatch.setenv)

    assert main(["check-config", *flags]) == 0, capsys.readouterr().err


def test_every_component_is_in_some_overlay_or_joined_here():
    folder = OVERLAYS.parent
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("overlays/*/kustomization.yaml")]
    used = {name for text in texts for name in re.findall(r"components/([\w-]+)", text)}

    assert {path.name for path in (folder / "components").iterdir()} == used | {n for names in JOINED for n in names}


def test_metrics_on_a_port_of_their_own_are_for_prometheus_alone(tmp_path):
    manifests = joined(tmp_path, "monitoring", "metrics-port")
    ways = {item["metadata"]["name"]: item["spec"]["ingress"] for item in manifests.of("NetworkPolicy")}
    env = {entry["name"]: entry["value"] for entry in manifests.proxy().container("proxy")["env"]}
    [monitor] = manifests.of("ServiceMonitor")
    metrics = [{"port": "metrics", "protocol": "TCP"}]

    assert (env["PROXY_METRICS_HOST"], env["PROXY_METRICS_PORT"]) == ("0.0.0.0", "9090")
    assert [way["ports"] for way in ways["devstral-proxy-from-monitoring"]] == [metrics]
    assert metrics not in [way["ports"] for way in ways["devstral-proxy"]]
    assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == ["metrics"]
    assert manifests.get("Service", "devstral-proxy-metrics")["spec"]["clusterIP"] == "None"
    assert [port["name"] for port in manifests.get("Service", "devstral-proxy")["spec"]["ports"]] == ["http"]


@pytest.mark.parametrize("components", [("monitoring", "tls"), ("monitoring", "metrics-port", "tls")], ids=" ".join)
def test_with_tls_everybody_who_asks_speaks_it(components, tmp_path):
    manifests = joined(tmp_path, *components)
    [monitor] = manifests.of("ServiceMonitor")
    [endpoint] = monitor["spec"]["endpoints"]
    services = [item for item in manifests.of("Service") if item["metadata"]["name"].startswith("devstral-proxy")]
    probes = [value for key, value in manifests.proxy().container("proxy").items() if key.endswith("Probe")]

    assert {probe["httpGet"]["scheme"] for probe in probes} == {"HTTPS"}
    assert {port["appProtocol"] for service in services for port in service["spec"]["ports"]} == {"https"}
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] == "devstral-proxy"
    assert endpoint["tlsConfig"]["ca"]["secret"] == {"name": "devstral-proxy-tls", "key": "ca.crt", "optional": True}


# --- deploy/README.md


def rows() -> dict[str, str]:
    """The rows of the table of overlays, by the names in their first cell."""
    lines = re.findall(r"^\| (`[^|]*`) \|(.*)\|$", README, re.MULTILINE)
    return {name: rest for cell, rest in lines for name in re.findall(r"`([^`]+)`", cell) if name in OVERLAY_NAMES}


def test_the_readme_has_every_overlay():
    assert sorted(rows()) == OVERLAY_NAMES


@pytest.mark.parametrize("name", OVERLAY_NAMES)
def test_the_readme_names_the_secrets_that_an_overlay_needs(name):
    manifests = overlay(name)
    text = rows()[name] + (rows()["gateway-ha"] if name.startswith("region") else "") + "`devstral-proxy-keys`"
    named = set(re.findall(r"`([\w-]+)`", text)) | ({"vllm-api-key-eu"} if name == "region-us" else set())

    assert set(needed_secrets(manifests)) <= named


def needed_secrets(manifests: Manifests) -> Iterator[str]:
    for pod in manifests.workloads():
        yield from (volume["secret"]["secretName"] for volume in pod.spec.get("volumes", []) if "secret" in volume)
        for container in pod.containers:
            references = [entry.get("valueFrom", {}).get("secretKeyRef", {}) for entry in container.get("env", [])]
            yield from (found["name"] for found in references if found and not found.get("optional"))
    for monitor in manifests.of("ServiceMonitor"):
        yield from (endpoint["authorization"]["credentials"]["name"] for endpoint in monitor["spec"]["endpoints"])


@pytest.mark.parametrize("name", ["sidecar", "sidecar-inject"])
def test_the_readme_says_the_times_of_the_manifests(name):
    section = README.partition("## Sidecar: who ends first")[2].partition("\n## ")[0]

    assert f"| {overlay(name).proxy().spec['terminationGracePeriodSeconds']} s |" in section


def _hook() -> Path:
    return OVERLAYS.parent / "components" / "vllm" / "wait_idle.py"


@pytest.mark.parametrize("folder", ["base", "components/inject"])
def test_the_image_has_the_version_of_the_proxy(folder):
    text = (OVERLAYS.parent / folder / "kustomization.yaml").read_text(encoding="utf-8")
    [tag] = [image["newTag"] for image in yaml.safe_load(text)["images"] if image["name"] == "devstral-proxy"]

    assert tag == __version__


def test_spans_go_where_the_policy_lets_them():
    manifests = overlay("gateway-ha")
    env = {entry["name"]: entry.get("value") for entry in manifests.proxy().container("proxy")["env"]}
    [rule] = manifests.get("NetworkPolicy", "devstral-proxy-to-otel")["spec"]["egress"]

    assert env["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector.observability:4318"
    assert rule["ports"] == [{"port": 4318, "protocol": "TCP"}]
