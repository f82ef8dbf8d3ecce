"""deploy/helm/devstral-proxy: what its manifests must be for every file of values in ci/, without a cluster."""

import json
import re
import tomllib

import msgspec
import pytest
import yaml

from proxy import __version__
from proxy.cli import main
from proxy.config import SETTINGS, Config
from tests.deploy import generated
from tests.deploy.manifests import CHART, VALUES_NAMES, chart, run_tool, tool
from tests.deploy.rules import RULES, alerts_find_what_is_scraped
from tests.deploy.volumes import proxy_flags


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("values", ["", *VALUES_NAMES])
def test_a_release_keeps_the_rules(values, rule):
    rule(chart(values))


@pytest.mark.parametrize("values", ["", *VALUES_NAMES])
def test_the_proxy_can_use_the_settings_of_a_release(values, known, tmp_path, monkeypatch, capsys):
    flags = proxy_flags(chart(values), known, tmp_path, monkeypatch.setenv)

    assert main(["check-config", *flags]) == 0, capsys.readouterr().err


def test_settings_arrive_as_they_were_given():
    """Numbers stay whole, texts with quotes and other signs stay texts, records become tables."""
    backends = [{"url": "http://a:1", "weight": 2.5, "models": ['a "b" \\ ä <&>', "c\n"]}]
    given = {"port": 9001, "retry_budget": 0.25, "strict": True, "max_body_bytes": 33_554_432, "backends": backends}
    given["models"] = {"mistral/devstral.small": {"first_byte_timeout_s": 900, "timeout_s": 0}}
    sent = tomllib.loads(chart("", "--set-json", f"config={json.dumps(given)}").settings_file())

    assert given.items() <= sent.items()
    assert isinstance(sent["port"], int)
    msgspec.convert(sent, Config)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--set", "config.prot=1"], "additional properties 'prot' not allowed"),
        (["--set", "replicas=3"], "additional properties 'replicas' not allowed"),
        (["--set", "mode=both"], "'gateway', 'sidecar'"),
        (["--set", "config.port=99999"], "65,535"),
        (["--set", "config.vllm_api_key=secret"], "additional properties 'vllm_api_key' not allowed"),
        (["--set", "config.backends[0].api_key=secret"], "additional properties 'api_key' not allowed"),
        (["--set", "image.digest=latest"], "does not match pattern"),
        (["--set", "graceMarginSeconds=0"], "minimum"),
        (["--set", "autoscaling.enabled=true", "--set", "config.max_in_flight=64"], "is never reached"),
        (["--set", "config.metrics_port=9000"], "is the port of the proxy itself"),
        (["--set", "tls.clientCA.existingSecret=ca", "--set", "serviceMonitor.enabled=true"], "has to show one too"),
        (["--set", "mode=sidecar", "--set", "autoscaling.enabled=true"], "which keda scales"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(flags, says):
    done = run_tool("helm", "template", "release", str(CHART), *flags)

    assert done.returncode != 0
    assert says in done.stderr


@pytest.mark.parametrize(("delay", "timeout", "mode", "grace"), [(0, 0, "gateway", 25), (7.5, 600, "sidecar", 663)])
def test_the_grace_period_follows_the_settings(delay, timeout, mode, grace):
    config = json.dumps({"drain_delay_s": delay, "drain_timeout_s": timeout})
    pod = chart("", "--set", f"mode={mode}", "--set-json", f"config={config}").proxy()

    assert pod.spec["terminationGracePeriodSeconds"] == grace


def test_other_settings_are_a_rollout_unless_pods_shall_take_them_over_themselves():
    def annotations(*flags):
        [deployment] = chart("", *flags).of("Deployment")
        return deployment["spec"]["template"]["metadata"]["annotations"]

    first, second = annotations(), annotations("--set", "config.log_level=debug")
    assert first["checksum/config"] != second["checksum/config"]
    assert "checksum/config" not in annotations("--set", "rollOnConfigChange=false")


def test_with_certificates_of_clients_no_probe_is_http():
    """The kubelet has none to show."""
    proxy = chart("certificates").proxy().container("proxy")

    assert proxy["livenessProbe"]["exec"]["command"][:2] == ["devstral-proxy", "healthcheck"]
    assert proxy["readinessProbe"]["tcpSocket"] == {"port": "http"}


def test_with_tls_everybody_who_asks_speaks_it():
    manifests = chart("edge")
    [monitor], [service] = manifests.of("ServiceMonitor"), manifests.of("Service")
    probes = [value for key, value in manifests.proxy().container("proxy").items() if key.endswith("Probe")]

    assert {probe["httpGet"]["scheme"] for probe in probes} == {"HTTPS"}
    assert [endpoint["scheme"] for endpoint in monitor["spec"]["endpoints"]] == ["https"]
    assert service["spec"]["ports"][0]["appProtocol"] == "https"


def test_metrics_on_a_port_of_their_own_are_for_prometheus_alone():
    """Who publishes the Service of clients publishes no numbers, and who may send requests may not read them."""
    manifests = chart("metrics")
    settings = tomllib.loads(manifests.settings_file())
    clients, numbers = manifests.of("Service")
    [monitor], [policy] = manifests.of("ServiceMonitor"), manifests.of("NetworkPolicy")
    [endpoint] = monitor["spec"]["endpoints"]
    from_clients, from_prometheus = policy["spec"]["ingress"]
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}

    assert (settings["metrics_port"], settings["metrics_host"]) == (9090, "0.0.0.0")
    assert {"name": "metrics", "containerPort": 9090} in manifests.proxy().container("proxy")["ports"]
    assert [port["name"] for port in clients["spec"]["ports"]] == ["http"]
    assert [(port["name"], port["port"]) for port in numbers["spec"]["ports"]] == [("metrics", 9090)]
    assert numbers["spec"]["clusterIP"] == "None"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= numbers["metadata"]["labels"].items()
    assert endpoint["port"] == "metrics"
    assert "authorization" not in endpoint  # metrics_auth: open
    assert from_prometheus == {"from": [monitoring], "ports": [{"port": "metrics", "protocol": "TCP"}]}
    assert monitoring not in from_clients["from"]
    assert from_clients["ports"] == [{"port": "http", "protocol": "TCP"}]


