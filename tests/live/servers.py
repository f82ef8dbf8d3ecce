"""
A vLLM and a proxy as real processes on 127.0.0.1, started and stopped by their own process ids.

    with running(vllm_server("mistral-v13", port)) as vllm: ...      # the block runs once /health is 200

Run as `python -m tests.live.servers` (make vllm) it starts one vLLM in the foreground, chosen by environment:
VERSION=v3|v7|v11|v13|v15 (v13), TOKENIZER_MODE=mistral|hf (mistral), PORT (8100), REASONING=1 (adds the reasoning
parser), NOTOOLS=1 (leaves out the two tool flags: calls then leak as text).
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
VLLM_HOME = Path(os.environ.get("VLLM_HOME") or CACHE / "devstral-proxy" / "vllm")

VLLM_START_S = 300  # measured: 40 to 100 on two cores
PROXY_START_S = 20
STOP_S = 30
#: Room for the largest recorded agent body (some 25,000 tokens). The key-value cache below holds several.
MAX_MODEL_LEN = 32768
LOG_TAIL_LINES = 40

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None)


@dataclass(frozen=True, kw_only=True)
class Server:
    """How to start a server and where it then answers."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    url: str
    log: Path
    start_s: float
    state: dict[str, float] = field(default_factory=dict)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def vllm_server(
    version: str, port: int, *, tokenizer_mode: str = "mistral", tools: bool = True, reasoning: bool = False
) -> Server:
    """Describe a vLLM that serves the scripted model of `version` (v13, ...) under the name "devstral"."""
    command = [str(VLLM_HOME / "venv/bin/python"), str(VLLM_HOME / "venv/bin/vllm"), "serve"]
    command += [str(VLLM_HOME / "models" / version), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", "devstral", "--tokenizer-mode", tokenizer_mode, "--config-format", "hf"]
    command += ["--load-format", "safetensors", "--dtype", "bfloat16", "--enforce-eager"]
    command += ["--max-model-len", str(MAX_MODEL_LEN), "--max-num-seqs", "8"]
    command += ["--enable-auto-tool-choice", "--tool-call-parser", "mistral"] if tools else []
    command += ["--reasoning-parser", "mistral"] if reasoning else []
    environment = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_REGEX_COMPILATION_TIMEOUT_S": "60",  # 5 is short on two cores that have other work
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "2",
    }
    name = f"vllm-{tokenizer_mode}-{version}"
    return Server(
        name=name,
        command=command,
        environment=environment,
        url=f"http://127.0.0.1:{port}",
        log=VLLM_HOME / "logs" / f"{name}-{port}.log",
        start_s=VLLM_START_S,
    )


def proxy_server(upstream: str, port: int, *, profile: str) -> Server:
    """Describe the proxy as an operator starts it, in front of `upstream`."""
    return Server(
        name=f"proxy-{profile}",
        command=[sys.executable, "-m", "proxy", "serve", "--vllm-base", upstream, "--port", str(port)],
        environment={"PROXY_PROFILE": profile, "DRAIN_DELAY": "0"},
        url=f"http://127.0.0.1:{port}",
        log=VLLM_HOME / "logs" / f"proxy-{port}.log",
        start_s=PROXY_START_S,
    )


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """
    Start the server, wait for its /health, and stop it at the end, its own worker processes included.

    Raises:
        RuntimeError: it ended, or was not healthy within `server.start_s`; the message ends with its last log lines.
    """
    server.log.parent.mkdir(parents=True, exist_ok=True)
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            server.command,
            cwd=ROOT,
            env={**os.environ, **server.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own: an EngineCore that outlives its parent is in it
            preexec_fn=stop_with_parent,
        )
    try:
        wait_until_healthy(server, process)
        yield server
    finally:
        stop(process)


def stop_with_parent() -> None:
    """Have the kernel stop the new process when this one is killed and cannot do it (Linux)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def wait_until_healthy(server: Server, process: subprocess.Popen) -> None:
    started = time.monotonic()
    while time.monotonic() - started < server.start_s:
        if process.poll() is not None:
            raise RuntimeError(f"{server.name} ended with status {process.returncode}\n{log_tail(server)}")
        with contextlib.suppress(OSError, urllib.error.HTTPError):
            urllib.request.urlopen(f"{server.url}/health", timeout=2).close()
            server.state["start_s"] = time.monotonic() - started
            return
        time.sleep(0.25)
    raise RuntimeError(f"{server.name} was not healthy after {server.start_s:.0f} s\n{log_tail(server)}")


def log_tail(server: Server) -> str:
    """Return the last lines that the server wrote, for the one who has to find out why it failed."""
    lines = server.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"--- {server.log}", *lines[-LOG_TAIL_LINES:]])


def stop(process: subprocess.Popen) -> None:
    """Ask the process to stop, then end whatever is left of its group."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_S)


def install(*versions: str) -> None:
    """Set up the environment and the models; does nothing where they are up to date."""
    subprocess.run([str(ROOT / "tests/live/install.sh"), *versions], check=True)


def main() -> None:
    setting = os.environ.get  # make hands on what is set for it; empty is as good as absent
    version, mode = setting("VERSION") or "v13", setting("TOKENIZER_MODE") or "mistral"
    port = int(setting("PORT") or 8100)
    install(version)
    server = vllm_server(
        version, port, tokenizer_mode=mode, tools=not setting("NOTOOLS"), reasoning=bool(setting("REASONING"))
    )
    print(f"starting {server.name}: 1 to 2 minutes; log: {server.log}", flush=True)
    profile = "vllm-hf-template" if mode == "hf" else "vllm-mistral-tokenizer"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, so that no vLLM stays behind
    with contextlib.suppress(KeyboardInterrupt), running(server):
        print(f"ready after {server.state['start_s']:.0f} s: {server.url}/v1, model devstral. Put the proxy before it:")
        print(f"  python -m proxy serve --vllm-base {server.url} --profile {profile}")
        print("Ctrl-C stops it.", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
