"""What the demo says, whole: the request decides, and the same request gets the same words."""

import json
import re
from typing import Any

import pytest

from proxy.demo.answer import Frame, completion
from proxy.demo.example import example
from proxy.demo.model import GREETING, generate
from proxy.demo.validate import check_request
from tests.demo.requests import RESULT, TIME, TOOLS, USER, WEATHER, assistant, call, chat, tool

ANSWERED = (USER, assistant(call()), RESULT)
READ_FILE = tool(
    {"name": "read_file", "parameters": {"properties": {"path": {"type": "string"}}, "required": ["path"]}}
)
NAMED_TIME = {"type": "function", "function": {"name": "get_time"}}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answer(request: dict[str, Any], *, leak: bool = False) -> dict[str, Any]:
    """Return the first choice, as it goes over the wire."""
    check_request(request, 4096)
    whole = completion(Frame("chatcmpl-0", 0, "devstral", 1), [generate(request, leak=leak)])
    choice: dict[str, Any] = whole["choices"][0]
    return choice


def said(request: dict[str, Any], *, leak: bool = False) -> tuple[str | None, list[tuple[str, str]], str]:
    """Return content, calls and finish reason."""
    choice = answer(request, leak=leak)
    calls = [c["function"] for c in choice["message"].get("tool_calls", ())]
    return choice["message"]["content"], [(c["name"], c["arguments"]) for c in calls], choice["finish_reason"]


PARIS = ("get_weather", '{"city": "Paris"}')
ROME = ("get_weather", '{"city": "Rome"}')
NOW = ("get_time", "{}")
LEAKED = '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}'
CITY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "c", "schema": WEATHER["function"]["parameters"]}}

SAYINGS: list[tuple[str, dict[str, Any], tuple[str | None, list[tuple[str, str]], str]]] = [
    ("a greeting without tools", chat(user("Hi")), (GREETING, [], "stop")),
    ("a greeting with tool_choice none", chat(tools=TOOLS, tool_choice="none"), (GREETING, [], "stop")),
    ("a call with tools", chat(tools=TOOLS), (None, [PARIS], "tool_calls")),
    ("a call about what the user names", chat(user("Weather in Rome?"), tools=TOOLS), (None, [ROME], "tool_calls")),
    ("a call of the tool that is named", chat(user("Use get_time"), tools=TOOLS), (None, [NOW], "tool_calls")),
    ("a call of the favourite", chat(user("Hi"), tools=[TIME, WEATHER]), (None, [PARIS], "tool_calls")),
    (
        "a call of the first",
        chat(user("Show me README please"), tools=[READ_FILE, TIME]),
        (None, [("read_file", '{"path": "README"}')], "tool_calls"),
    ),
    ("two calls for both", chat(user("Tell me both"), tools=TOOLS), (None, [PARIS, NOW], "tool_calls")),
    (
        "two calls of one tool",
        chat(user("Weather in Paris and Rome, both"), tools=[WEATHER]),
        (None, [PARIS, ROME], "tool_calls"),
    ),
    (
        "one call where calls must not be parallel",
        chat(user("Tell me both"), tools=TOOLS, parallel_tool_calls=False),
        (None, [PARIS], "tool_calls"),
    ),
    ("text, then a call", chat(user("Please explain"), tools=TOOLS), ("I'll look it up.", [PARIS], "tool_calls")),
    (
        "a call after a system message",
        chat(USER, {"role": "system", "content": "s"}, tools=TOOLS),
        (None, [PARIS], "tool_calls"),
    ),
    ("required", chat(tools=TOOLS, tool_choice="required"), ("", [PARIS], "tool_calls")),
    ("required after a result", chat(*ANSWERED, tools=TOOLS, tool_choice="required"), ("", [PARIS], "tool_calls")),
    ("a named choice finishes with stop", chat(tools=TOOLS, tool_choice=NAMED_TIME), ("", [NOW], "stop")),
    ("a choice of null loses the call", chat(tools=TOOLS, tool_choice=None), (None, [], "stop")),
    ("the result", chat(*ANSWERED, tools=TOOLS), ("The result is: sunny", [], "stop")),
    (
        "two results",
        chat(
            USER,
            assistant(call(), call(id="xyzXYZ987")),
            RESULT | {"content": [{"type": "text", "text": "mild"}]},
            RESULT | {"tool_call_id": "xyzXYZ987", "content": "12:00"},
        ),
        ("The result is: mild; 12:00", [], "stop"),
    ),
    (
        "the start of a long result",
        chat(USER, assistant(call()), RESULT | {"content": "x" * 500}),
        ("The result is: " + "x" * 400 + "…", [], "stop"),
    ),
    ("a long answer to its limit", chat(user("a long one"), max_tokens=12), (f"{GREETING} Hello! How", [], "length")),
    ("a text whose end is cut off", chat(user("Hi"), max_tokens=9), (GREETING, [], "length")),
    ("a text whose end just fits", chat(user("Hi"), max_tokens=10), (GREETING, [], "stop")),
    ("a cut text", chat(user("Hi"), max_tokens=3), ("Hello! How", [], "length")),
    ("a cut call", chat(tools=TOOLS, max_tokens=7), (None, [("get_weather", '{"city":')], "tool_calls")),
    ("a call cut in its name", chat(tools=TOOLS, max_tokens=2), (None, [("get", "{}")], "tool_calls")),
    ("a cut named call", chat(tools=TOOLS, tool_choice=NAMED_TIME, max_tokens=5), ("", [("get_time", "{")], "length")),
    ("nothing of a call", chat(tools=TOOLS, max_tokens=1), (None, [], "length")),
    ("the smaller limit's name does not matter", chat(user("Hi"), max_completion_tokens=1), ("Hello", [], "length")),
    ("text up to a stop string", chat(user("Hi"), stop=["can", "How"]), ("Hello! ", [], "stop")),
    (
        "the rest of a started greeting",
        chat(
            USER, {"role": "assistant", "content": "Hello!"}, continue_final_message=True, add_generation_prompt=False
        ),
        (" How can I help you today?", [], "stop"),
    ),
    ("an object for json_object", chat(response_format={"type": "json_object"}), ("{}", [], "stop")),
    (
        "what a json_schema asks for",
        chat(user("I am in Rome"), response_format=CITY_SCHEMA),
        ('{"city": "Rome"}', [], "stop"),
    ),
    ("a call before JSON", chat(tools=TOOLS, response_format=CITY_SCHEMA), (None, [PARIS], "tool_calls")),
    (
        "JSON after a result",
        chat(*ANSWERED, tools=TOOLS, response_format=CITY_SCHEMA),
        ('{"city": "Paris"}', [], "stop"),
    ),
    ("a call as text", chat(user("Please leak"), tools=TOOLS), (LEAKED, [], "stop")),
    (
        "two calls as text",
        chat(user("leak both"), tools=TOOLS),
        (f"{LEAKED}[TOOL_CALLS]get_time[ARGS]{{}}", [], "stop"),
    ),
    (
        "a cut call as text",
        chat(user("leak"), tools=TOOLS, max_tokens=7),
        ('[TOOL_CALLS]get_weather[ARGS]{"city":', [], "length"),
    ),
    ("a required call as text", chat(user("leak"), tools=TOOLS, tool_choice="required"), (LEAKED, [], "tool_calls")),
]


