"""From a row of numbers to Prometheus' text format."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.observe.layout import Family, Kind

PREFIX: Final = "devstral_proxy_"


def exposition(families: Sequence[Family], row: Sequence[float]) -> bytes:
    """Return the metrics whose numbers stand in `row`, as text."""
    return generate_latest(_Scrape(families, row))


class _Scrape(Collector):
    def __init__(self, families: Sequence[Family], row: Sequence[float]) -> None:
        self._families = families
        self._row = row

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            yield _histogram(family, self._row) if family.kind is Kind.HISTOGRAM else _number(family, self._row)


def _number(family: Family, row: Sequence[float]) -> Metric:
    """Zeros are told too: an alert on a rate has to see the first step."""
    kind = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric = kind(PREFIX + family.name, family.about, labels=tuple(family.labels))
    for values, (number,) in family.blocks(row):
        metric.add_metric(values, number)
    return metric


def _histogram(family: Family, row: Sequence[float]) -> Metric:
    """An empty one is left out if it has labels: most routes are never asked for."""
    metric = HistogramMetricFamily(PREFIX + family.name, family.about, labels=tuple(family.labels))
    bounds = [*(str(bound / 1000) for bound in family.bounds_ms), "+Inf"]
    for values, (total, *counts) in family.blocks(row):
        if any(counts) or not family.labels:
            metric.add_metric(values, list(zip(bounds, accumulate(counts), strict=True)), total / 1000)
    return metric
