"""deploy/compose.yaml and what it mounts: the form, what is confined and what is published, and whether names agree."""

import re
import shutil
import stat
import subprocess
import sys

import pytest
import yaml

from proxy.config import SETTINGS
from tests.deploy.engine import ROOT, run

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
PROXIES = ("proxy", "proxy-demo")
COLLECTOR = yaml.safe_load((DEPLOY / "otel" / "collector.yaml").read_text(encoding="utf-8"))
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))


def networks(service):
    return set(SERVICES[service]["networks"])


# --- the form


def test_it_is_what_the_compose_specification_describes(tool):
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))


@pytest.mark.parametrize("profile", ["demo", "gpu"])
def test_docker_compose_understands_it(profile, tmp_path):
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], check=False).returncode:
        pytest.skip("there is no docker compose here")
    run("docker", "compose", "--file", str(DEPLOY / "compose.yaml"), "--profile", profile, "config", "--quiet")


def test_a_docker_without_compose_is_named_before_anything_is_made(tmp_path):
    """Docker itself says `unknown flag: --file`."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    [recipe] = re.findall(r"^up: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (tmp_path / "Makefile").write_text(f"up:\n{recipe}")
    done = subprocess.run(
        ["make", "up"], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )

    assert done.returncode != 0
    assert "No docker compose" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"docker", "Makefile"}


@pytest.mark.parametrize(
    ("flags", "how"), [((), "--build"), (("PROXY_IMAGE=registry.example.org/proxy@sha256:abc",), "--no-build")]
)
def test_an_image_that_is_named_is_not_built(flags, how):
    """One that is named by its digest cannot be: that is no tag."""
    told = run("make", "--dry-run", "up", *flags, cwd=str(ROOT))

    assert re.search(rf"--profile demo up {how} --wait", told)


YAMLS = [
    DEPLOY / "compose.yaml",
    *(path for room in ("prometheus", "grafana", "otel") for path in (DEPLOY / room).rglob("*.y*ml")),
]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_yaml_is_in_good_order(path, tool):
    rules = "line-length: {max: 140}, document-start: disable, braces: disable, commas: disable"
    config = f"{{extends: default, rules: {{{rules}}}}}"
    run(tool("yamllint"), "--strict", "--config-data", config, str(path))


def test_each_profile_has_one_proxy_and_all_that_watches_it():
    always = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert always == {"valkey", "prometheus", "grafana", "otel-collector"}
    by_profile = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert by_profile == {"proxy": ["gpu"], "vllm": ["gpu"], "proxy-demo": ["demo"]}


# --- what is confined


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined_and_bounded(name):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is (name != "vllm")  # it compiles kernels
    assert "memory" in service["deploy"]["resources"]["limits"]
    assert "privileged" not in service
    assert not {"host"} & {service.get("network_mode"), service.get("pid"), service.get("ipc")}


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"otel-collector"}))
def test_every_service_that_can_be_asked_is_asked(name):
    check = SERVICES[name]["healthcheck"]
    assert {"test", "interval", "timeout", "retries"} <= set(check)


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_versions(name):
    image = re.sub(r"^\$\{[A-Z_]+:-(.+)\}$", r"\1", SERVICES[name]["image"])
    tag = image.rsplit(":", 1)[1]
    assert re.search(r"\d", tag) or (tag == "local" and name in PROXIES)


def test_a_shell_hands_its_place_to_what_it_starts():
    """As process 1 it would keep SIGTERM to itself, and every stop would take the whole time until SIGKILL."""
    by_shell = {
        name: service["command"] for name, service in SERVICES.items() if service.get("entrypoint") == ["sh", "-c"]
    }
    assert set(by_shell) == {"vllm", "valkey"}
    for [command] in by_shell.values():
        assert " exec v" in command
        assert "|" not in command


# --- what can be reached


def test_only_the_proxy_and_grafana_are_published_and_only_on_loopback():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {*PROXIES, "grafana"}
    assert all(port.startswith("${PUBLISH:-127.0.0.1}:") for ports in published.values() for port in ports)


def test_vllm_and_valkey_share_no_network_with_what_is_published_but_the_proxys():
    assert "published" not in networks("vllm") | networks("valkey")
    assert networks("valkey") == {"store"}
    assert {name for name in SERVICES if "models" in networks(name)} == {"proxy", "vllm"}
    assert {name for name in SERVICES if "store" in networks(name)} == {*PROXIES, "valkey"}
    internal = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    assert internal == {"models", "store", "observed"}


# --- secrets


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """What deploy/secrets.sh makes in a fresh folder."""
    folder = tmp_path_factory.mktemp("deploy")
    shutil.copy(DEPLOY / "secrets.sh", folder)
    (folder / "proxy").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m proxy "$@"\n')
    (folder / "proxy").chmod(0o755)
    run(str(folder / "secrets.sh"), env={"PROXY": str(folder / "proxy"), "PATH": "/usr/bin:/bin"})
    return folder / "secrets"


def test_every_secret_is_a_file_that_the_script_makes(secrets):
    files = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}
    assert files == {name: f"./secrets/{name}" for name in files}
    used = {name for service in SERVICES.values() for name in service.get("secrets", ())}
    assert used == set(files)
    assert {path.name for path in secrets.iterdir()} == used | {"client_key", "keys"}
    assert (secrets / "store_url").read_text() == f"valkey://:{(secrets / 'valkey_password').read_text()}@valkey:6379/0"


def test_containers_may_read_their_secrets_and_others_may_not_enter_the_folder(secrets):
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir() if path.is_file()}
    assert set(modes.values()) == {0o444}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert stat.S_IMODE((secrets / "keys" / "keys.json").stat().st_mode) == 0o644


def test_a_secret_that_is_there_stays(secrets):
    before = {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()}
    run(str(secrets.parent / "secrets.sh"), env={"PROXY": str(secrets.parent / "proxy"), "PATH": "/usr/bin:/bin"})
    assert {path: path.read_bytes() for path in secrets.rglob("*") if path.is_file()} == before


def test_a_new_password_of_the_store_is_in_its_url(secrets, tmp_path):
    made = made_anew(secrets, tmp_path, without="valkey_password")

    assert (made / "valkey_password").read_bytes() != (secrets / "valkey_password").read_bytes()
    assert (made / "store_url").read_text() == f"valkey://:{(made / 'valkey_password').read_text()}@valkey:6379/0"


def test_a_new_file_of_keys_has_the_keys_that_stand_beside_it(secrets, tmp_path):
    made = made_anew(secrets, tmp_path, without="keys/keys.json")
    known = (made / "keys" / "keys.json").read_text()

    for name in ("client", "metrics"):
        key = (made / f"{name}_key").read_text()
        assert key != (secrets / f"{name}_key").read_text()
        assert f'"{key.split("_")[1]}"' in known


def made_anew(secrets, tmp_path, *, without):
    """Return the folder that the script makes of a copy without one file."""
    shutil.copytree(secrets.parent, tmp_path / "deploy")
    made = tmp_path / "deploy" / "secrets"
    (made / without).unlink()
    script, proxy = (str(tmp_path / "deploy" / name) for name in ("secrets.sh", "proxy"))
    run(script, env={"PROXY": proxy, "PATH": "/usr/bin:/bin"})
    return made


def test_no_secret_stands_in_the_environment_or_in_git():
    names = {name for service in SERVICES.values() for name in service.get("environment", ())}
    secret = {name for name in names if re.search("PASSWORD|SECRET|TOKEN|KEY|STORE_URL", name)}
    assert len(secret) == 4
    assert all(name.endswith("_FILE") for name in secret)
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


# --- the proxy's settings


@pytest.mark.parametrize("name", PROXIES)
def test_the_proxys_settings_are_settings_and_can_be_used(name, secrets):
    environment = SERVICES[name]["environment"]
    known = {variable for setting in SETTINGS.values() for variable in setting.variables}
    assert {variable for variable in environment if not variable.startswith("OTEL_")} <= known
    paths = {"/run/secrets": str(secrets), "/etc/devstral-proxy/keys": str(secrets / "keys")}
    for inside, outside in paths.items():
        environment = {key: value.replace(inside, outside) for key, value in environment.items()}
    run(sys.executable, "-m", "proxy", "check-config", env=environment | {"PROXY_HOST": "0.0.0.0"}, cwd=str(ROOT))


def test_it_may_take_as_long_to_stop_as_the_proxy_may_take_to_drain():
    settings = {name: SETTINGS[name].default for name in ("drain_delay_s", "drain_timeout_s")}
    for name in PROXIES:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > sum(settings.values())


# --- names that have to agree


def test_what_is_mounted_is_there():
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("./") and not source.startswith("./secrets"):
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("./"):
                assert source in COMPOSE["volumes"]


def test_prometheus_scrapes_what_is_there():
    hosts = set(SERVICES) | {"proxy"}
    jobs = {job["job_name"]: job for job in PROMETHEUS["scrape_configs"]}
    assert set(jobs) == {"devstral-proxy", "vllm", "otel-collector"}
    for job in ("devstral-proxy", "vllm"):
        [found] = jobs[job]["dns_sd_configs"]
        assert set(found["names"]) <= hosts
    assert SERVICES["proxy-demo"]["networks"]["observed"] == {"aliases": ["proxy"]}
    [targets] = jobs["otel-collector"]["static_configs"]
    [reader] = COLLECTOR["service"]["telemetry"]["metrics"]["readers"]
    own = reader["pull"]["exporter"]["prometheus"]["port"]
    spans = COLLECTOR["exporters"]["prometheus"]["endpoint"].rsplit(":", 1)[1]
    assert targets["targets"] == [f"otel-collector:{own}", f"otel-collector:{spans}"]
    assert all("observed" in networks(name) for name in ("proxy", "proxy-demo", "vllm", "otel-collector"))


def test_grafana_finds_prometheus_and_the_dashboard():
    provisioning = DEPLOY / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "devstral-proxy.yml").read_text())["providers"]
    assert source["url"] == "http://prometheus:9090"
    assert any(f":{provider['options']['path']}/" in volume for volume in SERVICES["grafana"]["volumes"])


def test_the_collector_uses_what_it_defines_and_defines_what_it_uses():
    pipelines = COLLECTOR["service"]["pipelines"].values()
    connectors = set(COLLECTOR["connectors"])
    used = {
        kind: {name for line in pipelines for name in line.get(kind, ())}
        for kind in ("receivers", "processors", "exporters")
    }
    assert used["receivers"] == set(COLLECTOR["receivers"]) | connectors
    assert used["processors"] == set(COLLECTOR["processors"])
    assert used["exporters"] == set(COLLECTOR["exporters"]) | connectors
    assert set(COLLECTOR["service"]["extensions"]) == set(COLLECTOR["extensions"])
    assert all(line["processors"][0] == "memory_limiter" for line in pipelines)


@pytest.mark.parametrize("name", PROXIES)
def test_the_proxy_sends_spans_to_where_the_collector_listens(name):
    port = COLLECTOR["receivers"]["otlp"]["protocols"]["http"]["endpoint"].rsplit(":", 1)[1]
    assert SERVICES[name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://otel-collector:{port}"


# --- deploy/README.md


def test_the_readme_lists_what_may_be_set():
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    [line] = re.findall(
        r"^- \*\*Settings\.\*\* (.+)$", (DEPLOY / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert set(re.findall(r"\$\{([A-Z_]+):-", text)) == set(re.findall(r"`([A-Z_]+)`", line)) - {"PROXY_TIERS"}