def test_metrics_on_a_port_of_their_own_are_read_with_a_key_unless_it_is_open():
    [monitor] = chart("metrics", "--set", "config.metrics_auth=auto").of("ServiceMonitor")
    [endpoint] = monitor["spec"]["endpoints"]

    assert endpoint["authorization"]["credentials"] == {"name": "devstral-proxy-metrics", "key": "token"}


def test_alerts_find_a_release_of_another_name():
    flags = ("--set", "nameOverride=other", "--set", "fullnameOverride=other")

    alerts_find_what_is_scraped(chart("metrics", *flags))


def test_prometheus_shows_a_certificate_where_clients_have_to():
    [monitor] = chart("certificates").of("ServiceMonitor")
    [endpoint] = monitor["spec"]["endpoints"]

    assert endpoint["tlsConfig"]["cert"] == {"secret": {"name": "prometheus-client", "key": "tls.crt"}}
    assert endpoint["tlsConfig"]["keySecret"] == {"name": "prometheus-client", "key": "tls.key"}


@pytest.mark.parametrize(("values", "service"), [("sidecar", "one"), ("sidecar metrics", "one-metrics")])
def test_model_servers_are_scaled_on_the_requests_of_their_own_release(values, service):
    """Two releases in a namespace are two models."""
    flags = ("--set", "config.metrics_port=9090") if "metrics" in values else ()
    [scaled] = chart("sidecar", "--set", "fullnameOverride=one", *flags).of("ScaledObject")
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]

    assert len(queries) == 3
    assert all(f'{{namespace="devstral",service="{service}"' in query for query in queries)


