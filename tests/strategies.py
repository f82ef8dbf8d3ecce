"""
Random chat requests of the kinds that clients really send, for Hypothesis.

`chat_requests()` draws requests that must all be translated: every oddity in here was recorded from a client or is
named by a rule. Left out on purpose is what must be refused (unknown roles, content that is a number, a choice of a
tool that is not offered) and pictures, which a text model refuses.
"""

import json
from typing import Any

from hypothesis import strategies as st

#: Words that mean something to a Mistral tokenizer, a template or a rule, and text that is nearly nothing.
_ODD_TEXTS = (
    "",
    " ",
    "\n",
    "[TOOL_CALLS]",
    "[INST] hi [/INST]",
    "</s>",
    "null",
    "{}",
    "é",
    "日本",
    "👋",
    "a\x00b",
    "\u2028",
)
_PLAIN = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
texts = st.sampled_from(_ODD_TEXTS) | _PLAIN

#: A small pool, so that ids meet: valid ones, OpenAI's, Anthropic's, vLLM's, a shortened one, equal tails, none.
_IDS = (
    "abcDEF123", "xyzXYZ987", "call_abc123XYZ", "call_0", "call_1", "toolu_01VpEm654HvfMoRcrE3Hgdc6",
    "chatcmpl-tool-0123456789abcdef", "chatcmplt", "one-samesame1", "two-samesame1", "1", "id with space", "аппп9",
    "", "null", None,
)  # fmt: skip
ids = st.sampled_from(_IDS)

_NAMES = ("get_weather", "get_time", "mcp.server/tool", "a" * 70, "get weather", "météo", "", "mcp_server_tool")
names = st.sampled_from(_NAMES)

_ARGUMENTS = (
    "{}", '{"city": "Paris"}', '{"city":', '{"a": 1,}', '{"a": "b"} and more', "", " ", "null", "[1]", '"{\\"a\\": 1}"',
    "not json", None, {"city": "Paris"}, {}, [1], 5,
)  # fmt: skip
arguments = st.sampled_from(_ARGUMENTS)


def _parts(*, refusals: bool = False) -> st.SearchStrategy[Any]:
    typed = st.sampled_from(("text", "input_text", "output_text")).flatmap(
        lambda kind: st.fixed_dictionaries({"type": st.just(kind), "text": texts})
    )
    cached = texts.map(lambda text: {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}})
    refusal = texts.map(lambda text: {"type": "refusal", "refusal": text})
    return st.lists(st.one_of(typed, cached, texts, *([refusal] if refusals else [])), max_size=3)


