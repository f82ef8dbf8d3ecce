"""
Measure the proxy against the relay, and say what was found.

    python -m benchmarks.run                    all cases; writes results/ and the README's table
    python -m benchmarks.run --quick            under a minute; prints only
    python -m benchmarks.run --quick --guard    the same, and fails when a limit of limits.json is exceeded
"""

import argparse
import sys
from typing import Any

from benchmarks import guard, programs, report
from benchmarks.bodies import write_bodies
from benchmarks.programs import BenchmarkError
from benchmarks.rounds import Plan, measure

FULL = Plan(rounds=12, is_quick=False)
QUICK = Plan(rounds=6, is_quick=True)


def main() -> int:
    """Run; return the exit code: 1 when a limit is exceeded or the run could not be made."""
    arguments = _parser().parse_args()
    programs.stop_all_on_sigterm()
    plan = QUICK if arguments.quick else FULL
    try:
        found = _run(plan, arguments.note)
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    print(report.markdown(found))
    if not arguments.quick:
        report.save(found)
    if arguments.set_limits:
        guard.write_limits(found)
    return _guarded(found) if arguments.guard else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Measure the proxy.")
    parser.add_argument("--quick", action="store_true", help="fewer requests and cases; nothing is written")
    parser.add_argument("--guard", action="store_true", help="fail when a limit of limits.json is exceeded")
    parser.add_argument("--set-limits", action="store_true", help="write the ratios' limits anew from this run")
    parser.add_argument("--note", default="", help="a sentence that the results carry")
    return parser


def _run(plan: Plan, note: str) -> dict[str, Any]:
    programs.compile_programs()
    where = report.machine()
    bodies = write_bodies(programs.BODIES)
    if not plan.is_quick and not plan.with_nginx:
        _tell("nginx is not installed: its column is left out")
    measured = measure(plan, _tell)
    processor, _ = programs.processors()
    translate = [] if plan.is_quick else programs.run_python("benchmarks.translate", ["--json"], processor)
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
