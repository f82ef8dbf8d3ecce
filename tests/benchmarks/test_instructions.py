"""The guard that counts instructions."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import served
from benchmarks.bodies import all_bodies
from benchmarks.counted import run
from benchmarks.instruction_cases import CASES, variant
from benchmarks.instruction_figures import Basis, Entry, Verdict, judge, nearest, read_entries, write_entry
from benchmarks.instructions import ALL_CASES, CannotCount, compared, count, exit_code
from benchmarks.served import SERVED, run_served
from proxy.translate.profile import build_profile
from proxy.translate.request import translate_request
from tests.benchmarks.marks import needs_programs

HERE = Basis("3.11.7", "GCC 12.2.0", "x86_64", "0.22.0", "3.13.0")

needs_valgrind = pytest.mark.skipif(shutil.which("valgrind") is None, reason="no valgrind on the PATH")


@pytest.mark.parametrize(
    ("counted", "stored", "verdict"),
    [
        (1_000, 1_000, Verdict.WITHIN),
        (1_100, 1_000, Verdict.WITHIN),
        (1_101, 1_000, Verdict.EXCEEDED),
        (500, 1_000, Verdict.WITHIN),
        (1_000, None, Verdict.NOT_STORED),
    ],
)
def test_a_case_may_cost_a_tenth_more_than_was_stored(counted: int, stored: int | None, verdict: Verdict) -> None:
    figures = {} if stored is None else {"short": stored}

    assert [judgement.verdict for judgement in judge({"short": counted}, figures, 0.10)] == [verdict]


@pytest.mark.parametrize("stored_on", [HERE, HERE._replace(python="3.11.9")])
def test_one_case_that_became_half_again_as_dear_fails_the_run(stored_on: Basis) -> None:
    stored = [Entry(stored_on, {"short": 1_000, "huge": 9_000})]
    judgements, _ = compared({"short": 1_500, "huge": 9_000}, HERE, stored)

    assert exit_code(judgements, require=False) == 1


def test_figures_of_a_nearby_basis_are_compared_more_loosely_and_the_output_says_so() -> None:
    nearby = HERE._replace(python="3.11.9")
    judgements, told = compared({"short": 1_200}, HERE, [Entry(nearby, {"short": 1_000})])

    assert exit_code(judgements, require=True) == 0
    assert "3.11.9" in told
    assert "+25%" in told


@pytest.mark.parametrize(("require", "code"), [(False, 0), (True, 1)])
def test_without_a_stored_figure_only_a_run_that_requires_one_fails(require: bool, code: int) -> None:
    judgements, told = compared({"short": 1}, HERE, [Entry(HERE._replace(python="3.13.1"), {"short": 1})])

    assert exit_code(judgements, require=require) == code
    assert "--store" in told


@pytest.mark.parametrize(
    ("stored", "chosen"),
    [
        ([HERE._replace(msgspec="0.23.0"), HERE], 1),
        ([HERE._replace(python="3.11.9", compiler="Clang 18"), HERE._replace(compiler="Clang 18")], 1),
        ([HERE._replace(python="3.11.9", orjson="3.14.0"), HERE._replace(python="3.11.9")], 1),
        ([HERE._replace(machine="aarch64"), HERE._replace(python="3.12.7")], None),
        ([], None),
    ],
)
def test_the_most_similar_basis_is_chosen_and_never_another_python_or_machine(
    stored: list[Basis], chosen: int | None
) -> None:
    entry = nearest([Entry(basis, {}) for basis in stored], HERE)

    assert (entry and entry.basis) == (None if chosen is None else stored[chosen])


def test_storing_replaces_the_figures_of_the_same_basis_and_no_others(tmp_path: Path) -> None:
    file, other = tmp_path / "stored.json", Entry(HERE._replace(python="3.12.7"), {"short": 7})
    for entry in (Entry(HERE, {"short": 1}), other, Entry(HERE, {"short": 2})):
        write_entry(entry, file)

    assert read_entries(file) == [Entry(HERE, {"short": 2}), other]


def test_no_figure_is_stored_for_a_case_that_is_gone() -> None:
    assert {case for entry in read_entries() for case in entry.figures} <= set(ALL_CASES)


@pytest.mark.parametrize("name", list(CASES))
def test_every_case_runs(name: str) -> None:
    run(CASES[name].make_work())


@pytest.mark.parametrize("name", ["short", "agentic-clean", "agentic"])
def test_cold_bodies_need_the_same_rules_and_share_no_text_id_or_name(name: str) -> None:
    body = json.loads(all_bodies()[name])
    one, other = variant(body, 1), variant(body, 2)
    profile = build_profile("vllm-mistral-tokenizer")
    rules = {translate_request(json.dumps(chat).encode(), profile).rules_applied for chat in (body, one, other)}

    assert len(rules) == 1
    assert _own_strings(one).isdisjoint(_own_strings(other))


def _own_strings(chat: dict[str, Any]) -> set[str]:
    """What a conversation does not share with others: all strings but those of the protocol and of JSON Schema."""
    found = re.findall(
        r'"(?:content|text|description|id|tool_call_id|name|arguments)": ("(?:[^"\\]|\\.)*")', json.dumps(chat)
    )
    assert found
    return set(found)


@needs_programs
@pytest.mark.parametrize("name", list(SERVED))
def test_every_case_is_served_and_its_process_marks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without callgrind, whose counts are there already."""
    monkeypatch.setattr(served, "SERVED", {name: SERVED[name]._replace(requests=2)})
    for number in (1, 2):
        (tmp_path / f"counts.{number}").write_text("\ntotals: 1")

    run_served(name, [], tmp_path / "counts")


@needs_valgrind
def test_callgrind_counts_what_is_between_the_marks_and_again_the_same() -> None:
    def loop(turns: int) -> int:
        code = f"import os\nfor turns in (99, {turns}, 77):\n    for _ in range(turns): pass\n    os.getppid()"
        return count(["-S", "-c", code])  # not -I, which ignores the hash seed

    short, long, again = loop(20_000), loop(40_000), loop(40_000)

    assert long / short == pytest.approx(2, rel=0.02)
    assert again / long == pytest.approx(1, rel=0.005)


@needs_valgrind
def test_a_program_that_fails_under_valgrind_is_told_with_its_own_words() -> None:
    with pytest.raises(CannotCount, match="the reason"):
        count(["-S", "-c", "raise SystemExit('the reason')"])


def test_without_valgrind_the_text_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(CannotCount, match="apt-get install valgrind"):
        count(["-c", "pass"])
