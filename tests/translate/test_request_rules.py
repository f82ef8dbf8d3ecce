"""Properties of the rules as a set: names, documentation, ids, untouched bytes, and what the answer is told."""

import copy
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.translate.expectation import Expectation
from proxy.translate.profile import CHAT_RULES, MESSAGE_RULES, PROFILE_NAMES, Choice, build_profile
from proxy.translate.request import translate_request
from proxy.translate.tool_ids import nine_char_id
from proxy.wire.tool import is_canonical_schema
from tests.translate.test_request_golden import NAMES, sent

VLLM, TEMPLATE, HOSTED, PASSTHROUGH = (build_profile(name) for name in PROFILE_NAMES)
RULES = {rule for e in (*MESSAGE_RULES, *CHAT_RULES) for rule in (e.rules.values() if isinstance(e, Choice) else (e,))}
USER = {"role": "user", "content": "Hi"}


def translated(profile=VLLM, **members):
    return translate_request(json.dumps({"model": "devstral", "messages": [USER], **members}).encode(), profile)


# --- the rules themselves


@pytest.mark.parametrize("rule", sorted(RULES, key=lambda rule: rule.__name__), ids=lambda rule: rule.__name__)
def test_a_rule_says_in_one_sentence_what_differs_and_cites_its_number(rule):
    first = rule.__doc__.strip().partition("\n")[0]

    assert re.search(r" \([QH]\d+(?:, [QH]\d+)*\)\.$", first)


def test_every_rule_has_a_name_of_its_own():
    assert len({rule.__name__ for rule in RULES}) == len(RULES)


def test_no_rule_is_listed_twice_under_one_condition():
    for table in (MESSAGE_RULES, CHAT_RULES):
        listed = [
            (name, value, rule.__name__)
            for entry in table
            for name, value, rule in (
                ((entry.option, value, rule) for value, rule in entry.rules.items())
                if isinstance(entry, Choice)
                else [("", "", entry)]
            )
        ]
        assert len(listed) == len(set(listed))


# --- tool-call ids


@pytest.mark.parametrize(
    ("raw", "wire"),
    [
        ("call_0", "MwuYhcGJw"),
        ("call_1", "rJ53UQlhG"),
        ("toolu_01VpEm654HvfMoRcrE3Hgdc6", "ksaz9quGk"),
        ("chatcmpl-tool-0123456789abcdef", "9QaGsc9zl"),
        ("call_31886172-c376-4cae-85d6-88ca25b15ed3", "oaQGP0Ufi"),
        ("fc_05171dc28f1341080068e93a6ad15481", "yyB37y2Lt"),
        ("aB3dE6gH9", "aB3dE6gH9"),
        ("call_abc123XYZ", "abc123XYZ"),
    ],
)
def test_an_id_has_one_wire_id_everywhere_and_forever(raw, wire):
    assert nine_char_id(raw) == wire


@given(raw=st.text())
def test_a_wire_id_is_nine_letters_or_digits_and_its_own_wire_id(raw):
    wire = nine_char_id(raw)

    assert re.fullmatch("[A-Za-z0-9]{9}", wire)
    assert nine_char_id(wire) == wire


