"""From samples to what people read: results as data, tables, charts, targets."""

import xml.etree.ElementTree as ET
from collections import Counter
from typing import Any

import pytest

from benchmarks import chart, readme, report, tables, targets
from benchmarks.report import Results
from benchmarks.rounds import Measured, Plan, Sample
from benchmarks.targets import TARGETS, Bound, Figure, Side, Target, judge

WHERE = {
    "date": "2026-01-31",
    "commit": "0123456789",
    "processor": "A <fast> one",
    "processors": 2,
    "kernel": "6.1",
    "load_average_before": 0.1,
    "compiler": "cc 12",
    "versions": {"Python": "3.11.7"},
}
PLAN = Plan(rounds=3, cases=("short", "text-burst"), peers=("nginx", "smg"), with_translation=False)
TIMES = {"p50": 1.0, "p99": 2.0}


def samples(*costs: float | None) -> dict[int, Sample]:
    """One program's rounds; None is a round that it failed in."""
    return {index: Sample(cost, 1e6 / cost, TIMES, TIMES, TIMES) for index, cost in enumerate(costs) if cost}


def measured() -> Measured:
    """A run in which smg lost streams, nginx was slow in the last round, and portkey did not start."""
    found = Measured()
    usual = {"relay": samples(100, 100, 100), "relay again": samples(100, 101, 99), "proxy": samples(200, 220, 240)}
    found.samples = {
        "short": {**usual, "nginx": samples(20, None, 40), "smg": samples(400, 440, 480)},
        "text-burst": {**usual, "nginx": samples(100, 110, 120)},
    }
    found.losses = {"text-burst": {"smg": Counter(bad_status=48, events=9600)}}
    found.absent = {"portkey": f"not installed\nerror: {report.ROOT}/x | <b>"}
    found.resident_mb = dict.fromkeys(("relay", "relay again", "proxy", "nginx", "smg"), 30.0)
    found.threads = dict.fromkeys(found.resident_mb, 1)
    return found


@pytest.fixture
def run() -> dict[str, Any]:
    return report.results(PLAN, measured(), WHERE, "digest", [], "a note")


# --- data


def test_ratios_are_of_the_rounds_that_both_have(run: dict[str, Any]) -> None:
    assert run["cases"]["short"]["proxy_to"]["nginx"]["median"] == 8.0  # 10 and 6
    assert run["cases"]["short"]["programs"]["nginx"]["rounds"] == 2


def test_a_program_without_a_whole_round_has_its_losses_and_no_figure(run: dict[str, Any]) -> None:
    case = run["cases"]["text-burst"]

    assert case["lost"] == {"smg": {"bad_status": 48, "events": 9600}}
    assert "smg" not in case["programs"]
    assert "smg" not in case["proxy_to"]


def test_results_have_no_path_of_the_machine(run: dict[str, Any]) -> None:
    assert str(report.ROOT) not in str(run)


def test_what_other_modules_keep_is_a_section(run: dict[str, Any]) -> None:
    kept = {"latest": run, "peers": run, "memory": {"machine": WHERE, "command": "x", "rows": [{"mb": None}]}}

    assert list(report.sections(kept)) == ["memory"]
    assert "| mb |\n| --- |\n| – |" in tables.everything(kept, readme.TITLES)


# --- for people


@pytest.mark.parametrize(
    "line",
    [
        "commit 0123456789",
        "**Note:** a note",
        "**Not measured: portkey.** not installed error: x / ‹b>",
        "| short | 0.5 KB, whole answer | request | 220 | 30.0 | 440 | 100 |",
        "| text-burst | stream of 200 text events, as fast as they go | event | 220 | 110 | fails | 100 |",
        "| text-burst | smg | bad status: 48, events: 9600 |",
    ],
)
def test_the_report_says_where_how_how_much_and_what_failed(run: dict[str, Any], line: str) -> None:
    assert line in tables.whole_run(run)


def test_every_case_in_which_another_is_cheaper_is_listed_the_worst_first(run: dict[str, Any]) -> None:
    cheaper = [(case, other) for case, other, _ in targets.cheaper_peers(run)]

    assert cheaper == [("short", "nginx"), ("short", "relay"), ("text-burst", "relay"), ("text-burst", "nginx")]


def test_the_chart_is_xml_and_has_every_case_and_program(run: dict[str, Any]) -> None:
    texts = [element.text for element in ET.fromstring(chart.svg(run, "A title")).iter() if element.text]

    assert {
        "A title",
        "short, per request",
        "text-burst, per event (smg: fails)",
        "proxy",
        "nginx",
        "smg",
        "440",
    } <= set(texts)


def test_nothing_measured_yet_is_said_in_the_readme() -> None:
    assert readme.performance({}) == "Nothing has been measured yet: `make bench`.\n"


def test_the_section_of_the_readme_is_what_the_kept_results_render_to() -> None:
    """`make bench-readme` writes it anew."""
    text = readme.README.read_text(encoding="utf-8")
    section = text.partition("<!-- performance -->\n")[2].partition("<!-- end of performance -->")[0]

    assert section == readme.performance(report.load_all())


# --- targets


def of_case(median: float, *, low: float, high: float, noise: float = 1.0) -> Results:
    ratio = {"median": median, "low": low, "high": high}
    itself = {"median": 1.0, "low": 1 / noise, "high": noise}
    return {"peers": {"cases": {"short": {"proxy_to": {"nginx": ratio}, "relay_to_itself": itself}}}}


AT_MOST_TWO = Bound("× nginx", 2, targets.cost("short", "nginx"))


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [
        ({}, "not measured"),
        (of_case(1.9, low=1.8, high=2.1), "met"),
        (of_case(2.0, low=1.8, high=2.1), "met"),
        (of_case(2.5, low=1.9, high=3.0), "**missed** by 0.50 (25%)"),
        (of_case(1.9, low=1.8, high=1.95, noise=1.3), "too noisy to say"),
        (of_case(1.0, low=0.9, high=1.1, noise=1.3), "met"),
        (of_case(4.0, low=3.9, high=4.1, noise=1.3), "**missed** by 2 (100%)"),
    ],
)
def test_the_verdict_on_a_target_depends_on_figure_limit_and_noise(kept: Results, verdict: str) -> None:
    assert str(judge(AT_MOST_TWO, kept)) == verdict


def test_some_figures_have_to_be_large() -> None:
    bound = Bound("", 2, lambda _: Figure(1.5, 1.5, 1.5), Side.AT_LEAST, "MB")

    assert str(judge(bound, {})) == "**missed** by 0.50 MB (25%)"


def test_a_section_gives_the_field_of_the_row_that_is_meant() -> None:
    rows = [{"program": "nginx", "mb": 7.0}, {"program": "proxy", "mb": None}, {"program": "proxy", "mb": 40.0}]
    kept = {"memory": {"rows": rows}}

    assert targets.row("memory", "mb", program="proxy")(kept) == Figure(40, 40, 40)
    assert targets.row("memory", "mb", program="relay")(kept) is None


def test_failures_of_the_proxy_are_added_up_over_all_sections_and_those_of_others_are_not() -> None:
    kept = {
        "paced": {"rows": [{"program": "proxy", "failed": 2}, {"program": "nginx", "failed": 9}]},
        "workers": {"rows": [{"workers": 2, "failed": 1}]},
    }

    assert targets.failures(kept) == Figure(3, 3, 3)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.work)
def test_every_target_can_be_judged_when_nothing_was_measured(target: Target) -> None:
    for bound in filter(None, (target.must, target.goal)):
        assert str(judge(bound, {})) == "not measured"
