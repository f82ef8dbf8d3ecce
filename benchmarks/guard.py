"""
The guard: has the proxy become dearer, measured against the relay in the same run?

limits.json holds, for each case, the highest ratio of the proxy's CPU per unit to the relay's, and the largest share
that translation may have of a request. Both are ratios of one run, so they hold on fast and slow machines alike.
"""

import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.rounds import RELAY

LIMITS: Final = Path(__file__).parent / "limits.json"

#: The relay is measured twice. If it differs from itself by more than this, nothing else of the case can be believed.
QUIET: Final = (0.85, 1.15)
#: A limit is the upper end of a full run's interval and a quarter: what noise leaves of it is a real loss.
HEADROOM: Final = 1.25


class Verdict(Enum):
    """What is said about one limit."""

    WITHIN = "within"
    EXCEEDED = "EXCEEDED"
    TOO_NOISY = "too noisy to judge"


class Judgement(NamedTuple):
    """One limit, what was measured, and the verdict."""

    what: str
    measured: float
    limit: float
    verdict: Verdict

    def __str__(self) -> str:
        return f"{self.what}: {self.measured:.2f}, limit {self.limit:.2f}: {self.verdict.value}"


def judge(results: dict[str, Any], limits: dict[str, Any]) -> list[Judgement]:
    """Return a judgement for each limit whose case was measured."""
    cases = results["cases"]
    found = []
    for name, limit in limits["proxy_to_relay"].items():
        if name in cases:
            ratio = cases[name]["proxy_to"][RELAY]["median"]
            found.append(_judged(f"{name}, proxy to relay", ratio, limit, cases[name]))
    for name, limit in limits["translation_share"].items():
        share = results["translation"][name]["share"]["median"]
        found.append(_judged(f"{name}, translation's share", share, limit, cases[name]))
    return found


def _judged(what: str, measured: float, limit: float, case: dict[str, Any]) -> Judgement:
    if not is_quiet(case["relay_to_itself"]):
        return Judgement(what, measured, limit, Verdict.TOO_NOISY)
    return Judgement(what, measured, limit, Verdict.WITHIN if measured < limit else Verdict.EXCEEDED)


def is_quiet(itself: Mapping[str, float]) -> bool:
    """Say whether the relay's ratio to itself lets anything be said about others."""
    return itself["low"] >= QUIET[0] and itself["high"] <= QUIET[1]


def ratio_limits(results: dict[str, Any]) -> dict[str, float]:
    """Return limits for `proxy_to_relay` from a full run: the interval's upper end and `HEADROOM`, in twentieths."""
    highs = {name: case["proxy_to"][RELAY]["high"] for name, case in results["cases"].items()}
    return {name: math.ceil(high * HEADROOM * 20) / 20 for name, high in highs.items()}


def read_limits() -> dict[str, Any]:
    return dict(json.loads(LIMITS.read_text()))


def write_limits(results: dict[str, Any]) -> None:
    """Derive the ratios' limits anew; the shares are decisions and stay."""
    limits = {**read_limits(), "from": results["machine"]["date"], "proxy_to_relay": ratio_limits(results)}
    LIMITS.write_text(json.dumps(limits, indent=2) + "\n")
