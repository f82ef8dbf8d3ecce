"""A short soak, and the slope that the long one goes by."""

import pytest

from tests.soak.run import Plan, Sample, run, slope


def samples(*points: tuple[int, float]) -> list[Sample]:
    return [Sample(requests, resident_mb, 0, 0, 0) for requests, resident_mb in points]


def test_growth_is_counted_after_the_warm_up_only() -> None:
    growing = samples((0, 10), (10_000, 50), (20_000, 60), (30_000, 62), (40_000, 64))

    assert slope(growing) == pytest.approx(2.0)
    assert slope(samples((0, 10), (20_000, 60), (30_000, 60))) is None


async def test_nothing_is_left_of_two_thousand_requests_of_which_some_clients_leave() -> None:
    report = await run(Plan(requests=2_000, clients=8, streams=20, event_s=0.2, limit_s=60))

    assert report.problems == []
    assert report.facts["requests"]["sent"] == 2_000
    assert report.facts["requests"]["away"] > 0
    assert report.facts["counted"]["client_disconnects_total"] > 0
