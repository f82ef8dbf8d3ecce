"""
How long a scrape of /metrics takes, with 1 and 4 workers in front of 1 and 100 replicas.

    python -m benchmarks.scrape [--scrapes N]

Every replica is the mock, under a name of its own. Before the first scrape each worker has answered requests, whole and
streamed, so that histograms are not empty; while scrapes are timed there is no other load. A scrape is timed from the
first byte sent to the last one read, on one connection that is kept, as Prometheus keeps it. It is made by the worker
that has the connection, in a thread of its own: its other requests go on meanwhile. `cpu_ms` is what all processes of
the program used for one scrape.
"""

import argparse
import http.client
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, Final

from benchmarks import loads, outcome, processes, programs
from benchmarks.loads import DIRECT
from benchmarks.programs import BenchmarkError, Program

WORKERS: Final = (1, 4)
REPLICAS: Final = (1, 100)
#: What a scrape may take of a processor: on a machine that is shared the times show what else runs there.
LIMIT_MS: Final = 20.0
#: The first loads what writes the text, and the next fill its caches.
_WARM_UP: Final = 5
_CONNECTIONS: Final = 16
_REQUESTS_EACH: Final = 40


def measure(scrapes: int) -> list[dict[str, Any]]:
    """
    Return a row for each number of workers and replicas.

    Raises:
        BenchmarkError: a program did not start, or did not answer.
    """
    with loads.stand([DIRECT]) as servers:
        return [_row(servers[DIRECT], workers, replicas, scrapes) for replicas in REPLICAS for workers in WORKERS]


def _row(mock: Program, workers: int, replicas: int, scrapes: int) -> dict[str, Any]:
    backends = [{"url": mock.url, "name": f"replica-{number}"} for number in range(replicas)]
    settings = {"workers": workers, "backends": json.dumps(backends), "balance": "round_robin"}
    program = programs.start_proxy("", programs.processors()[0], **settings)
    try:
        with ThreadPoolExecutor(_CONNECTIONS) as threads:
            list(threads.map(_ask, [program] * _CONNECTIONS))
        pids = processes.tree(program.pid)
        connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=10)
        for _ in range(_WARM_UP):
            text, _ = _scraped(connection)
        before_us = sum(map(processes.cpu_us, pids))
        times = sorted(_scraped(connection)[1] for _ in range(scrapes))
        cpu_us = sum(map(processes.cpu_us, pids)) - before_us
        connection.close()
    finally:
        program.stop()
    return {
        "workers": workers,
        "replicas": replicas,
        "samples": sum(not line.startswith(b"#") for line in text.splitlines()),
        "kilobytes": len(text) / 1000,
        "p50_ms": median(times),
        "p99_ms": times[max(0, int(0.99 * len(times)) - 1)],
        "slowest_ms": times[-1],
        "cpu_ms": cpu_us / scrapes / 1000,
    }


def _ask(program: Program) -> None:
    """Ask on a connection of its own, so that every worker gets some."""
    body = json.loads((programs.BODIES / "short.json").read_bytes())
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=10)
    for number in range(_REQUESTS_EACH):
        asked = json.dumps({**body, "stream": number % 2 == 1})
        connection.request("POST", "/v1/chat/completions", asked, {"Content-Type": "application/json"})
        _answer_of(connection)
    connection.close()


def _scraped(connection: http.client.HTTPConnection) -> tuple[bytes, float]:
    started = time.perf_counter()
    connection.request("GET", "/metrics")
    text = _answer_of(connection)
    return text, (time.perf_counter() - started) * 1000


def _answer_of(connection: http.client.HTTPConnection) -> bytes:
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise BenchmarkError(f"status {answer.status}: {text[:200]!r}")
    return text


def verdict(rows: Sequence[dict[str, Any]]) -> int:
    """Return 1 if a row is over the limit."""
    return int(any(row["cpu_ms"] >= LIMIT_MS for row in rows))


def main() -> int:
    """Measure, print, write results/scrape.json; return 1 when it could not be measured or took too long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scrape")
    parser.add_argument("--scrapes", type=int, default=300)
    arguments = parser.parse_args()
    programs.stop_all_on_sigterm()
    try:
        rows = measure(arguments.scrapes)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    outcome.keep("scrape", rows, limit_ms=LIMIT_MS)
    print(outcome.table(rows))
    return verdict(rows)


if __name__ == "__main__":
    sys.exit(main())
