"""Garbage is refused, schemas of any shape are answered: there is no third way out."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.demo.answer import Frame, chunks, completion
from proxy.demo.model import generate
from proxy.demo.refusal import Refusal
from proxy.demo.validate import check_request
from tests.demo.requests import TIME, TOOLS, USER, chat, tool

_words = st.sampled_from(["", "user", "assistant", "tool", "auto", "x", "function", "text", "json_schema"])
_keys = st.sampled_from(["role", "content", "type", "text", "function", "name", "id", "arguments", "json_schema"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner),
    max_leaves=8,
)
_parameters = st.sampled_from(
    [
        "messages",
        "tools",
        "tool_choice",
        "stream",
        "stream_options",
        "response_format",
        "stop",
        "n",
        "max_tokens",
        "temperature",
        "logit_bias",
        "reasoning_effort",
        "continue_final_message",
        "add_generation_prompt",
        "model",
    ]
)
_requests = st.dictionaries(_parameters, _json, max_size=4).map(lambda changes: chat(tools=TOOLS) | changes)
_messages = st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "tool_call_id"]), _json)
_functions = st.dictionaries(st.sampled_from(["name", "parameters", "description"]), _json)

_schemas = st.recursive(
    st.sampled_from([{}, {"type": "string", "minLength": 9}, {"$ref": "#"}, {"$ref": "#/properties/a"}, {"enum": [1]}]),
    lambda inner: st.fixed_dictionaries(
        {"properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2)},
        optional={
            "required": st.just(["a"]),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "items": inner,
            "minItems": st.integers(0, 10**9),
            "type": st.sampled_from(["object", "array", "null", ["null", "number"]]),
        },
    ),
    max_leaves=6,
)


def assert_refused_or_answered(body: Any) -> None:
    try:
        check_request(body, 4096)
    except Refusal:
        return
    said = generate(body)
    frame = Frame("chatcmpl-0", 0, "devstral", 1)
    assert completion(frame, [said])["choices"]
    assert list(chunks(frame, [said], usage=True))


@settings(deadline=None)
@given(_json | _requests)
def test_any_parameters(body: Any) -> None:
    assert_refused_or_answered(body)


@settings(deadline=None)
@given(_messages)
def test_any_message(message: dict[str, Any]) -> None:
    assert_refused_or_answered(chat(USER, message, USER))
    assert_refused_or_answered(chat(USER, message))


@settings(deadline=None)
@given(_functions)
def test_any_tool(function: dict[str, Any]) -> None:
    assert_refused_or_answered(chat(tools=[tool(function)]))


@settings(deadline=None)
@given(_schemas)
def test_any_schema(schema: dict[str, Any]) -> None:
    assert_refused_or_answered(chat(tools=[tool({"parameters": schema}), TIME]))
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert_refused_or_answered(chat(response_format=form))


@pytest.mark.parametrize("schema", [{"minLength": "x"}, {"properties": 5}, {"$ref": 5}, {"anyOf": 1}, 5, []])
def test_a_response_schema_that_is_none(schema: Any) -> None:
    with pytest.raises(Refusal, match="Invalid JSON schema"):
        check_request(chat(response_format={"type": "json_schema", "json_schema": {"schema": schema}}), 4096)
