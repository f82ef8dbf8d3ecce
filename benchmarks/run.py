"""
Measure the proxy beside other programs, and say what was found.

    python -m benchmarks.run                    beside the relay and nginx; writes results/ and the README's section
    python -m benchmarks.run --peers            beside all programs of peers.py; the same
    python -m benchmarks.run --quick            under a minute; prints only
    python -m benchmarks.run --quick --guard    the same, and fails when a limit of limits.json is exceeded
"""

import argparse
import sys
from typing import Any

from benchmarks import guard, programs, readme, report, tables
from benchmarks.bodies import write_bodies
from benchmarks.programs import BenchmarkError
from benchmarks.rounds import BESIDE_PEERS, FULL, QUICK, ROUNDS_PER_START, Plan, measure


def main() -> int:
    """Run; return the exit code: 1 when a limit is exceeded or the run could not be made."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.set_limits and (arguments.quick or arguments.peers):
        parser.error("limits come from the full run")
    if arguments.guard and arguments.peers:
        parser.error("the guard's limits are for the other runs")
    programs.stop_all_on_sigterm()
    plan = BESIDE_PEERS if arguments.peers else QUICK if arguments.quick else FULL
    plan = plan._replace(rounds=arguments.rounds or plan.rounds)
    try:
        found = _run(plan, arguments.note)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    print(tables.whole_run(found))
    if not arguments.quick:
        report.save(found, report.BESIDE_PEERS if arguments.peers else report.LATEST)
        readme.write()
        print(f"\nWith what was measured before:\n\n{tables.target_table(report.load_all())}")
    if arguments.set_limits:
        guard.write_limits(found)
    return _guarded(found) if arguments.guard else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure the proxy.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--quick", action="store_true", help="fewer requests and cases; nothing is written")
    what.add_argument("--peers", action="store_true", help="beside all other proxies that are installed")
    parser.add_argument("--rounds", type=int, default=0, help=f"other than usual; a multiple of {ROUNDS_PER_START}")
    parser.add_argument("--guard", action="store_true", help="fail when a limit of limits.json is exceeded")
    parser.add_argument("--set-limits", action="store_true", help="write the ratios' limits anew from this run")
    parser.add_argument("--note", default="", help="a sentence that the results carry")
    return parser


def _run(plan: Plan, note: str) -> dict[str, Any]:
    programs.compile_programs()
    where = report.machine()
    bodies = write_bodies(programs.BODIES)
    measured = measure(plan, _tell)
    processor, _ = programs.processors()
    with_table = plan.with_translation and not plan.is_quick
    translate = programs.run_python("benchmarks.translate", ["--json"], processor) if with_table else []
    return report.results(plan, measured, where, bodies, translate, note)


def _guarded(found: dict[str, Any]) -> int:
    judgements = guard.judge(found, guard.read_limits())
    for judgement in judgements:
        print(judgement)
    verdicts = {judgement.verdict for judgement in judgements}
    if guard.Verdict.TOO_NOISY in verdicts:
        print(f"too noisy: the relay against itself left {guard.QUIET[0]} to {guard.QUIET[1]}; run it again")
    return 1 if guard.Verdict.EXCEEDED in verdicts else 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
