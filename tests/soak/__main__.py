"""
Soak: 100,000 requests, one in ten left by its client, beside 500 streams that stay open; nothing may grow.

    python -m tests.soak [--requests 100000] [--streams 500] [--seed 1]

Every answer is checked. Memory after the first 20,000 requests may grow by 1 MB in 10,000 at the most; open files,
tasks and counters must come back to what they were. The result goes to results.json beside this file. Exit code: 0 if
nothing is wrong, else 1. It ends after 15 minutes, whatever happens. Linux only.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from tests.soak.run import Plan, Report, run

RESULTS: Final = Path(__file__).with_name("results.json")
#: Beyond the plan's own limit: for the start, the streams' ends, and what is looked at then.
_MARGIN_S: Final = 240.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write the results; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.strip().partition("\n")[0])
    for name in ("requests", "streams", "clients", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan, name))
    plan = Plan(**vars(parser.parse_args(arguments)))
    report = uvloop.run(_bounded(plan))
    RESULTS.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report.as_json(), indent=1))
    return 1 if report.problems else 0


async def _bounded(plan: Plan) -> Report:
    async with asyncio.timeout(plan.limit_s + _MARGIN_S):
        return await run(plan)


if __name__ == "__main__":
    sys.exit(main())
