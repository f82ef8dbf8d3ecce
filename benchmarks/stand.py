"""
Run a command against a proxy that lives as long as the command; `{url}` in it becomes the proxy's address.

    python -m benchmarks.stand locust --host {url} ...         the upstream is VLLM_BASE, or the demo
    python -m benchmarks.stand --mock wrk ... {url}/v1/...     the upstream is the mock; bodies are written
"""

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack

from benchmarks import programs
from benchmarks.bodies import write_bodies
from benchmarks.programs import BenchmarkError


def main() -> int:
    """Return the command's exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stand")
    parser.add_argument("--mock", action="store_true", help="put the proxy in front of the mock")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    programs.stop_all_on_sigterm()
    try:
        with ExitStack() as running:
            url = _start(running, with_mock=arguments.mock)
            command = [word.replace("{url}", url) for word in arguments.command]
            return subprocess.run(command, check=False).returncode
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1


def _start(running: ExitStack, *, with_mock: bool) -> str:
    """Start the proxy and, if wanted, the mock; return the proxy's address."""
    measured_on, load_on = programs.processors()
    upstream = os.environ.get("VLLM_BASE", "")
    if with_mock:
        programs.compile_programs()
        write_bodies(programs.BODIES)
        mock = programs.start_mock(load_on)
        running.callback(mock.stop)
        upstream = mock.url
    proxy = programs.start_proxy(upstream, measured_on)
    running.callback(proxy.stop)
    return proxy.url


if __name__ == "__main__":
    sys.exit(main())
