"""
What traces cost: the processor time of a short request without a receiver of spans, with one that gets none, and with
one that gets those of every tenth or of every request.

    python -m benchmarks.tracing [--rounds N] [--requests N] [--per-second N]

In every round each program gets the same requests at the same rate, one after the other in random order, and what it
used is compared within the round. The rate is one at which nothing is dropped: dropping is cheap. The time includes
that of the thread that encodes and sends spans; the receiver is the mock, which answers anything with 200.
"""

import argparse
import random
import re
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, Final

from benchmarks import loads, outcome, programs
from benchmarks.bodies import write_bodies
from benchmarks.figures import paired_ratio
from benchmarks.loads import Work
from benchmarks.programs import BenchmarkError, Program

CONNECTIONS: Final = 16
#: The requests by which a load generator warms up are traced too.
OFF: Final = "no receiver"
#: What is in the environment besides the receiver.
SAMPLERS: Final[Mapping[str, Mapping[str, str]]] = {
    OFF: {},
    "none sampled": {"OTEL_TRACES_SAMPLER": "always_off"},
    "one in ten": {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
    "all": {"OTEL_TRACES_SAMPLER": "always_on"},
}
#: Milliseconds, so that what waits at the end of a round belongs to the round.
_DELAY_MS: Final = 500
_SETTLE_S: Final = 1.2


def start(name: str, mock: Program, processor: int) -> Program:
    """
    Start a proxy whose spans go to the mock.

    Raises:
        BenchmarkError: it did not start.
    """
    port = programs.free_port()
    command = [sys.executable, "-m", "proxy", "serve", "--vllm-base", mock.url, "--port", str(port)]
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": mock.url, "OTEL_BSP_SCHEDULE_DELAY": str(_DELAY_MS)}
    environment = {"WORKERS": "1", "DRAIN_DELAY": "0", **SAMPLERS[name], **(traced if name != OFF else {})}
    return programs.start(f"proxy, {name}", command, port, processor, environment=environment)


def measure(work: Work, rounds: int) -> list[dict[str, Any]]:
    """
    Return a row for each sampler.

    Raises:
        BenchmarkError: a program did not start, lost an answer, or dropped a span.
    """
    programs.compile_programs()
    write_bodies(programs.BODIES)
    measured_on, load_on = programs.processors()
    used: dict[str, list[float]] = {name: [] for name in SAMPLERS}
    with ExitStack() as running:
        mock = programs.start_mock(load_on)
        running.callback(mock.stop)
        proxies = {}
        for name in SAMPLERS:
            proxies[name] = start(name, mock, measured_on)
            running.callback(proxies[name].stop)
        for _ in range(rounds):
            for name in random.sample(list(SAMPLERS), len(SAMPLERS)):
                used[name].append(_sample(proxies[name], work, load_on) / work.requests)
        spans = {name: spans_of(program) for name, program in proxies.items()}
        memory = {name: program.resident_mb() for name, program in proxies.items()}
    if any(counts["failed"] or counts["dropped"] for counts in spans.values()):
        raise BenchmarkError(f"spans were lost: {spans}")
    return [
        {
            "spans of": name,
            "cpu_us_per_request": median(figures),
            "above_without_us": median(a - b for a, b in zip(figures, used[OFF], strict=True)),
            "ratio": str(paired_ratio(figures, used[OFF])),
            "spans_exported": int(spans[name]["exported"]),
            "memory_mb": memory[name],
        }
        for name, figures in used.items()
    ]


def _sample(program: Program, work: Work, load_on: int) -> float:
    """Return the CPU-microseconds of one load, and of the spans that it leaves behind."""
    with loads.Load(program, work, load_on) as load:
        time.sleep(_SETTLE_S)
        before = program.cpu_us()
        load.go()
        report = load.report()
        time.sleep(_SETTLE_S)
        used = program.cpu_us() - before
    if loads.failed(report):
        raise BenchmarkError(f"{program.name} lost answers")
    return used


def spans_of(program: Program) -> dict[str, float]:
    """Return how many spans the proxy says it has sent and lost."""
    with urllib.request.urlopen(f"{program.url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {name: float(count) for name, count in re.findall(r'spans_total\{result="(\w+)"\} (\S+)', text)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write results/tracing.json; return 1 when it could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--per-second", type=float, default=300)
    options = parser.parse_args(arguments)
    programs.stop_all_on_sigterm()
    try:
        rows = measure(Work("short", CONNECTIONS, options.requests, per_second=options.per_second), options.rounds)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    outcome.keep("tracing", rows, rounds=options.rounds, requests=options.requests, per_second=options.per_second)
    print(outcome.table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
