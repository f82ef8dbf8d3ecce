"""
The container image, built and run for real by podman and buildah: `make test-image`, as root on Debian.

Each container runs as the image's own user, with a read-only root, without capabilities, and without a network but
where a test says so.
"""

import asyncio
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

import proxy
from tests.deploy.engine import ROOT, Engine, run
from tests.deploy.locks import build_only, locked
from tests.fakes import ScriptedUpstream, event, head, text_chunk

pytestmark = pytest.mark.image

IMAGE = "localhost/devstral-proxy:test"
#: What the image may add to its base.
LARGEST_BYTES = 120_000_000
#: As an orchestrator confines it; nothing but what the kernel needs is writable, and /dev/shm.
CONFINED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges")
CHAT = """
import json, urllib.request
body = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]}
request = urllib.request.Request("http://127.0.0.1:9000/v1/chat/completions", json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""
UNTIL_HEALTHY = """
import subprocess, sys, time
until = time.monotonic() + 60
while subprocess.run(["devstral-proxy", "healthcheck", *sys.argv[1:]]).returncode:
    assert time.monotonic() < until
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine()
    engine.prepare()
    yield engine
    engine.podman("image", "prune", "--force")  # what the steps of builds left


@pytest.fixture(scope="module")
def image(engine):
    engine.build(IMAGE, ROOT, "--build-arg", f"VERSION={proxy.__version__}", "--build-arg", "REVISION=abc")
    return IMAGE


