"""The strict model of the kit refuses what mistral-common refuses, with its words, and nothing else."""

from typing import Any

import pytest

from tests.kit.strict import faults

USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
SAID = {"role": "assistant", "content": "Yes?"}
RESULT = {"role": "tool", "tool_call_id": "abcdef123", "content": "21"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def calls(*ids: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": i, "function": function} for i in ids]}


LEGAL = {
    "a question": [USER],
    "a turn of an agent": [SYSTEM, USER, calls("abcdef123"), RESULT],
    "an answer after a result": [USER, calls("abcdef123"), RESULT, SAID, USER],
    "two users": [USER, USER],
}
ILLEGAL = {
    "Unknown message role: developer": [{"role": "developer", "content": "x"}, USER],
    "Unexpected role 'user' after role 'tool'": [USER, calls("abcdef123"), RESULT, USER],
    "Unexpected role 'system' after role 'assistant'": [USER, SAID, SYSTEM, USER],
    "Unexpected role 'tool' after role 'user'": [USER, RESULT],
    "Expected last role User or Tool": [USER, SAID],
    "Tool call id was call_1 but must be": [USER, calls("call_1"), RESULT | {"tool_call_id": "call_1"}],
    "Not the same number of function calls": [USER, calls("abcdef123", "abcdef124"), RESULT],
    "Unexpected tool call id zzzzzzzzz": [USER, calls("abcdef123"), RESULT | {"tool_call_id": "zzzzzzzzz"}],
    "Invalid assistant message": [USER, SAID | {"content": ""}, USER],
    "refusal: Extra inputs are not permitted": [USER, SAID | {"refusal": None}, USER],
}


@pytest.mark.parametrize("messages", LEGAL.values(), ids=LEGAL)
def test_a_legal_conversation_has_no_fault(messages: list[dict[str, Any]]) -> None:
    assert list(faults({"messages": messages, "tools": [TOOL]})) == []


@pytest.mark.parametrize(("text", "messages"), ILLEGAL.items())
def test_an_illegal_conversation_has_its_fault(text: str, messages: list[dict[str, Any]]) -> None:
    assert next(faults({"messages": messages})).startswith(text)


def test_a_tool_with_a_key_too_many_has_its_fault():
    tool = TOOL | {"function": TOOL["function"] | {"strict": True}}

    assert list(faults({"messages": [USER], "tools": [tool]})) == ["strict: Extra inputs are not permitted"]
