"""
The programs that the proxy is compared with: how each is installed, told to forward to one upstream, and started.

All run as one process on one processor, with one event loop where they have such an option, with their default
settings where nothing else is said, and translate nothing. `make bench-peers` installs what the registries offer;
nginx and HAProxy come with the system.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from benchmarks import programs
from benchmarks.programs import BUILD, FOLDER, ROOT, BenchmarkError, Program, answers, free_port

PORTKEY: Final = FOLDER / "js" / "node_modules" / "@portkey-ai" / "gateway"

ROUND_ROBIN: Final = "vllm-router round-robin"

#: LiteLLM imports for half a minute on a slow machine.
_START_TIMEOUT_S: Final = 90.0
#: Arbitrary: what is shown of an error.
_LINES_SHOWN: Final = 4


class Peer(NamedTuple):
    """
    A program of others. `start` gets the mock and a processor; `version` asks what is installed.

    Both raise BenchmarkError when there is nothing to start or ask. A slow one gets fewer requests.
    """

    name: str
    start: Callable[[Program, int], Program]
    version: Callable[[], str]
    is_slow: bool = False


def start_haproxy(upstream: Program, processor: int) -> Program:
    """Start Debian's HAProxy with one thread."""
    port = free_port()
    BUILD.mkdir(exist_ok=True)
    config = BUILD / "haproxy.cfg"
    config.write_text(_HAPROXY_CONFIG % {"port": port, "upstream": upstream.port})
    return _start("haproxy", [_on_the_path("haproxy", "haproxy"), "-db", "-f", str(config)], port, processor)


def start_nginx(upstream: Program, processor: int) -> Program:
    _on_the_path("nginx", "nginx-light")
    return programs.start_nginx(upstream, processor)


def start_vllm_router(upstream: Program, processor: int, *options: str, name: str = "vllm-router") -> Program:
    """
    Start it with its defaults: the policy is `cache_aware`, which reads the messages of each request.

    Its runtime has one worker thread, because it sees one processor.
    """
    port = free_port()
    command = [_installed("vllm-router"), "--host", "127.0.0.1", "--port", str(port), *_router_options(upstream)]
    return _start(name, [*command, "--log-level", "warning", *options], port, processor)


def start_round_robin(upstream: Program, processor: int) -> Program:
    """Start vllm-router with a policy that takes no notice of what is in a request: the least that it can cost."""
    return start_vllm_router(upstream, processor, "--policy", "round_robin", name=ROUND_ROBIN)


def start_smg(upstream: Program, processor: int) -> Program:
    """
    Start it with its defaults, of which one has to stay: without retries it sends bodies on in chunks.

    The mock cannot read those.
    """
    port = free_port()
    command = [_installed("smg"), "launch", "--host", "127.0.0.1", "--port", str(port), *_router_options(upstream)]
    return _start("smg", [*command, "--log-level", "warn"], port, processor)


def _router_options(upstream: Program) -> list[str]:
    """Both Rust routers come from one: their options have the same names."""
    metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    return ["--worker-urls", upstream.url, *metrics]


def start_litellm(upstream: Program, processor: int) -> Program:
    """Start it with one worker, without a database, its price list read from its own files and not from the network."""
    command, port = _installed("litellm"), free_port()
    config = BUILD / "litellm.yaml"
    config.write_text(_LITELLM_CONFIG % {"upstream": upstream.url})
    environment = {
        "HOME": str(BUILD),
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    options = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    return _start("litellm", [command, *options], port, processor, environment)


def start_portkey(upstream: Program, processor: int) -> Program:
    """Start it with node; js/portkey.cjs adds the headers that name the upstream."""
    server, port = PORTKEY / "build" / "start-server.js", free_port()
    if not server.exists():
        raise BenchmarkError(_not_installed("portkey"))
    node = _on_the_path("node", "nodejs")
    command = [node, "--require", str(FOLDER / "js" / "portkey.cjs"), str(server), f"--port={port}", "--headless"]
    environment = {"NODE_ENV": "production", "UPSTREAM": f"{upstream.url}/v1"}
    return _start("portkey", command, port, processor, environment)


def _start(
    name: str,
    command: list[str],
    port: int,
    processor: int,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Program:
    return programs.start(
        name, command, port, processor, environment=environment, is_up=answers, timeout_s=_START_TIMEOUT_S
    )


# --- what is installed


def _on_the_path(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise BenchmarkError(f"no {program} on the PATH (Debian: apt-get install {package})")
    return found


def _installed(name: str) -> str:
    """Return the command's path in the environment that the Makefile made for it."""
    command = ROOT / f".venv-peer-{name}" / "bin" / name
    if not command.exists():
        raise BenchmarkError(_not_installed(name))
    return str(command)


def _not_installed(name: str) -> str:
    """Return what the installation said, if there was one."""
    log = BUILD / f"install-{name}.log"
    said = log.read_text(errors="replace").splitlines() if log.exists() else []
    errors = [line for line in said if "error" in line.lower()] or said
    return "\n".join(["not installed", *errors[-_LINES_SHOWN:]])


def _version_of_package(name: str) -> str:
    _installed(name)
    folders = (ROOT / f".venv-peer-{name}").glob(f"lib/python*/site-packages/{name.replace('-', '_')}-*.dist-info")
    return next((folder.name.removesuffix(".dist-info").rpartition("-")[2] for folder in folders), "unknown")


def _version_of_portkey() -> str:
    described = PORTKEY / "package.json"
    if not described.exists():
        raise BenchmarkError(_not_installed("portkey"))
    return str(json.loads(described.read_text())["version"])


def _first_line(*command: str) -> str:
    _on_the_path(command[0], command[0])
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]})
    return (done.stdout + done.stderr).partition("\n")[0]


PEERS: Final = (
    Peer("nginx", start_nginx, lambda: _first_line("nginx", "-v").partition("/")[2]),
    Peer("haproxy", start_haproxy, lambda: _first_line("haproxy", "-v").split()[2]),
    Peer("vllm-router", start_vllm_router, lambda: _version_of_package("vllm-router")),
    Peer(ROUND_ROBIN, start_round_robin, lambda: _version_of_package("vllm-router")),
    Peer("smg", start_smg, lambda: _version_of_package("smg")),
    Peer("litellm", start_litellm, lambda: _version_of_package("litellm"), is_slow=True),
    Peer("portkey", start_portkey, _version_of_portkey, is_slow=True),
)

_HAPROXY_CONFIG: Final = """\
global
    nbthread 1
    maxconn 8192
defaults
    mode http
    option http-no-delay
    http-reuse always
    timeout connect 5s
    timeout client 120s
    timeout server 120s
frontend clients
    bind 127.0.0.1:%(port)d backlog 4096
    default_backend mock
backend mock
    server mock 127.0.0.1:%(upstream)d
"""

_LITELLM_CONFIG: Final = """\
model_list:
  - model_name: mock
    litellm_params: {model: openai/mock, api_base: "%(upstream)s/v1", api_key: none}
litellm_settings: {telemetry: false}
general_settings: {disable_spend_logs: true}
"""
