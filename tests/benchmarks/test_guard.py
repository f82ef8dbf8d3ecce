"""What the guard says about a run."""

from typing import Any

import pytest

from benchmarks.guard import Verdict, judge, ratio_limits

QUIET = {"median": 1.0, "low": 0.95, "high": 1.05}
NOISY = {"median": 1.0, "low": 0.7, "high": 1.05}
LIMITS = {"proxy_to_relay": {"short": 2.0}, "translation_share": {"short": 0.5}}


def run(*, ratio: float, share: float = 0.3, itself: dict[str, float] = QUIET) -> dict[str, Any]:
    """The part of a run's results that the guard reads."""
    to_relay = {"median": ratio, "low": ratio, "high": ratio}
    case = {"proxy_to": {"relay": to_relay}, "relay_to_itself": itself}
    return {"cases": {"short": case}, "translation": {"short": {"share": {"median": share}}}}


@pytest.mark.parametrize(
    ("found", "verdicts"),
    [
        (run(ratio=1.9), [Verdict.WITHIN, Verdict.WITHIN]),
        (run(ratio=2.1), [Verdict.EXCEEDED, Verdict.WITHIN]),
        (run(ratio=1.9, share=0.5), [Verdict.WITHIN, Verdict.EXCEEDED]),
        (run(ratio=9.9, share=0.9, itself=NOISY), [Verdict.TOO_NOISY, Verdict.TOO_NOISY]),
    ],
)
def test_the_verdict_depends_on_limit_and_noise(found: dict[str, Any], verdicts: list[Verdict]) -> None:
    assert [judgement.verdict for judgement in judge(found, LIMITS)] == verdicts


def test_a_case_that_was_not_measured_is_not_judged() -> None:
    limits = {"proxy_to_relay": {"text-paced": 2.0}, "translation_share": {}}

    assert judge(run(ratio=1.9), limits) == []


def test_a_limit_leaves_a_quarter_above_the_interval() -> None:
    assert ratio_limits(run(ratio=2.0)) == {"short": 2.5}
