"""The arithmetic of sizes: what it is made of, and that deploy/README.md has its rows."""

import re
from pathlib import Path

import pytest

from benchmarks import sizing
from benchmarks.sizing import Plan, events_per_s_at, measured, published_rows, sized

GUIDE = (Path(__file__).parents[2] / "deploy" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", published_rows())
def test_the_guide_has_the_row(row):
    assert row in GUIDE


def test_the_guide_says_what_the_rows_are_made_of():
    found, plan = measured("agentic-next", 0.6), sized(Plan(1_000_000))

    assert f"| {found.event_us:.0f} µs of CPU |" in GUIDE
    assert f"| {found.idle_mb:.0f} MB |" in GUIDE
    assert f"| {found.stream_kb:.0f} KB, and two sockets of {sizing.SOCKET_BYTES / 1000:.1f} KB" in GUIDE
    assert f"a million streams of 40 tokens a second are {plan['workers']:,} workers" in GUIDE
    assert f"they are also {plan['replicas']:,} model servers" in GUIDE
    assert f"at the bounds of a worker {plan['files_at_the_bounds']:,}" in GUIDE
    assert f": {plan['streams'] // plan['workers']} streams.\n" in GUIDE
    assert f"for each replica: {plan['health_checks_per_replica_per_s']:.0f} a second" in GUIDE


def test_the_guide_says_about_how_many_series_there_are():
    [fixed, each] = re.findall(r"about (\d+) series for each pod.*? and (\d+) for each replica", GUIDE)[0]
    found = measured("short", 0.6)

    assert found.series == pytest.approx(int(fixed), rel=0.2)
    assert found.series_per_replica == pytest.approx(int(each), rel=0.2)


def test_twice_the_streams_or_events_are_twice_the_cores():
    one = sized(Plan(1_000))

    assert sized(Plan(2_000))["busy_cores"] == pytest.approx(2 * one["busy_cores"])
    assert sized(Plan(1_000, events_per_s=80))["busy_cores"] == pytest.approx(2 * one["busy_cores"])


def test_a_small_request_costs_no_more_than_its_events():
    plan = sized(Plan(1_000, body="short"))

    assert plan["busy_cores"] == pytest.approx(plan["events_per_s"] * measured("short", 0.6).event_us / 1e6)


def test_slow_streams_are_as_many_in_a_worker_as_it_takes_at_once():
    assert sized(Plan(10_000, events_per_s=0.1))["streams_per_worker"] == 2_000


@pytest.mark.parametrize(("busy", "events"), [(0.1, 500), (0.2, 1000), (0.4, 3000), (0.6, 5000), (0.8, 7000)])
def test_the_load_of_a_busy_worker_is_on_the_line_between_two_that_were_measured(busy, events):
    assert events_per_s_at(busy, [(0.6, 5000), (0.2, 1000)]) == pytest.approx(events)


def test_a_busier_worker_pays_less_for_an_event():
    assert measured("short", 0.7).event_us < measured("short", 0.5).event_us


def test_a_body_that_was_not_measured_is_refused():
    with pytest.raises(KeyError):
        sized(Plan(1_000, body="none"))


def test_the_command_prints_what_it_is_made_of_and_what_is_needed(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sizing", "--streams", "1000000", "--events-per-s", "40"])

    assert sizing.main() == 0
    out = capsys.readouterr().out
    assert "| event_us | 43 |" in out
    assert "| workers | 2,911 |" in out