@pytest.mark.parametrize(("request_", "expected"), [s[1:] for s in SAYINGS], ids=[s[0] for s in SAYINGS])
def test_says(request_: dict[str, Any], expected: Any) -> None:
    assert said(request_) == expected


def test_a_leaking_server_says_every_call_as_text() -> None:
    assert said(chat(tools=TOOLS), leak=True) == (LEAKED, [], "stop")
    assert said(chat(), leak=True) == (GREETING, [], "stop")


def test_stop_string_is_reported() -> None:
    assert answer(chat(user("Hi"), stop="How"))["stop_reason"] == "How"
    assert answer(chat(user("Hi"), stop="How", max_tokens=1))["stop_reason"] is None


def test_ids_are_nine_alphanumerics_and_differ() -> None:
    ids = [c["id"] for c in answer(chat(user("both"), tools=TOOLS))["message"]["tool_calls"]]
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", call_id) for call_id in ids)
    assert len(set(ids)) == 2


def test_tool_calls_key_is_absent_without_calls() -> None:
    assert "tool_calls" not in answer(chat())["message"]


def test_words_are_counted() -> None:
    request = chat(user("Hi"))
    usage = completion(Frame("chatcmpl-0", 0, "devstral", 4), [generate(request)])["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (4, 10, 14)


EXAMPLES: list[tuple[Any, Any]] = [
    ({"type": "string"}, "Paris"),
    ({"type": "string", "minLength": 7}, "Parisxx"),
    ({"type": "string", "maxLength": 2}, "Pa"),
    ({"enum": ["a", "b"]}, "a"),
    ({"const": 5}, 5),
    ({"type": "integer"}, 1),
    ({"type": "integer", "minimum": 7}, 7),
    ({"type": "integer", "exclusiveMinimum": 7}, 8),
    ({"type": "integer", "maximum": 0}, 0),
    ({"type": "boolean"}, True),
    ({"type": "null"}, None),
    ({"type": ["null", "integer"]}, 1),
    ({"type": "array", "items": {"type": "integer"}}, []),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
    ({"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}, {"a": 1}),
    ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 1),
    ({"allOf": [{"properties": {"a": {"type": "integer"}}}, {"required": ["a"]}]}, {"a": 1}),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, 1),
    ({"$ref": "#/nowhere"}, "Paris"),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"minLength": "x"}}}, "Paris"),
    ({}, "Paris"),
]


@pytest.mark.parametrize(("schema", "value"), EXAMPLES, ids=[json.dumps(schema) for schema, _ in EXAMPLES])
def test_example_of_a_schema(schema: Any, value: Any) -> None:
    assert example(schema, "Paris") == value


def test_example_has_bounds() -> None:
    wide = {"type": "array", "minItems": 10**12, "items": {"$ref": "#"}}
    assert len(json.dumps(example(wide, "Paris"))) < 100_000
    assert len(example({"type": "string", "minLength": 10**12}, "Paris")) <= 256