class Container:
    """A running container of the image."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name

    def exec(self, *command: str) -> str:
        return self.engine.podman("exec", self.name, *command)

    def healthy(self, *arguments: str) -> None:
        self.exec("python", "-c", UNTIL_HEALTHY, *arguments)

    @property
    def log(self) -> list[dict[str, Any]]:
        told = self.engine.podman("logs", self.name)
        return [json.loads(line) for line in told.splitlines() if line.startswith("{")]


@pytest.fixture
def start(engine, image, request) -> Iterator[Any]:
    """`start("-e", "A=b", arguments=["serve"])`: a container, which is removed after the test."""
    names: list[str] = []

    def started(*options: str, arguments: tuple[str, ...] = ()) -> Container:
        names.append(f"devstral-proxy-{request.node.name[:60]}-{len(names)}".replace("[", "-").rstrip("]"))
        engine.podman("run", "--detach", "--name", names[-1], *CONFINED, *options, image, *arguments)
        return Container(engine, names[-1])

    yield started
    for name in names:
        engine.podman("rm", "--force", "--time", "0", name)


# --- what is in it


def test_two_builds_have_the_same_layers_and_configuration(engine, image):
    engine.build(f"{image}-again", ROOT, "--build-arg", f"VERSION={proxy.__version__}", "--build-arg", "REVISION=abc")

    # the ids differ: buildah's history names the images of its intermediate steps
    first, second = engine.inspect(image), engine.inspect(f"{image}-again")
    assert second["RootFS"] == first["RootFS"]
    assert second["Config"] == first["Config"]
    assert second["Created"] == first["Created"]


def test_a_change_of_the_proxy_changes_its_own_layer_only(engine, image, tmp_path):
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "proxy", tmp_path / "proxy", ignore=ignored)
    for name in ("LICENSE", "README.md", "pyproject.toml", ".dockerignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "deploy").mkdir()
    for name in ("Dockerfile", "install.sh", "requirements.txt", "requirements-docs.txt"):
        shutil.copy(ROOT / "deploy" / name, tmp_path / "deploy" / name)
    changed = tmp_path / "proxy" / "values.py"
    changed.write_text(changed.read_text() + "\n# changed\n")

    engine.build(f"{image}-changed", tmp_path)

    before = engine.inspect(image)["RootFS"]["Layers"]
    after = engine.inspect(f"{image}-changed")["RootFS"]["Layers"]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True] * (len(before) - 1) + [False]


def test_it_adds_two_layers_of_less_than_120_mb_to_its_base(engine, image, capsys):
    told, base = engine.inspect(image), engine.inspect(engine.base)

    added = told["Size"] - base["Size"]
    with capsys.disabled():
        print(f"\nthe image adds {added / 1e6:.1f} MB to its base")
    assert 0 < added < LARGEST_BYTES
    assert len(told["RootFS"]["Layers"]) == len(base["RootFS"]["Layers"]) + 2


def test_it_says_how_it_is_run_and_what_it_is(engine, image):
    told = engine.inspect(image)

    config = told["Config"]
    assert config["User"] == "65532:65532"
    assert (config["Entrypoint"], config["Cmd"]) == (["devstral-proxy"], ["serve"])
    assert (config["StopSignal"], list(config["ExposedPorts"])) == ("SIGTERM", ["9000/tcp"])
    assert told["Healthcheck"]["Test"] == ["CMD", "devstral-proxy", "healthcheck"]
    labels = {key.rsplit(".", 1)[1]: value for key, value in config["Labels"].items() if "opencontainers" in key}
    assert (labels["version"], labels["revision"], labels["licenses"]) == (proxy.__version__, "abc", "MIT")
    assert (labels["name"], labels["created"]) == (engine.base, "1980-01-01T00:00:00Z")


def test_its_packages_are_the_locked_ones_and_the_proxy(engine, image):
    code = (
        "import importlib.metadata as m, sys; print('%d.%d' % sys.version_info[:2]);"
        "[print(d.name.lower().replace('_', '-').replace('.', '-'), d.version)"
        " for d in m.distributions(path=[p for p in sys.path if '/opt/' in p])]"
    )
    version, *lines = engine.podman(
        "run", "--rm", "--network=none", "--entrypoint", "python", image, "-c", code
    ).splitlines()

    expected = locked("requirements.txt", python=version) | locked("requirements-docs.txt", python=version)
    expected = {name: each for name, each in expected.items() if name not in build_only()}
    assert dict(line.split() for line in lines) == expected | {"devstral-proxy": proxy.__version__}


def test_the_bill_of_materials_lists_what_is_locked(tmp_path):
    run("make", "--no-print-directory", "sbom", f"SBOM={tmp_path / 'sbom.json'}", cwd=str(ROOT))

    told = json.loads((tmp_path / "sbom.json").read_text())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    expected = locked("requirements.txt", python=version) | locked("requirements-docs.txt", python=version)
    expected = {name: each for name, each in expected.items() if name not in build_only()}
    assert told["bomFormat"] == "CycloneDX"
    root = told["metadata"]["component"]
    assert (root["name"], root["version"]) == ("devstral-proxy", proxy.__version__)
    assert {part["name"].lower().replace("_", "-"): part["version"] for part in told["components"]} == expected


@pytest.mark.parametrize("processor", ["x86_64", "aarch64"])
def test_every_locked_package_has_a_wheel_for(processor, engine, tmp_path):
    python = engine.base.rsplit(":", 1)[1].split("-")[0]
    for lock, more in (("requirements.txt", ()), ("requirements-docs.txt", ("--no-deps",))):
        run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--require-hashes", *more),
            *("--python-version", python, "--implementation", "cp", "--abi", f"cp{python.replace('.', '')}"),
            *("--abi", "abi3", "--abi", "none", "--dest", str(tmp_path), "-r", str(ROOT / "deploy" / lock)),
            *(f"--platform=manylinux_2_{minor}_{processor}" for minor in (17, 24, 26, 27, 28, 31, 34)),
            f"--platform=manylinux2014_{processor}",
        )

    built = [path.name for path in tmp_path.iterdir() if not path.name.endswith("-any.whl")]
    assert len(built) > 10
    assert all(processor in name for name in built)


# --- what it does


def test_it_serves_as_nobody_on_a_read_only_root_without_a_shell(start):
    container = start(
        *("--network=none", "--volume=/dev/null:/usr/bin/dash:ro", "--volume=/dev/null:/usr/bin/bash:ro"),
        *("--env", "PROXY_AUTH=open"),
    )
    container.healthy()
    container.healthy("--ready")

    answer = json.loads(container.exec("python", "-c", CHAT))
    assert answer["choices"][0]["message"]["content"]
    told = container.exec("python", "-c", "print(open('/proc/1/status').read(), open('/proc/1/cmdline').read())")
    assert "\nUid:\t65532\t65532\t65532\t65532\n" in told
    assert "\nCapEff:\t0000000000000000\n" in told
    assert "\nNoNewPrivs:\t1\n" in told
    assert "devstral-proxy\0serve" in told  # it is process 1 itself
    with pytest.raises(AssertionError, match="Read-only file system"):
        container.exec("python", "-c", "open('/tmp/new', 'w')")


def test_it_does_not_serve_everybody_by_itself(engine, image):
    with pytest.raises(AssertionError, match="ended with 78"):
        engine.podman("run", "--rm", *CONFINED, "--network=none", image)


def test_its_health_check_follows_the_proxy(start, engine):
    container = start("--network=none", "--env", "PROXY_AUTH=open")
    container.healthy()
    engine.podman("healthcheck", "run", container.name)

    with pytest.raises(AssertionError, match="ended with 1"):
        container.exec("devstral-proxy", "healthcheck", "http://127.0.0.1:1")


def test_it_starts_as_many_workers_as_its_share_of_processors(start):
    container = start("--network=none", "--cpus=1", "--memory=512m", "--pids-limit=64", "--env", "PROXY_AUTH=open")
    container.healthy()

    [line] = [line for line in container.log if line["event"] == "startup"]
    assert line["workers"] == 1


async def test_a_stopped_container_finishes_its_stream_and_ends_with_0(start, engine, unused_port):
    """`podman stop` sends the image's STOPSIGNAL to process 1, and nothing else within the time that it is given."""
    rest = asyncio.Event()
    script = [head(content_type="text/event-stream"), event(text_chunk("one", role="assistant")), rest]
    script += [event(text_chunk("two", finish="stop")), event(b"[DONE]")]
    async with ScriptedUpstream(script) as upstream, aiohttp.ClientSession() as session:
        environment = {
            "VLLM_BASE": upstream.url,
            "PROXY_HOST": "127.0.0.1",
            "PROXY_PORT": str(unused_port),
            "PROXY_PROFILE": "vllm-mistral-tokenizer",
            "DRAIN_DELAY": "1",
            "WORKERS": "2",
        }
        options = [f"--env={name}={value}" for name, value in environment.items()]
        container = await asyncio.to_thread(start, "--network=host", *options)
        await asyncio.to_thread(container.healthy, "--ready")

        url = f"http://127.0.0.1:{unused_port}"
        body = {"model": "devstral", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            first = await answer.content.readuntil(b"\n\n")
            stop = asyncio.create_task(asyncio.to_thread(engine.podman, "stop", "--time", "60", container.name))
            await _refused(unused_port)
            rest.set()
            text = first + await answer.content.read()
        await stop

    assert b"one" in text
    assert b"two" in text
    assert text.endswith(b"data: [DONE]\n\n")
    assert engine.podman("wait", container.name).strip() == "0"


async def _refused(port: int) -> None:
    """Wait until nothing is accepted any more: the drain goes on."""
    async with asyncio.timeout(60):
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)):
                    return
            await asyncio.sleep(0.05)