def test_ids_that_meet_on_the_wire_are_told_apart():
    """Two calls whose ids have one wire id: only a client that knows the digest can do that."""
    ids = ["call_0", "MwuYhcGJw", "call_aB3dE6gH9", "aB3dE6gH9"]
    calls = [{"id": id_, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id_ in ids]
    results = [{"role": "tool", "tool_call_id": id_, "content": id_} for id_ in ids]

    for profile in (VLLM, build_profile(PROFILE_NAMES[0], {"id_mode": "keep"})):
        wire = json.loads(
            translated(profile, messages=[USER, {"role": "assistant", "tool_calls": calls}, *results]).body
        )
        called, *answers = wire["messages"][1:]
        assert [call["id"] for call in called["tool_calls"]] == [answer["tool_call_id"] for answer in answers]
        assert len({call["id"] for call in called["tool_calls"]}) == len(ids)
        assert [answer["content"] for answer in answers] == ids


# --- untouched bytes


def test_what_no_rule_touches_goes_out_byte_for_byte():
    """Odd spacing, escapes, key order and numbers: all of it is the client's and none of it is in the way."""
    messages = [
        b'{ "content" : "\\u0042e brief\\/", "role":"system"}',
        b'{"role": "user",  "content": "Gr\xc3\xbc\xc3\x9fe"}',
        b'{"tool_calls": [{"function": {"arguments": "{\\"a\\":  1.0}", "name": "f"}, "id": "abcDEF123",'
        b' "type": "function"}], "role": "assistant", "content": "\\n"}',
        b'{"role":"tool","content":"","tool_call_id":"abcDEF123"}',
    ]
    tools = [
        b'{"function": {"parameters": {"properties": {"a": {"enum": [1.0, 1e5], "type": "number"}},'
        b' "type": "object"}, "name": "f"}, "type": "function"}',
        b'{"type":"function","function":{"name":"g","parameters":{"type":"string","pattern":"^[a-z]+$"}}}',
    ]
    body = b'{"messages": [%s], "tools": [%s], "seed":  1e1}' % (b", ".join(messages), b",".join(tools))

    out = translate_request(body, VLLM)

    assert out.rules_applied == ()
    assert out.body == b'{"messages":[%s],"tools":[%s],"seed":1e1}' % (b",".join(messages), b",".join(tools))


def test_a_rule_on_one_message_leaves_its_neighbours_bytes_alone():
    before, after = b'{"role": "user",  "content": "a"}', b'{"content":"c", "role":"user"}'
    body = b'{"messages": [%s, {"role": "user", "content": ["b"]}, %s]}' % (before, after)

    out = translate_request(body, VLLM).body

    assert out == b'{"messages":[%s,{"role":"user","content":"b"},%s]}' % (before, after)


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from([1.5, "string", "objekt", "a", "["]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from([
            *("type", "properties", "required", "items", "anyOf", "enum", "pattern", "minLength", "multipleOf", "not"),
            *("nullable", "$id", "exclusiveMinimum", "patternProperties", "dependencies", "title", "$ref", "x"),
        ]),
        inner, max_size=3),
    max_leaves=12,
).filter(lambda value: isinstance(value, dict)))  # fmt: skip
@settings(max_examples=300, derandomize=True, deadline=None)
def test_a_schema_is_cleaned_once_and_a_clean_one_goes_out_as_it_came(parameters):
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    once = translated(tools=[tool])

    twice = translate_request(once.body, VLLM)

    assert (twice.body, twice.rules_applied) == (once.body, ())
    if is_canonical_schema(parameters):
        assert json.dumps(tool).encode() in once.body


# --- what the answer is told


def expectation(profile=VLLM, **members) -> Expectation:
    return translated(profile, **members).expectation


def function(name, **more):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}, **more}}


def test_the_answer_knows_what_the_client_calls_its_tools():
    tools = [function("get_time"), function("a.b"), {"type": "custom", "custom": {"name": "p/q"}}, {"type": "mcp"}]

    told = expectation(tools=tools)

    assert list(told.tool_names.values()) == ["get_time", "a.b", "p/q"]
    assert [told.tool_names[name] for name in told.custom_tools] == ["p/q"]
    assert json.loads(translated(tools=tools).body)["tools"][1]["function"]["name"] in told.tool_names


@pytest.mark.parametrize(
    ("members", "choice"),
    [
        ({}, "none"),
        ({"tools": []}, "none"),
        ({"tools": [function("f")]}, "auto"),
        ({"tools": [function("f")], "tool_choice": None}, "auto"),
        ({"tools": [function("f")], "tool_choice": "any"}, "required"),
        ({"tools": [function("f")], "tool_choice": "required"}, "required"),
        ({"tools": [function("f")], "tool_choice": "none"}, "none"),
        ({"tools": [function("f")], "tool_choice": {"type": "function", "name": "f"}}, "named"),
    ],
)
@pytest.mark.parametrize("profile", [VLLM, TEMPLATE, HOSTED])
def test_the_answer_knows_what_was_chosen(profile, members, choice):
    assert expectation(profile, **members).tool_choice == choice


@pytest.mark.parametrize("profile", [VLLM, TEMPLATE, HOSTED])
@pytest.mark.parametrize(
    ("options", "wanted"), [({"include_usage": True}, True), ({"include_usage": False}, False), (None, False)]
)
def test_the_answer_knows_whether_the_client_wants_usage(profile, options, wanted):
    assert expectation(profile, stream=True, stream_options=options).usage_wanted is wanted


