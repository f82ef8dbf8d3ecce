"""The programs of a run: built, started on a processor of their own, read, stopped."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parent
BUILD: Final = FOLDER / "build"
BODIES: Final = FOLDER / "bodies"

_START_TIMEOUT_S: Final = 15.0
_STOP_TIMEOUT_S: Final = 5.0
#: How long a program may still work after its last answer: it writes its log line then.
_SETTLE_S: Final = 0.03
#: Arbitrary; load.c gives up after 60 s by itself.
_LOAD_TIMEOUT_S: Final = 90.0


class BenchmarkError(Exception):
    """The run cannot go on; the text says why, for people."""


class Program:
    """A server that is measured: `name`, `port`, its CPU clock and memory. `stop()` it."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.port = port
        self._process = process
        self._log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_us(self) -> float:
        """Return the processor time used so far, user and system, of all threads, in microseconds."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(path.read_text().split()[0]) for path in tasks) / 1000

    def resident_mb(self) -> float:
        """Return the memory that is in use now."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

    def last_words(self) -> str:
        """Return the end of what it wrote, for an error message."""
        return self._log.read_text(errors="replace")[-1500:]

    def wait_until_up(self) -> None:
        """
        Raises:
            BenchmarkError: it does not accept connections.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise BenchmarkError(f"{self.name} did not start:\n{self.last_words()}")

    def stop(self) -> None:
        """End it, by force if it does not end by itself."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def compile_programs() -> None:
    """
    Build mock and load into benchmarks/build/, unless they are newer than their sources.

    Raises:
        BenchmarkError: no C compiler, or it fails.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchmarkError("The mock upstream and the load generator are C programs: no `cc` on the PATH.")
    BUILD.mkdir(exist_ok=True)
    sources = max(path.stat().st_mtime for path in (FOLDER / "src").iterdir())
    for name in ("mock", "load"):
        target = BUILD / name
        if target.exists() and target.stat().st_mtime > sources:
            continue
        command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(target), str(FOLDER / "src" / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(f"{name}.c does not compile:\n{done.stderr}")


def processors() -> tuple[int, int]:
    """
    Return the processor for what is measured, and the one for the mock and the load.

    Raises:
        BenchmarkError: there is only one, or this is not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise BenchmarkError("Processor time is read from /proc/PID/task/*/schedstat: this needs Linux.")
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise BenchmarkError("Two processors are needed: one for what is measured, one for the mock and the load.")
    return allowed[0], allowed[1]


def stop_all_on_sigterm() -> None:
    """Make SIGTERM leave by SystemExit, so that every program that was started is stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def start_mock(processor: int) -> Program:
    port = _free_port()
    return _start("mock", [str(BUILD / "mock"), str(port)], port, processor)


def start_relay(name: str, upstream_url: str, processor: int) -> Program:
    port = _free_port()
    return _start(name, [sys.executable, "-m", "benchmarks.relay", upstream_url, str(port)], port, processor)


def start_proxy(upstream_url: str, processor: int) -> Program:
    """Start the proxy with its default settings ("" is its demo upstream); its log goes to a file."""
    port = _free_port()
    flags = ["--vllm-base", upstream_url, "--port", str(port)]
    return _start("proxy", [sys.executable, "-m", "proxy", "serve", *flags], port, processor)


def start_nginx(upstream: Program, processor: int) -> Program:
    """Start Debian's nginx as one process, copying bytes both ways."""
    port = _free_port()
    config = BUILD / "nginx.conf"
    config.write_text(_NGINX_CONFIG % {"build": BUILD, "port": port, "upstream": upstream.port})
    command = ["nginx", "-p", str(BUILD), "-c", str(config), "-e", "stderr"]
    return _start("nginx", command, port, processor)


def has_nginx() -> bool:
    return shutil.which("nginx") is not None


def run_load(program: Program, options: list[str], body: str, processor: int) -> tuple[dict[str, Any], float]:
    """
    Send one case's requests; return what the load generator reports and the CPU-microseconds that `program` used.

    Raises:
        BenchmarkError: the warm-up failed.
    """
    files = ["-b", str(BODIES / f"{body}.json"), "-w", str(BODIES / "short.json")]
    command = [str(BUILD / "load"), "-p", str(program.port), *files, *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with pinned_to(processor):
        process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
    with process:
        if process.stdout.readline() != "ready\n":
            raise BenchmarkError(f"{program.name}: {process.stderr.read()}{program.last_words()}")
        time.sleep(_SETTLE_S)
        before = program.cpu_us()
        out, _ = process.communicate("go\n", timeout=_LOAD_TIMEOUT_S)
        time.sleep(_SETTLE_S)
        used = program.cpu_us() - before
    return json.loads(out), used


def run_python(module: str, arguments: list[str], processor: int) -> Any:
    """Run one of this folder's modules by itself; return the JSON it prints."""
    with pinned_to(processor):
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise BenchmarkError(f"{module} failed:\n{done.stderr}")
    return json.loads(done.stdout)


@contextmanager
def pinned_to(processor: int) -> Iterator[None]:
    """Let processes that are started inside inherit this processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _start(name: str, command: list[str], port: int, processor: int) -> Program:
    BUILD.mkdir(exist_ok=True)
    log = BUILD / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as file, pinned_to(processor):
        process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=file, stderr=subprocess.STDOUT)
    program = Program(name, port, process, log)
    try:
        program.wait_until_up()
    except BenchmarkError:
        program.stop()
        raise
    return program


def _environment() -> dict[str, str]:
    """Nothing of the caller's environment may change what is measured."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_NGINX_CONFIG: Final = """\
daemon off;
master_process off;
worker_processes 1;
pid %(build)s/nginx.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path %(build)s/nginx-body;
    proxy_temp_path %(build)s/nginx-proxy;
    fastcgi_temp_path %(build)s/nginx-unused;
    uwsgi_temp_path %(build)s/nginx-unused;
    scgi_temp_path %(build)s/nginx-unused;
    client_max_body_size 32m;
    client_body_buffer_size 2m;
    keepalive_requests 1000000;
    upstream mock { server 127.0.0.1:%(upstream)d; keepalive 256; keepalive_requests 1000000; }
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        location / {
            proxy_pass http://mock;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }
    }
}
"""
