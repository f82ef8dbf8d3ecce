"""The programs of a run: built, started on a processor of their own, read, stopped."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from proxy.config import SETTINGS

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parent
BUILD: Final = FOLDER / "build"
BODIES: Final = FOLDER / "bodies"

#: In the number of a process's clock, see clock_getcpuclockid(3): precise, and of the process, not of one thread.
_ALL_THREADS: Final = 2
_START_TIMEOUT_S: Final = 15.0
_PROBE_TIMEOUT_S: Final = 2.0
_STOP_TIMEOUT_S: Final = 5.0
#: How long a program may still work after its last answer: it writes its log line then.
_SETTLE_S: Final = 0.03
#: Arbitrary; load.c gives up after 60 s by itself.
_LOAD_TIMEOUT_S: Final = 90.0
#: The environment may name a proxy of its own.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_us(self) -> float:
        """
        Return the processor time of its process so far, user and system, in microseconds, from its CPU clock.

        That counts threads that have ended too. What /proc says of them is gone with them, and programs with pools of
        threads end some in a quiet moment.

        Raises:
            BenchmarkError: it has ended.
        """
        try:
            return time.clock_gettime_ns(~self.pid << 3 | _ALL_THREADS) / 1000
        except OSError:
            raise BenchmarkError(f"{self.name} has ended:\n{self.last_words()}") from None

    def threads(self) -> int:
        """Return how many threads it has now, whether they do anything or not."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def resident_mb(self) -> float:
        """Return the memory that is in use now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024

    def last_words(self) -> str:
        """Return the end of what it wrote, for an error message."""
        return self._log.read_text(errors="replace")[-1500:]

    def wait_until(self, is_up: Callable[["Program"], bool], timeout_s: float) -> None:
        """
        Ask `is_up` (`accepts`, `answers`) until it says yes.

        Raises:
            BenchmarkError: the program ended, or the time did.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._process.poll() is None:
            if is_up(self):
                return
            time.sleep(0.02)
        raise BenchmarkError(f"{self.name} did not start:\n{self.last_words()}")

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it, by force if it does not end by itself."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def accepts(program: Program) -> bool:
    """Say whether it accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", program.port), timeout=1).close()
    except OSError:
        return False
    return True


def answers(program: Program) -> bool:
    """Say whether a question reaches the upstream through it; many programs listen long before they can do that."""
    body, headers = (BODIES / "short.json").read_bytes(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{program.url}/v1/chat/completions", body, headers)
    try:
        with _OPENER.open(request, timeout=_PROBE_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


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
        raise BenchmarkError("Processor time is read from another process's clock: this needs Linux.")
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise BenchmarkError("Two processors are needed: one for what is measured, one for the mock and the load.")
    return allowed[0], allowed[1]


def stop_all_on_sigterm() -> None:
    """Make SIGTERM leave by SystemExit, so that every program that was started is stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def start_mock(processor: int) -> Program:
    port = free_port()
    return start("mock", [str(BUILD / "mock"), str(port)], port, processor)


def start_relay(name: str, upstream_url: str, processor: int) -> Program:
    port = free_port()
    return start(name, [sys.executable, "-m", "benchmarks.relay", upstream_url, str(port)], port, processor)


def start_proxy(upstream_url: str, processor: int, **settings: object) -> Program:
    """
    Start the proxy ("" is its demo upstream); its log goes to a file.

    `settings` are fields of proxy.config.Config, such as `strict=True`. All others have their defaults, but there is
    one worker, because there is one processor, and it ends without a delay.

    Raises:
        BenchmarkError: it did not start, or there is no such setting.
    """
    port = free_port()
    usual = {"workers": 1, "drain_delay_s": 0}
    given = {**{name: value for name, value in usual.items() if name in SETTINGS}, **settings}
    flags = ["--vllm-base", upstream_url, "--port", str(port)]
    command = [sys.executable, "-m", "proxy", "serve", *flags]
    return start("proxy", command, port, processor, environment=dict(_variable(*each) for each in given.items()))


def _variable(name: str, value: object) -> tuple[str, str]:
    if name not in SETTINGS:
        raise BenchmarkError(f"the proxy has no setting {name}")
    return SETTINGS[name].variables[0], str(value).lower() if isinstance(value, bool) else str(value)


def start_nginx(upstream: Program, processor: int) -> Program:
    """Start Debian's nginx as one process, copying bytes both ways."""
    port = free_port()
    config = BUILD / "nginx.conf"
    config.write_text(_NGINX_CONFIG % {"build": BUILD, "port": port, "upstream": upstream.port})
    command = ["nginx", "-p", str(BUILD), "-c", str(config), "-e", "stderr"]
    return start("nginx", command, port, processor)


def has_nginx() -> bool:
    return shutil.which("nginx") is not None


def run_load(program: Program, options: list[str], body: str, processor: int) -> tuple[dict[str, Any], float]:
    """
    Send one case's requests; return what the load generator reports and the CPU-microseconds that `program` used.

    Raises:
        BenchmarkError: the warm-up failed, or the load generator hung.
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
        try:
            out, _ = process.communicate("go\n", timeout=_LOAD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise BenchmarkError(f"{program.name}: the load generator did not end") from None
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


def start(
    name: str,
    command: list[str],
    port: int,
    processor: int,
    *,
    environment: Mapping[str, str] = MappingProxyType({}),
    is_up: Callable[[Program], bool] = accepts,
    timeout_s: float = _START_TIMEOUT_S,
) -> Program:
    """
    Run `command`, pinned; return it when `is_up` says so. What it writes goes to build/NAME.log.

    Raises:
        BenchmarkError: it cannot be run, ended, or was not up in time.
    """
    BUILD.mkdir(exist_ok=True)
    log = BUILD / f"{name.replace(' ', '-')}.log"
    variables = {**_environment(), **environment}
    try:
        with log.open("wb") as file, pinned_to(processor):
            process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=file, stderr=subprocess.STDOUT)
    except OSError as exc:
        raise BenchmarkError(f"{name} cannot be run: {exc.strerror}: {command[0]}") from None
    program = Program(name, port, process, log)
    try:
        program.wait_until(is_up, timeout_s)
    except BaseException:
        program.stop()
        raise
    return program


def _environment() -> dict[str, str]:
    """Nothing of the caller's environment may change what is measured."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def free_port() -> int:
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
