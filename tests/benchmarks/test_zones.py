"""The simulation of zones: what the README says of it, and what it must show of the rule."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import zones
from benchmarks.report import RESULTS

PUBLISHED = json.loads((RESULTS / "zones.json").read_text())
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def rows_of(spill):
    return {row["phase"]: row for row in zones.run(zones.Plan(spill, PUBLISHED["seed"]))}


@pytest.fixture(scope="module")
def bounded():
    return rows_of(4)


def test_the_published_rows_are_what_the_simulation_says(bounded):
    published = {row["phase"]: row for row in PUBLISHED["rows"] if row["spill"] == 4}

    for phase, row in bounded.items():
        for name in ("home", "spilled", "errors"):
            assert row[name] == pytest.approx(published[phase][name], abs=0.03), (phase, name)


def test_a_calm_zone_keeps_its_requests_and_a_lost_one_has_none(bounded):
    assert bounded["calm"]["home"] > 0.95
    assert bounded["lost"]["home"] == 0


def test_no_request_is_without_a_place(bounded):
    assert [row["errors"] for row in bounded.values()] == [0, 0, 0, 0]


def test_spilling_shortens_the_wait_of_a_saturated_zone_and_of_one_that_returns(bounded):
    unbounded = rows_of(0)

    assert unbounded["saturated"]["home"] == 1
    assert bounded["saturated"]["first_token_p50_s"] < unbounded["saturated"]["first_token_p50_s"] / 5
    assert bounded["returned"]["first_token_p99_s"] < unbounded["returned"]["first_token_p99_s"]
    assert bounded["returned"]["busiest"] < unbounded["returned"]["busiest"]


def test_a_zone_that_returned_has_its_requests_back_within_two_minutes(bounded):
    assert bounded["returned"]["return_s"] <= 120


def test_the_table_of_the_readme_has_the_published_figures():
    phases = {(row["spill"], row["phase"]): row for row in PUBLISHED["rows"]}
    for spill in zones.SPILLS:
        full, lost, back = (phases[spill, phase] for phase in ("saturated", "lost", "returned"))
        cells = [
            *(f"{full['home']:.0%}", f"{full['first_token_p50_s']:.1f}", f"{full['first_token_p99_s']:.1f}"),
            *(f"{lost['home']:.0%}", str(lost["errors"]), str(lost["cut"])),
            *(f"{back['return_s']:.0f}", f"{back['first_token_p99_s']:.1f}", str(back["busiest"])),
        ]
        assert f"| {spill} | {' | '.join(cells)} |" in README


def test_finding_a_zone_has_a_cost():
    assert all(cost > 0 for cost in zones.choice_us(2).values())
    assert re.search(r"Finding the zone takes 0\.3 µs", README)
