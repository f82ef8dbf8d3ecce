"""What has happened of late, from sums that only grow: rates, and percentiles beside those of the single values."""

import random
from statistics import quantiles

import pytest

from proxy.observe.layout import Layout
from proxy.observe.window import PERCENTILES_S, RATES_S, Window, quantile

BOUNDS = (10, 20, 50, 100)


def layout():
    made = Layout()
    return made, made.counter("requests", "", route=("/a", "/b")), made.histogram("waits", "", BOUNDS)


def test_a_rate_is_the_growth_of_the_last_seconds_by_label():
    made, requests, _ = layout()
    window = Window(made.families)
    for second in range(30):
        row = [0.0] * made.size
        row[requests], row[requests + 1] = 100 + 5 * min(second, 15), 2 * second
        window.add(second, row)

    # of the last RATES_S seconds the first counter has grown for none
    assert RATES_S == 10
    assert window.per_second("requests") == {("/a",): 0, ("/b",): 2}
    assert window.now("requests") == {("/a",): 175, ("/b",): 58}


def test_before_there_is_anything_to_compare_with_every_rate_is_nothing():
    made, requests, _ = layout()
    window = Window(made.families)
    row = [0.0] * made.size
    row[requests] = 1000
    window.add(7.0, row)

    assert window.per_second("requests") == {("/a",): 0, ("/b",): 0}
    assert window.spread("waits").count == 0
    assert window.lasted_s == 0


def test_percentiles_are_of_the_last_minute_and_what_is_older_is_forgotten():
    made, _, waits = layout()
    window = Window(made.families)
    row = [0.0] * made.size
    row[waits + 1 + 3] = 1000  # 50 to 100 ms, long ago
    for second in range(200):
        if second == 190:
            row[waits + 1] += 4  # up to 10 ms
        window.add(second, list(row))

    spread = window.spread("waits")
    assert (spread.count, spread.p50, spread.p99) == (4, 5.0, pytest.approx(9.9))
    assert window.lasted_s == PERCENTILES_S


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, (0, 0, 0, 0, 0), None),
        (0.5, (4, 0, 0, 0, 0), 5.0),
        (0.5, (0, 2, 0, 2, 0), 20.0),
        (0.99, (0, 0, 1, 0, 0), 20 + 30 * 0.99),
        (0.5, (1, 0, 0, 0, 9), None),
        (0.9, (9, 0, 0, 0, 1), 10.0),
    ],
)
def test_a_quantile_stands_in_its_bucket(share, counts, expected):
    assert quantile(share, BOUNDS, counts) == (None if expected is None else pytest.approx(expected))


def test_a_quantile_is_never_further_off_than_its_bucket_is_wide():
    dice = random.Random(7)
    values = [dice.uniform(0, 100) for _ in range(5000)]
    counts = [sum(low < value <= high for value in values) for low, high in zip((0, *BOUNDS), BOUNDS, strict=False)]
    exact = quantiles(values, n=100, method="inclusive")

    for percent in (10, 50, 90, 99):
        found = quantile(percent / 100, BOUNDS, [*counts, 0])
        assert found == pytest.approx(exact[percent - 1], abs=3)
