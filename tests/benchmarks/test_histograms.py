"""Quantiles from the histograms that /metrics offers."""

import pytest

from benchmarks import histograms

TEXT = """\
# TYPE lag_seconds histogram
lag_seconds_bucket{worker="1",le="0.005"} 90
lag_seconds_bucket{worker="1",le="0.01"} 98
lag_seconds_bucket{worker="1",le="+Inf"} 100
lag_seconds_bucket{worker="2",le="0.005"} 10
lag_seconds_bucket{worker="2",le="0.01"} 10
lag_seconds_bucket{worker="2",le="+Inf"} 10
lag_seconds_sum{worker="1"} 3
other_lag_seconds_bucket{le="0.005"} 7
"""
INFINITY = float("inf")


def test_buckets_are_added_up_over_workers() -> None:
    assert histograms.read(TEXT, "lag_seconds") == {0.005: 100, 0.01: 108, INFINITY: 110}


def test_a_text_without_the_histogram_has_no_buckets() -> None:
    assert histograms.read("<html>404</html>", "lag_seconds") == {}


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({1.0: 0, 2.0: 100, INFINITY: 100}, 0.5, 1.5),
        ({1.0: 98, 2.0: 100, INFINITY: 100}, 0.99, 1.5),
        ({1.0: 100, 2.0: 100, INFINITY: 100}, 1.0, 1.0),
        ({1.0: 10, INFINITY: 100}, 0.99, 1.0),  # nothing is known of what lies above the last bound
        ({1.0: 0, INFINITY: 0}, 0.99, None),
        ({}, 0.99, None),
    ],
)
def test_a_quantile_lies_in_its_bucket(buckets: histograms.Buckets, share: float, expected: float | None) -> None:
    assert histograms.quantile(buckets, share) == pytest.approx(expected)


def test_what_was_observed_before_the_run_does_not_count() -> None:
    before, after = {1.0: 1000, 2.0: 1000, INFINITY: 1000}, {1.0: 1000, 2.0: 1100, INFINITY: 1100}

    assert histograms.quantile(histograms.since(after, before), 0.99) == pytest.approx(1.99)
