"""
Streams as a model server sends them: an event every 20 ms, 100 of them, on many connections at once.

    python -m benchmarks.paced [--programs NAME...] [--streams N...] [--rounds N]

The streams start one after another, so that their events are spread over the 20 ms: in step, all events of an
interval would come in one burst, which is both cheaper for each event and slower. Each connection has two streams in
turn. The cost is that of the whole exchange, opening the stream included, spread over its stamped events.

`offered` is what arrives when nothing is late: a server that falls behind stretches its streams and reaches less. An
answer in which an event is missing, comes twice or in the wrong order is counted as failed.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from benchmarks import loads, outcome, programs
from benchmarks.loads import Work

BODY: Final = "text-paced-100"
PIECES: Final = 100
INTERVAL_US: Final = 20_000
#: Before the first and after the last stamped event: the role, the finish reason and [DONE].
OTHER_EVENTS: Final = 3
#: In which the streams start.
START_S: Final = 1.0


def work_of(streams: int, rounds_each: int = 2) -> Work:
    """Return that many streams at once, each connection having `rounds_each` of them in turn."""
    gap = loads.apart_us(streams, INTERVAL_US, START_S)
    return Work(BODY, streams, streams * rounds_each, pieces=PIECES, gap_us=gap)


def seconds_of(work: Work) -> float:
    """Return how long the work takes when nothing is late."""
    stream_s = (PIECES + OTHER_EVENTS) * INTERVAL_US / 1e6
    return work.gap_us * (work.connections - 1) / 1e6 + stream_s * work.requests / work.connections


def sample(name: str, result: loads.Result, work: Work) -> dict[str, Any]:
    """Return one row of figures of one program in one round."""
    report = result.report
    return {
        "streams": work.connections,
        "program": name,
        "cpu_us_per_event": result.cpu_us / max(1, report["pieces"]),
        "processors_used": result.cpu_us / 1e6 / report["seconds"],
        "events_per_second": report["pieces"] / report["seconds"],
        "offered": work.requests * PIECES / seconds_of(work),
        "transit_p50_us": report["transit_us"]["p50"],
        "transit_p99_us": report["transit_us"]["p99"],
        "gap_p99_us": report["gap_us"]["p99"],
        "failed": loads.failed(report),
    }


def merged(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians over rounds; failures are added up."""
    first = samples[0]
    row = {key: median(each[key] for each in samples) if isinstance(first[key], float) else first[key] for key in first}
    return {**row, "failed": sum(each["failed"] for each in samples)}


def measure(names: Sequence[str], streams: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """
    Return a row for each number of streams and each program; programs take turns in random order.

    Raises:
        BenchmarkError: a program did not start or did not answer the first requests.
    """
    order = random.Random(0)
    found: dict[tuple[int, str], list[dict[str, Any]]] = {(count, name): [] for count in streams for name in names}
    _, load_on = programs.processors()
    with loads.stand(names) as servers:
        for _ in range(rounds):
            for count, name in order.sample(list(found), len(found)):
                work = work_of(count)
                found[count, name].append(sample(name, loads.run(servers[name], work, load_on), work))
    return [merged(samples) for samples in found.values()]


def main() -> int:
    """Measure, print, write results/paced.json; return 1 when any answer failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paced")
    parser.add_argument("--programs", nargs="+", default=loads.usual(), metavar="NAME")
    parser.add_argument("--streams", nargs="+", type=int, default=[50, 200, 500], metavar="N")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    programs.stop_all_on_sigterm()
    rows = measure(arguments.programs, arguments.streams, arguments.rounds)
    outcome.keep("paced", rows, rounds=arguments.rounds)
    print(outcome.table(rows))
    return 1 if any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
