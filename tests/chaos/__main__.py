"""
Chaos: two replicas and the proxy under load, while replicas and workers are killed, stopped and restarted.

    python -m tests.chaos --minutes 10 --seed 1 [--scripted | --live]

Every request has exactly one outcome (outcome.py); none may be lost, and none may look whole and not be. In the end,
when it is calm, breakers are closed, new requests are all answered, and counters and sockets are what they were.
The result goes to results.json beside this file. Exit code: 0 if nothing is wrong, else 1. Linux only.

Reading order: model, stage, outcome, clients, troubles, run, plans.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.chaos.plans import live, scripted
from tests.chaos.run import run
from tests.live.servers import install

RESULTS: Final = Path(__file__).with_name("results.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write the results; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.strip().partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--live", action="store_true", help="two real vLLM, 6 GB, instead of scripted replicas")
    parser.add_argument("--scripted", action="store_true", help="scripted replicas, which is the default")
    parser.add_argument("--verbose", action="store_true", help="print what was done to whom")
    options = parser.parse_args(arguments)
    if options.live and options.scripted:
        parser.error("--live or --scripted")
    if options.live:
        install("v13")
    plan, replicas = (live if options.live else scripted)(options.minutes * 60, options.seed)
    report = asyncio.run(run(plan, replicas))
    _keep(plan.name, report.as_json())
    print(json.dumps(report.as_json(), indent=1))
    print(*(report.log if options.verbose else ()), sep="\n")
    return 1 if report.problems else 0


def _keep(name: str, result: dict[str, Any]) -> None:
    """Write a result in the place of the one of the same kind."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**results, name: result}, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
