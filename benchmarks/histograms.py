"""Histograms as Prometheus writes them: read, subtracted, and asked for a quantile."""

import math
import re
from collections.abc import Mapping

#: How many observations were at most as large as the key; the largest key is infinity.
Buckets = dict[float, float]


def read(text: str, name: str) -> Buckets:
    """Return the histogram's buckets, added up over its label sets; empty where the text has none."""
    found: Buckets = {}
    line = re.compile(rf'^{re.escape(name)}_bucket{{(?:[^}}]*,)?le="([^"]+)"[^}}]*}} (\S+)', re.MULTILINE)
    for bound, count in line.findall(text):
        found[float(bound)] = found.get(float(bound), 0.0) + float(count)
    return found


def since(after: Mapping[float, float], before: Mapping[float, float]) -> Buckets:
    """Return what was observed between two readings."""
    return {bound: count - before.get(bound, 0.0) for bound, count in after.items()}


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """
    Return the value below which that share of the observations lies, None when there are none.

    Inside a bucket observations count as evenly spread. What lies above the last finite bound counts as that bound.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    wanted = share * buckets[bounds[-1]]
    below, lower = 0.0, 0.0
    for bound in bounds:
        inside = buckets[bound] - below
        if buckets[bound] >= wanted and inside > 0:
            return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / inside
        below = buckets[bound]
        lower = lower if math.isinf(bound) else bound
    return lower
