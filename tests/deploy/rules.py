"""What holds for every rendering, of kustomize and of Helm: functions that fail with what is wrong."""

import asyncio
import re
import tomllib
from collections.abc import Iterator
from typing import Any

from proxy.config import SETTINGS, Config
from proxy.observe.metrics import SHED, Metrics
from proxy.process.ending import longest_end_s
from tests.deploy.generated import ALERTS
from tests.deploy.manifests import NAMESPACE, Manifest, Manifests

_VARIABLES = {name for row in SETTINGS.values() for name in row.variables}
_MIB = 1024 * 1024
_UNITS = {"Mi": _MIB, "Gi": 1024 * _MIB}


def the_environment_holds_settings(manifests: Manifests) -> None:
    for container in (manifests.proxy().container("proxy"),):
        names = {entry["name"] for entry in container.get("env", [])}
        assert names <= _VARIABLES


def the_pod_has_longer_to_end_than_the_proxy_takes(manifests: Manifests) -> None:
    config = _config(manifests)
    pod = manifests.proxy()
    takes_s = longest_end_s(config, at_once=False)
    if len(pod.containers) > 1:
        takes_s += 30  # what vLLM may take behind or before it
    assert pod.spec["terminationGracePeriodSeconds"] > takes_s


def every_pod_is_restricted(manifests: Manifests) -> None:
    """The Pod Security Standard `restricted`, and more: no token, a root that cannot be written to, no links."""
    for pod in manifests.workloads():
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec)
        assert all(
            {"configMap", "secret", "emptyDir", "persistentVolumeClaim"} & set(v) for v in pod.spec.get("volumes", [])
        )
        for container in pod.containers:
            context = pod.spec["securityContext"] | container["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["runAsUser"] >= 1000
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


def the_proxy_is_65532(manifests: Manifests) -> None:
    pod = manifests.proxy()
    context = pod.spec["securityContext"] | pod.container("proxy")["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (65532, 65532)


def every_probe_says_its_timeout(manifests: Manifests) -> None:
    for pod in manifests.workloads():
        for container in pod.containers:
            for name in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container.get(name, {"timeoutSeconds": 1}).get("timeoutSeconds"), (container["name"], name)
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(manifests.proxy().container("proxy"))


def every_port_that_is_named_exists(manifests: Manifests) -> None:
    for pod in manifests.workloads():
        ports = {port["name"] for c in pod.containers for port in c.get("ports", [])}
        for container in pod.containers:
            for probe in (value for key, value in container.items() if key.endswith("Probe")):
                asked = probe.get("httpGet") or probe.get("tcpSocket") or {}
                assert asked.get("port") in ports | {None}
    for service in manifests.of("Service"):
        [pod] = [pod for pod in manifests.workloads() if service["spec"]["selector"].items() <= pod.labels.items()]
        names = {port["name"] for c in pod.containers for port in c.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for monitor in manifests.of("ServiceMonitor"):
        [service] = _matching(manifests.of("Service"), monitor["spec"]["selector"]["matchLabels"])
        served = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= served
    for policy in manifests.of("NetworkPolicy"):
        [pod] = [pod for pod in manifests.workloads() if _chosen(policy).items() <= pod.labels.items()]
        names = {port["name"] for c in pod.containers for port in c.get("ports", [])}
        allowed = {port["port"] for way in policy["spec"].get("ingress", []) for port in way["ports"]}
        assert allowed <= names


def alerts_find_what_is_scraped(manifests: Manifests) -> None:
    """They name the job: what the ServiceMonitor replaces it by, or the value of the Service's label that it names."""
    jobs = set(re.findall(r'job="([^"]+)"', ALERTS.read_text(encoding="utf-8")))
    for monitor in manifests.of("ServiceMonitor"):
        [service] = _matching(manifests.of("Service"), monitor["spec"]["selector"]["matchLabels"])
        by_label = service["metadata"]["labels"].get(monitor["spec"].get("jobLabel"))
        for endpoint in monitor["spec"]["endpoints"]:
            relabelled = {each["targetLabel"]: each["replacement"] for each in endpoint.get("relabelings", [])}
            assert jobs <= {relabelled.get("job", by_label)}


def selectors_find_pods(manifests: Manifests) -> None:
    labels = [pod.labels for pod in manifests.workloads()]
    for item in manifests.of("Deployment", "PodDisruptionBudget", "NetworkPolicy"):
        assert sum(_chosen(item).items() <= of_pod.items() for of_pod in labels) == 1, item["metadata"]["name"]


#: The variables of a proxy that are addresses: where it listens, and where spans go.
NO_SECRETS = frozenset(
    {"PROXY_HOST", "PROXY_METRICS_HOST", "PROXY_METRICS_PORT", "OTEL_EXPORTER_OTLP_ENDPOINT"},
)


def secrets_come_by_reference(manifests: Manifests) -> None:
    """No Secret is rendered, none is in a ConfigMap, the proxy reads its own from files, and mounts can be updated."""
    assert not manifests.of("Secret")
    for row in SETTINGS.values():
        if row.about.secret:
            assert row.name not in tomllib.loads(manifests.settings_file())
    proxy = manifests.proxy().container("proxy")
    names = {entry["name"] for entry in proxy.get("env", [])}
    assert all(name.endswith("_FILE") for name in names - NO_SECRETS)
    for pod in manifests.workloads():
        for container in pod.containers:
            assert all("subPath" not in mount for mount in container.get("volumeMounts", []))


def every_mount_has_its_volume(manifests: Manifests) -> None:
    for pod in manifests.workloads():
        volumes = [volume["name"] for volume in pod.spec.get("volumes", [])]
        assert len(set(volumes)) == len(volumes)
        mounted = {mount["name"] for c in pod.containers for mount in c.get("volumeMounts", [])}
        assert mounted == set(volumes)


def the_memory_limit_is_more_than_the_bounds_allow(manifests: Manifests) -> None:
    """
    60 MB with 500 streams (README, "Performance"), 20 MiB of translations, and the bodies, as they came and as they go.

    Measured on 2026-11-26 with as many bodies of 1 to 7 MB as a worker holds: 299 MiB with 128 MiB of them in the
    overlay `sidecar`, 501 MiB with 200 MiB in two workers of `gateway`, 141 MiB with 30 MiB in `edge`.
    """
    config = _config(manifests)
    needed = config.workers * (60 * _MIB + 20 * _MIB + 2 * config.max_buffered_bytes)
    assert _bytes(manifests.proxy().container("proxy")["resources"]["limits"]["memory"]) > needed


def scaling_asks_for_numbers_that_exist(manifests: Manifests) -> None:
    for text in _queries(manifests):
        for name in re.findall(r"devstral_proxy_\w+", text):
            assert name in metric_names()
        assert set(re.findall(r'namespace="([^"]+)"', text)) <= {NAMESPACE}
        for reasons in re.findall(r'reason=~"([^"]+)"', text):
            assert set(reasons.split("|")) <= set(SHED)


def what_scales_has_no_number_of_its_own(manifests: Manifests) -> None:
    targets = [
        item["spec"]["scaleTargetRef"]["name"] for item in manifests.of("HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(set(targets)) == len(targets)
    for deployment in manifests.of("Deployment"):
        assert ("replicas" in deployment["spec"]) != (deployment["metadata"]["name"] in targets)


def proxies_are_added_before_requests_wait(manifests: Manifests) -> None:
    config = _config(manifests)
    for item in manifests.of("HorizontalPodAutoscaler"):
        [pods] = [metric["pods"] for metric in item["spec"]["metrics"] if metric["type"] == "Pods"]
        assert int(pods["target"]["averageValue"]) < config.workers * config.max_in_flight


def what_is_not_asked_for_is_not_allowed(manifests: Manifests) -> None:
    """The proxy's policies know both directions, and every way out names a port and an end."""
    labels = manifests.proxy().labels
    policies = [
        item["spec"]
        for item in manifests.of("NetworkPolicy")
        if item["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    ]
    assert any("Ingress" in policy["policyTypes"] for policy in policies)
    for policy in policies:
        for way in (*policy.get("ingress", []), *policy.get("egress", [])):
            assert way["ports"]
            assert way.get("from") or way.get("to")


RULES = (
    the_environment_holds_settings,
    the_pod_has_longer_to_end_than_the_proxy_takes,
    every_pod_is_restricted,
    the_proxy_is_65532,
    every_probe_says_its_timeout,
    every_port_that_is_named_exists,
    alerts_find_what_is_scraped,
    selectors_find_pods,
    secrets_come_by_reference,
    every_mount_has_its_volume,
    the_memory_limit_is_more_than_the_bounds_allow,
    scaling_asks_for_numbers_that_exist,
    what_scales_has_no_number_of_its_own,
    proxies_are_added_before_requests_wait,
    what_is_not_asked_for_is_not_allowed,
)


def metric_names() -> set[str]:
    """The names of what /metrics has of one number."""
    metrics = Metrics(workers=1, routes=(), rules=())
    return set(re.findall(r"^(devstral_proxy_\w+)", asyncio.run(metrics.render()).decode(), re.MULTILINE))


def _queries(manifests: Manifests) -> Iterator[str]:
    for item in manifests.of("HorizontalPodAutoscaler"):
        yield from (metric["pods"]["metric"]["name"] for metric in item["spec"]["metrics"] if metric["type"] == "Pods")
    for item in manifests.of("ScaledObject"):
        yield from (trigger["metadata"]["query"] for trigger in item["spec"]["triggers"])


def _config(manifests: Manifests) -> Config:
    """The settings that the rules look at; `check-config` has looked at all of them."""
    values: dict[str, Any] = tomllib.loads(manifests.settings_file())
    wanted = ("drain_delay_s", "drain_timeout_s", "workers", "max_in_flight", "max_buffered_bytes")
    return Config(**{name: values[name] for name in wanted if name in values})


def _chosen(item: Manifest) -> dict[str, str]:
    """The labels of the pods that it is about."""
    labels: dict[str, str] = (item["spec"].get("selector") or item["spec"]["podSelector"])["matchLabels"]
    return labels


def _matching(items: list[Manifest], labels: dict[str, str]) -> list[Manifest]:
    return [item for item in items if labels.items() <= item["metadata"]["labels"].items()]


def _bytes(text: str) -> int:
    return int(text[:-2]) * _UNITS[text[-2:]]
