"""The statistics: medians, and the ratio of two programs measured side by side."""

import math
import random
from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Final, NamedTuple

#: Arbitrary: enough that the interval's ends do not move in the second digit.
_RESAMPLES: Final = 2_000
_CONFIDENCE: Final = 0.95


class Ratio(NamedTuple):
    """The median of paired ratios, and the ends of its 95% bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """
    Return the ratio of two programs from rounds in which both were measured one after the other.

    Round i gives numerators[i] / denominators[i], so what slowed a whole round down (another process, the clock of
    the processor) is in both and cancels. The interval is the percentile bootstrap over rounds; it is the same for
    the same figures.

    Raises:
        ValueError: there are no rounds, or not the same number of both.
    """
    if not numerators:
        raise ValueError("no rounds")
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    generator = random.Random(0)
    medians = sorted(median(generator.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    tail = (1 - _CONFIDENCE) / 2
    low, high = math.floor(tail * (_RESAMPLES - 1)), math.ceil((1 - tail) * (_RESAMPLES - 1))
    return Ratio(median(ratios), medians[low], medians[high])


def shared_rounds(above: Mapping[int, float], below: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """Return the figures of the rounds that both have: a program that failed or was left out in a round has none."""
    rounds = sorted(above.keys() & below.keys())
    return [above[index] for index in rounds], [below[index] for index in rounds]


def middle_half(figures: Sequence[float]) -> tuple[float, float]:
    """Return the quartiles, between which half of the figures are; both are the same when there is one figure."""
    if len(figures) < 2:
        return figures[0], figures[0]
    low, _, high = quantiles(figures, n=4, method="inclusive")
    return low, high