CLIENT = """
import json, sys, urllib.error, urllib.request
path, key = sys.argv[1:]
body = json.dumps({"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]}).encode()
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}
request = urllib.request.Request("http://127.0.0.1:9000" + path, body if "chat" in path else None, headers)
try:
    print(urllib.request.urlopen(request, timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.status)
"""


def test_it_runs_as_compose_runs_it(start, engine, tmp_path):
    """With the settings, secrets and bounds of deploy/compose.yaml; of the other services there is none."""
    folder = tmp_path / "deploy"
    folder.mkdir()
    for name in ("compose.yaml", "secrets.sh"):
        shutil.copy(ROOT / "deploy" / name, folder)
    tmp_path.chmod(0o755)
    run(str(folder / "secrets.sh"), env=engine.environ | {"PROXY": str(Path(sys.executable).parent / "devstral-proxy")})
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["proxy-demo"]
    limits = service["deploy"]["resources"]["limits"]
    options = [f"--env={name}={value}" for name, value in service["environment"].items()]
    options += [f"--volume={folder}/secrets/{name}:/run/secrets/{name}:ro" for name in service["secrets"]]
    options += [
        f"--volume={folder}/{each['source']}:{each['target']}:ro" for each in service["volumes"] if each["read_only"]
    ]
    options += [f"--memory={limits['memory']}", f"--pids-limit={limits['pids']}", "--cpus=2"]

    container = start("--network=none", "--add-host=valkey:127.0.0.1", *options)
    container.healthy("--ready")

    keys = {name: (folder / "secrets" / f"{name}_key").read_text() for name in ("client", "metrics")}
    asked = {
        (path, who): container.exec("python", "-c", CLIENT, path, key).strip()
        for path in ("/v1/chat/completions", "/metrics")
        for who, key in (*keys.items(), ("stranger", "dsp_no"))
    }
    assert asked == {
        ("/v1/chat/completions", "client"): "200",
        ("/v1/chat/completions", "metrics"): "200",
        ("/v1/chat/completions", "stranger"): "401",
        ("/metrics", "client"): "403",
        ("/metrics", "metrics"): "200",
        ("/metrics", "stranger"): "401",
    }
    assert not [
        line for line in container.log if line["level"] in ("warning", "error") and line["event"] != "store_down"
    ]
