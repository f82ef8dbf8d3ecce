"""
What vLLM 0.32 accepts and gets wrong, row by row: where the proxy corrects it, or why it cannot.

The rows were seen on a live server. A correction is named by the test or the golden case that holds it.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

CORRECTED = {
    "`tool_choice: null` with tools loses the call": "live/test_sdk.py::test_a_tool_choice_of_null_loses_no_call",
    "a whole answer cut inside a call says `tool_calls`": (
        "live/test_sdk.py::test_a_call_that_is_cut_says_so_and_is_not_completed"
    ),
    "a call cut inside its name gets the arguments `{}`": (
        "live/test_sdk.py::test_a_call_that_is_cut_says_so_and_is_not_completed"
    ),
    "ids are cut to their last nine characters": (
        "translate/test_request_rules.py::test_ids_that_meet_on_the_wire_are_told_apart"
    ),
    "past arguments that are no JSON object become `{}`": "cases/request/q10_arguments.json",
    "`required` and named answers have content \"\", named says `stop`": (
        "live/test_sdk.py::test_a_call_that_was_demanded_comes_back_as_a_call"
    ),
    "without a reasoning parser the marks stay in content": (
        "live/test_sdk.py::test_thinking_is_told_apart_from_the_answer_where_it_is_marked"
    ),
    "`tool_choice: none` leaks a call as text": "cases/request/q21_choice_none.json",
    "in template mode a demanded call is text in content": (
        "live/test_sdk.py::test_a_call_that_was_demanded_comes_back_as_a_call"
    ),
    "in template mode `json_object` is a 500": "cases/request/h7_json_object.json",
    "`functions` and `function_call` are ignored": "cases/request/q02_legacy_functions.json",
    "without a tool parser calls are text": "live/test_sdk.py::test_the_result_of_a_call_leads_to_the_answer",
}  # fmt: skip

CANNOT_BE = {
    "a v3 tokenizer loses characters that are split over tokens": "the bytes never leave the server",
    "a v3 call cut by the limit is text": "it is no JSON: taking it for a call would invent the rest",
    "`required` ends in text at the limit": "no call was written; the text and `length` are what happened",
    "without `strict` the model calls names that no tool has": (
        "it is the model's word: agents answer it with an error that the model reads"
    ),
    "`json_schema` without a schema is ignored": "there is nothing that the answer could be held to",
    "in template mode thinking loses its marks": "what was thought can no longer be told from what was said",
}


@pytest.mark.parametrize("where", CORRECTED.values(), ids=CORRECTED)
def test_a_correction_is_held_by_a_test(where):
    path, _, name = where.partition("::")
    text = (TESTS / path).read_text(encoding="utf-8")

    assert not name or name in {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}


def test_no_row_is_both_corrected_and_not():
    assert not CORRECTED.keys() & CANNOT_BE.keys()
    assert all(CANNOT_BE.values())