@pytest.mark.parametrize(
    ("members", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7, "max_tokens": 5}, 7),
        ({"max_tokens": 0}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "5"}, None),
        ({"max_tokens": 1e3}, 1000),  # vLLM takes it
        ({"max_tokens": 1.5}, None),
        ({"max_tokens": 10**400}, 2**53),
    ],
)
@pytest.mark.parametrize("profile", [VLLM, HOSTED])
def test_the_answer_knows_the_limit(profile, members, limit):
    assert expectation(profile, **members).max_tokens == limit


def test_the_answer_knows_a_legacy_client():
    assert expectation(functions=[{"name": "f"}]).legacy_functions is True
    assert expectation(tools=[function("f")], functions=[{"name": "f"}]).legacy_functions is False


def test_the_answer_knows_the_prefix_that_the_hosted_api_will_repeat():
    messages = [USER, {"role": "assistant", "content": "Once upon", "prefix": True}]

    assert expectation(HOSTED, messages=messages).echoed_prefix == "Once upon"
    assert expectation(VLLM, messages=messages).echoed_prefix == ""
    assert expectation(HOSTED, messages=[*messages, USER]).echoed_prefix == ""


@pytest.mark.parametrize("profile", [VLLM, PASSTHROUGH])
@pytest.mark.parametrize(
    ("stream", "is_stream"),
    [(True, True), (False, False), (None, False), ("true", True), ("False", False), (1, True), (0, False)],
)
def test_a_stream_is_what_vllm_takes_for_one(profile, stream, is_stream):
    out = translated(profile, stream=stream)

    assert (out.stream, out.upstream_stream, out.expectation.stream) == (is_stream, is_stream, is_stream)


@pytest.mark.parametrize(
    ("mode", "tools", "upstream"),
    [
        ("same", [function("f")], True),
        ("never", [], False),
        ("never_with_tools", [], True),
        ("never_with_tools", [function("f")], False),
    ],
)
def test_the_upstream_may_be_asked_without_streaming(mode, tools, upstream):
    out = translated(build_profile(PROFILE_NAMES[0], {"upstream_stream": mode}), stream=True, tools=tools)

    assert (out.stream, out.upstream_stream, json.loads(out.body)["stream"]) == (True, upstream, upstream)


# --- any JSON anywhere

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2**64, 10**30, 1.5, 1e308, -0.0, "", " ", "null", "{}", "user", "tool", "text"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from(
        ["type", "text", "role", "content", "tool_calls", "function", "name", "arguments", "id", "image_url", "url"]
    ), inner, max_size=3),
)  # fmt: skip


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def put(value, path, new):
    """Return `value` with `new` at `path`."""
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = put(value[path[0]], path[1:], new)
    return value


_VALID = [json.loads(sent(name)) for name in NAMES]


@st.composite
def damaged(draw):
    """A request from the golden cases in which up to three values, anywhere, are something else."""
    request = draw(st.sampled_from(_VALID))
    for _ in range(draw(st.integers(1, 3))):
        request = put(request, draw(st.sampled_from(list(places(request)))), draw(_json))
    return request


OPTIONS = [
    {},
    {"reasoning_history": "keep", "flatten_text": False, "message_name": "prefix", "id_mode": "keep"},
    {"reasoning_history": "chunks", "legacy_v3": True, "orphan_results": "synthesize_call", "mid_system": "hoist"},
    {"invalid_args": "keep", "orphan_results": "drop", "schema_clean": "none", "downgrade_required": True},
]


@pytest.mark.parametrize("profile", PROFILE_NAMES[:3])
@settings(max_examples=700, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(request=damaged(), overrides=st.sampled_from(OPTIONS))
def test_any_json_gives_a_request_or_an_invalid_request(profile, request, overrides):
    chosen = build_profile(profile, overrides)
    try:
        once = translate_request(json.dumps(request).encode(), chosen)
    except InvalidRequest as refused:
        complaint = refused
    else:
        twice = translate_request(once.body, chosen)
        assert (twice.body, twice.rules_applied) == (once.body, ())
        return

    assert complaint.message
    assert complaint.param
