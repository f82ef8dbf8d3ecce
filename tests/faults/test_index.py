"""The table of faults: complete, and its tests exist."""

import ast
from functools import cache

import pytest

from tests.faults.index import FAULTS, ROOT, as_markdown

NUMBERS = [f"F{number:02}" for number in range(1, 41)]


@cache
def functions_of(path):
    """Return the names of the test functions of a module, as it is written."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {name for name in found if name.startswith("test_")}


def test_every_fault_is_in_the_table_in_order():
    assert list(FAULTS) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_a_fault_has_a_claim_and_tests_or_a_reason(number):
    claim, tests, untested = FAULTS[number]

    assert claim.endswith(".")
    assert "|" not in claim + untested
    assert tests or untested
    assert len(set(tests)) == len(tests)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_test_that_is_named_exists(number):
    named = [test.partition("::") for test in FAULTS[number].tests]

    assert [f"{path}::{name}" for path, _, name in named if not (ROOT / path).is_file()] == []
    assert [f"{path}::{name}" for path, _, name in named if name not in functions_of(path)] == []


def test_every_module_about_a_fault_is_named_by_it():
    modules = {f"tests/faults/{path.name}" for path in (ROOT / "tests/faults").glob("test_f[0-9]*.py")}
    named = {test.partition("::")[0] for fault in FAULTS.values() for test in fault.tests}

    assert modules - named == set()


def test_the_table_has_a_row_for_each():
    rows = as_markdown().splitlines()

    assert len(rows) == 2 + len(NUMBERS)
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]] == NUMBERS
    assert {row.count(" | ") for row in rows[2:]} == {2}


def test_the_readme_has_the_table():
    assert as_markdown().strip() in (ROOT / "README.md").read_text(encoding="utf-8")
