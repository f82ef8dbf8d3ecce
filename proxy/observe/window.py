"""
What has happened of late: the sums of all workers now, less those of some seconds ago.

    seconds ago   60 ... 11  10  9 ... 1  now
                   |          |            |
                   |          +-- rates ---+
                   +---- percentiles ------+

The sums only grow, so a difference of two is what happened in between, and nobody has to keep single times. A
percentile is what a histogram tells: the bucket is certain, the place inside it is taken from a straight line, as
Prometheus' `histogram_quantile` does.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import msgspec

from proxy.observe.layout import Family

#: Arbitrary: short enough to be now, long enough for some requests.
RATES_S: Final = 10.0
PERCENTILES_S: Final = 60.0


class Spread(msgspec.Struct, frozen=True):
    """Percentiles in milliseconds, and of how many; None is over `largest_ms`, the last bound, or of nothing."""

    count: int
    p50: float | None
    p90: float | None
    p99: float | None
    largest_ms: float


class _Sums(NamedTuple):
    at: float
    row: Sequence[float]


class Window:
    """`add()` the sums about once a second, then ask. Times are seconds of the caller's clock."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = {family.name: family for family in families}
        self._kept: deque[_Sums] = deque()

    def add(self, at: float, row: Sequence[float]) -> None:
        """Take the sums as they are now, and forget those that are too old."""
        self._kept.append(_Sums(at, row))
        while len(self._kept) > 2 and self._kept[1].at <= at - PERCENTILES_S:
            self._kept.popleft()

    def now(self, name: str) -> Mapping[tuple[str, ...], float]:
        """Return a counter or gauge as it is, by its labels' values."""
        return {values: number for values, (number,) in self._families[name].blocks(self._kept[-1].row)}

    def per_second(self, name: str) -> Mapping[tuple[str, ...], float]:
        """Return how fast a counter grows, by its labels' values; 0 while there is nothing to compare with."""
        then = self._since(RATES_S)
        lasted_s = self._kept[-1].at - then.at
        before = {values: number for values, (number,) in self._families[name].blocks(then.row)}
        return {
            values: (number - before[values]) / lasted_s if lasted_s > 0 else 0.0
            for values, number in self.now(name).items()
        }

    def spread(self, name: str) -> Spread:
        """Return the percentiles of what a histogram without labels has got of late."""
        family = self._families[name]
        then = self._since(PERCENTILES_S)
        (_, (_, *counts)), (_, (_, *before)) = *family.blocks(self._kept[-1].row), *family.blocks(then.row)
        grown = [now - ago for now, ago in zip(counts, before, strict=True)]
        p50, p90, p99 = (quantile(share, family.bounds_ms, grown) for share in (0.5, 0.9, 0.99))
        return Spread(int(sum(grown)), p50, p90, p99, family.bounds_ms[-1])

    @property
    def lasted_s(self) -> float:
        """How much time the percentiles are of."""
        return self._kept[-1].at - self._since(PERCENTILES_S).at

    def _since(self, seconds: float) -> _Sums:
        """Return the youngest sums that are so old, or else the oldest."""
        latest = self._kept[-1].at
        old_enough = [sums for sums in self._kept if sums.at <= latest - seconds]
        return old_enough[-1] if old_enough else self._kept[0]


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """
    Return the value that `share` of all are at or below; `counts` are those of each bucket and of those above.

    None is that there are no values, or that it is above the last bound.
    """
    total = sum(counts)
    if not total:
        return None
    rank = share * total
    for number, (bound, reached) in enumerate(zip(bounds, accumulate(counts), strict=False)):
        if reached >= rank and counts[number]:
            below = bounds[number - 1] if number else 0.0
            return below + (bound - below) * (rank - (reached - counts[number])) / counts[number]
    return None