def _keys(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A dictionary in which each of the keys may be missing."""
    return st.fixed_dictionaries({}, optional=keys)


def _message(role: str, required: dict[str, Any], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries({"role": st.just(role), **required}, optional=optional)


_content = texts | _parts() | st.none()
_speaker = st.sampled_from(("user", "model", None))

systems = st.sampled_from(("system", "developer")).flatmap(lambda role: _message(role, {"content": _content}))
users = _message("user", {"content": _content}, name=_speaker)

calls = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": names}, optional={"arguments": arguments})},
    optional={"id": ids, "type": st.just("function"), "index": st.integers(0, 2), "parsed": st.none()},
)
_assistant_extras = {
    "refusal": st.none() | texts,
    "audio": st.none(),
    "name": _speaker,
    "function_call": st.none(),
    "reasoning_content": st.none() | texts,
    "reasoning": texts,
    "provider_specific_fields": st.just({"refusal": None}),
    "prefix": st.just(False),
}
speakers = _message(
    "assistant",
    {},
    content=texts | _parts(refusals=True) | st.none(),
    tool_calls=st.none() | st.just([]),
    **_assistant_extras,
)
callers = _message(
    "assistant",
    {"tool_calls": st.lists(calls, min_size=1, max_size=3)},
    content=texts | _parts() | st.none(),
    **_assistant_extras,
)
legacy_callers = _message(
    "assistant",
    {"function_call": st.fixed_dictionaries({"name": names, "arguments": arguments})},
    content=st.none(),
)
results = _message("tool", {}, content=_content, tool_call_id=ids, name=names | st.none())
legacy_results = _message("function", {"content": texts, "name": names})

any_message = st.one_of(systems, users, speakers, callers, results, legacy_callers, legacy_results)


@st.composite
def tool_turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A turn as an agent plays it, then played badly: results swapped, lost, doubled, interrupted, calls split."""
    caller = draw(callers)
    given = [call.get("id") for call in caller["tool_calls"]]
    answers = [draw(results) | {"tool_call_id": id_} for id_ in given]
    answers = draw(st.permutations(answers)) + draw(st.lists(st.sampled_from(answers), max_size=1))
    answers = answers[: draw(st.integers(0, len(answers)))]
    asked = [caller]
    if draw(st.booleans()):
        asked = [caller | {"tool_calls": [call]} for call in caller["tool_calls"]]
    between = draw(st.lists(st.one_of(users, systems, speakers), max_size=1))
    return [*asked, *between, *answers] if draw(st.booleans()) else [*asked, *answers, *between]


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A conversation: plausible turns, or messages in any order at all."""
    if draw(st.booleans()):
        return draw(st.lists(any_message, min_size=1, max_size=8))
    turns = draw(st.lists(tool_turns() | st.lists(st.one_of(users, speakers, systems), max_size=2), max_size=4))
    opening = draw(st.lists(systems, max_size=2))
    messages = [*opening, *(message for turn in turns for message in turn), *draw(st.lists(users, max_size=2))]
    return messages or [draw(users)]


_schemas = st.sampled_from((
    {"type": "object", "properties": {}},
    {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "exclusiveMinimum": True}}},
    {"type": "object", "properties": {"a": {"type": "string", "required": True}, "b": {"type": "objekt"}}},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "properties": {"a": {"$ref": "#/$defs/A"}}},
    {"type": "object", "properties": {"a": {"type": "string", "nullable": True, "enum": ["x", None]}}},
    None, "x", {},
))  # fmt: skip
_functions = st.fixed_dictionaries(
    {"name": st.sampled_from([name for name in _NAMES if name])},
    optional={"description": st.none() | texts, "parameters": _schemas, "strict": st.sampled_from((True, False, None))},
)
tools = st.one_of(
    _functions.map(lambda function: {"type": "function", "function": function}),
    _functions.map(lambda function: {"function": function, "cache_control": {"type": "ephemeral"}}),
    _functions.map(lambda function: {"type": "function", **function}),
    names.filter(bool).map(lambda name: {"type": "custom", "custom": {"name": name, "description": "free text"}}),
    st.just({"type": "web_search"}),
)

_parameters = _keys(
    max_tokens=st.sampled_from((-1, 0, 1, 100)),
    temperature=st.sampled_from((0, 0.2, 1, None)),
    top_p=st.sampled_from((0, 0.5, 1, None)),
    stop=st.sampled_from(("", [], [""], ["x"], None)),
    n=st.just(None),
    seed=st.just(1),
    top_logprobs=st.just(2),
    stream=st.sampled_from((True, False, None)),
    stream_options=st.sampled_from(({"include_usage": True}, None)),
    parallel_tool_calls=st.sampled_from((True, False, None)),
    reasoning_effort=st.sampled_from(("low", "high", "xhigh", None)),
    chat_template_kwargs=st.just({"enable_thinking": False}),
    store=st.just(False),
    user=st.just("u"),
)


@st.composite
def chat_requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request that must be translated, and accepted when it is."""
    request = {"model": "devstral", "messages": draw(histories()), **draw(_parameters)}
    offered = draw(st.lists(tools, max_size=3) | st.none())
    if offered is not None or draw(st.booleans()):
        request["tools"] = offered
    choice = draw(st.sampled_from(("absent", "auto", "none", "required", "any", None)) | _named_choices(offered))
    request |= {} if choice == "absent" else {"tool_choice": choice}
    return json.loads(json.dumps(request))  # parts drawn twice are two objects, as in a body


def _named_choices(offered: list[dict[str, Any]] | None) -> st.SearchStrategy[Any]:
    functions = [tool.get("function", tool) for tool in offered or () if tool.get("type", "function") == "function"]
    if not functions:
        return st.just("absent")
    return st.sampled_from(functions).flatmap(
        lambda function: st.sampled_from((
            {"type": "function", "function": {"name": function["name"]}},
            {"type": "function", "name": function["name"]},
        ))
    )  # fmt: skip


def body_of(request: dict[str, Any]) -> bytes:
    return json.dumps(request, ensure_ascii=False).encode()
