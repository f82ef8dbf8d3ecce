"""Where each metric stands in a row of numbers."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, auto
from itertools import pairwise, product
from math import prod

import msgspec


class Kind(Enum):
    """What a metric is to Prometheus."""

    COUNTER = auto()
    GAUGE = auto()
    HISTOGRAM = auto()


class Family(msgspec.Struct, frozen=True):
    """
    One metric: a block of `step` numbers, from `at`, for each combination of its labels' values.

    The last label's values stand side by side. A histogram's block is its sum in ms, a count for each of its bounds,
    and the count above them; the block of anything else is one number.
    """

    kind: Kind
    name: str
    about: str
    at: int
    labels: Mapping[str, Sequence[str]]
    bounds_ms: Sequence[float] = ()

    @property
    def step(self) -> int:
        """How many numbers a block has."""
        return 1 + len(self.bounds_ms) + 1 if self.kind is Kind.HISTOGRAM else 1

    @property
    def size(self) -> int:
        """How many numbers all blocks have."""
        return self.step * prod(map(len, self.labels.values()))

    def blocks(self, row: Sequence[float]) -> Iterator[tuple[tuple[str, ...], Sequence[float]]]:
        """Yield each combination of labels' values, with its numbers."""
        for number, values in enumerate(product(*self.labels.values())):
            at = self.at + number * self.step
            yield values, row[at : at + self.step]


class Layout:
    """The metrics, one behind the other in the order in which they are added."""

    def __init__(self) -> None:
        self.families: list[Family] = []
        self.size = 0

    def counter(self, name: str, about: str, **labels: Sequence[str]) -> int:
        """Add a counter and return where it begins. `_total` is appended to its name."""
        return self._add(Family(Kind.COUNTER, name, about, self.size, labels))

    def gauge(self, name: str, about: str) -> int:
        """Add a gauge and return where it stands."""
        return self._add(Family(Kind.GAUGE, name, about, self.size, {}))

    def histogram(self, name: str, about: str, bounds_ms: Sequence[float], **labels: Sequence[str]) -> int:
        """Add a histogram, which is kept in milliseconds and told in seconds; return where it begins."""
        return self._add(Family(Kind.HISTOGRAM, name, about, self.size, labels, bounds_ms))

    def _add(self, family: Family) -> int:
        self.families.append(family)
        self.size += family.size
        return family.at


def collapsed(block: Sequence[float], fine: Sequence[float], bounds: Sequence[float]) -> list[float]:
    """Return a histogram's block that was kept with the bounds `fine` as one with `bounds`, which are some of them."""
    total, *counts = block
    ends = [0, *(bisect_left(fine, bound) + 1 for bound in bounds), len(counts)]
    return [total, *(sum(counts[start:end]) for start, end in pairwise(ends))]