def test_an_address_of_the_metrics_that_is_said_stays():
    flags = ("--set", "config.metrics_port=9090", "--set", "config.metrics_host=127.0.0.1")

    assert tomllib.loads(chart("", *flags).settings_file())["metrics_host"] == "127.0.0.1"


def test_the_test_pod_may_pass_the_policy():
    manifests = chart("")
    [policy], pod = manifests.of("NetworkPolicy"), manifests.get("Pod", "release-devstral-proxy-ready")
    allowed = [
        end["podSelector"]["matchLabels"] for end in policy["spec"]["ingress"][0]["from"] if "podSelector" in end
    ]

    assert any(labels.items() <= pod["metadata"]["labels"].items() for labels in allowed)
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"


def test_the_alerts_are_those_of_prometheus():
    [rule] = chart("ha").of("PrometheusRule")

    assert rule["spec"] == yaml.safe_load(generated.ALERTS.read_text(encoding="utf-8"))


def test_the_schema_knows_every_setting_and_no_secret():
    """`python -m tests.deploy.generated` makes it so."""
    text = generated.SCHEMA.read_text(encoding="utf-8")
    keys = {row.keys[-1] for row in SETTINGS.values()}

    assert set(json.loads(text)["$defs"]["Config"]["properties"]) == keys
    assert generated.values_schema(text) == text


def test_every_value_is_read_and_in_the_schema():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads(generated.SCHEMA.read_text())["properties"]
    templates = "\n".join(path.read_text() for path in sorted((CHART / "templates").rglob("*.*")))

    assert set(values) == set(schema) - {"global"}
    assert not [name for name in values if not re.search(rf"\.{name}\b", templates)]


@pytest.mark.parametrize(("flags", "host"), [((), "0.0.0.0"), (("--set", "config.host=::"), "::")])
def test_the_address_is_that_of_the_settings_and_not_of_the_image(flags, host):
    env = {entry["name"]: entry.get("value") for entry in chart("", *flags).proxy().container("proxy")["env"]}

    assert env["PROXY_HOST"] == host


def test_the_chart_has_the_version_of_the_proxy():
    facts = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert facts["appVersion"] == __version__


@pytest.mark.parametrize(
    ("values", "url"), [("sidecar", "http://devstral-proxy."), ("edge", "https://devstral-proxy.")]
)
def test_an_installation_says_where_it_is_and_how_long_it_takes_to_end(values, url):
    file = str(CHART / "ci" / f"{values}-values.yaml")
    said = tool("helm", "install", "devstral-proxy", str(CHART), "--dry-run=client", "--values", file)
    _, _, notes = said.partition("NOTES:")
    grace = chart(values).proxy().spec["terminationGracePeriodSeconds"]

    assert url in notes
    assert f"up to {grace} s to end" in notes


@pytest.mark.parametrize(
    ("flags", "is_warned"),
    [
        (("--set", "mode=sidecar"), True),
        (("--set", "mode=sidecar", "--set", "networkPolicy.internet=true"), False),
        (("--set", "mode=sidecar", "--set", "vllm.cache.existingClaim=weights"), False),
        ((), False),
    ],
)
def test_an_installation_says_when_nothing_lets_the_weights_in(flags, is_warned):
    """vLLM would try for half an hour, be started anew, and try again."""
    said = tool("helm", "install", "devstral-proxy", str(CHART), "--dry-run=client", *flags)

    assert ("networkPolicy.internet" in said.partition("NOTES:")[2]) == is_warned


def test_helm_finds_nothing_to_complain_about(tmp_path):
    for values in VALUES_NAMES:
        assert "0 chart(s) failed" in tool(
            "helm", "lint", "--strict", str(CHART), "--values", str(CHART / "ci" / f"{values}-values.yaml")
        )
    tool("helm", "package", str(CHART), "--destination", str(tmp_path))
    [archive] = tmp_path.iterdir()
    packed = run_tool("helm", "template", "release", str(archive), "--set", "prometheusRule.enabled=true")
    assert packed.returncode == 0, packed.stderr
