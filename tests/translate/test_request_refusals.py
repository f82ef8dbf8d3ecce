"""What is refused, with which JSON path, and that a refusal never quotes what was said."""

import json

import pytest

from proxy.errors import InvalidRequest
from proxy.translate.profile import OPERATOR_RULES, PROFILE_NAMES, build_profile
from proxy.translate.request import translate_request

VLLM, TEMPLATE, HOSTED, PASSTHROUGH = (build_profile(name) for name in PROFILE_NAMES)

every_profile = pytest.mark.parametrize("profile", [VLLM, TEMPLATE, HOSTED], ids=PROFILE_NAMES[:3])
every_profile_at_all = pytest.mark.parametrize("profile", [VLLM, TEMPLATE, HOSTED, PASSTHROUGH], ids=PROFILE_NAMES)

SECRET = "correct horse battery staple"
USER = {"role": "user", "content": SECRET}


def refusal(body, profile=VLLM, *, strict=False):
    with pytest.raises(InvalidRequest) as refused:
        translate_request(body if isinstance(body, bytes) else json.dumps(body).encode(), profile, strict=strict)
    return refused.value


def chat(*messages, **members):
    return {"model": "devstral", "messages": list(messages), **members}


def nested(depth, inside=b"1"):
    return b"[" * depth + inside + b"]" * depth


def chat_with_a_schema_of(levels):
    schema = b'{"title":null,"properties":{"a":' * levels + b"{}" + b"}}" * levels
    return (
        b'{"messages":[{"role":"user","content":"Hi"}],"tools":'
        b'[{"type":"function","function":{"name":"f","parameters":' + schema + b"}}]}"
    )


#: name, body, param: what no profile can send anywhere
NO_REQUEST = {
    "nothing": (b"", "$"),
    "white space": (b" \n", "$"),
    "no JSON": (b"messages=hello", "$"),
    "cut": (b'{"messages": [{"role": "user", "content": "' + SECRET.encode(), "$"),
    "two values": (b'{"messages": []} {}', "$"),
    "a list": (b"[]", "$"),
    "a string": (b'"hello"', "$"),
    "null": (b"null", "$"),
    "NaN": (b'{"messages": [{"role": "user", "content": "Hi"}], "temperature": NaN}', "$"),
    "Infinity": (b'{"messages": [{"role": "user", "content": "Hi"}], "temperature": -Infinity}', "$"),
    "a lone surrogate": (b'{"messages": [{"role": "user", "content": "\\ud800 Hi"}]}', "$"),
    "a lone low surrogate": (b'{"messages": [{"role": "user", "content": "\\udc00 Hi"}]}', "$"),
    "invalid UTF-8": (b'{"messages": [{"role": "user", "content": "\xff"}]}', "$"),
    "UTF-16": ('{"messages": [{"role": "user", "content": "Hi"}]}'.encode("utf-16"), "$"),
    "a byte order mark": (b'\xef\xbb\xbf{"messages": [{"role": "user", "content": "Hi"}]}', "$"),
    "a raw control character": (b'{"messages": [{"role": "user", "content": "a\x01b"}]}', "$"),
    "200,000 levels": (b'{"messages": ' + nested(200_000) + b"}", "$"),
    "200,000 levels in another member": (
        b'{"messages": [{"role": "user", "content": "Hi"}], "x": ' + nested(200_000) + b"}",
        "$",
    ),
    "a key twice": (b'{"messages": [{"role": "user", "content": "Hi"}], "stream": true, "stream": false}', "$"),
    "a key twice, compact": (b'{"n":10,"n":1,"model":"m","messages":[{"role":"user","content":"Hi"}],"a":1}', "$"),
    "a key twice, once escaped": (b'{"n": 10, "\\u006e": 1, "messages": [{"role": "user", "content": "Hi"}]}', "$"),
    "a key twice beside a very long number": (b'{"n":1,"n":1,"seed":' + b"1" * 5000 + b',"messages":[]}', "$"),
    "a role twice": (b'{"messages": [{"role": "user", "content": "Hi", "role": "system"}]}', "messages[0]"),
    "a content twice": (
        b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": "a", "content": "b"}]}',
        "messages[1]",
    ),
    "no messages": (b'{"model": "devstral"}', "messages"),
    "messages null": (b'{"messages": null}', "messages"),
    "messages empty": (b'{"messages": []}', "messages"),
    "messages a string": (b'{"messages": "Hi"}', "messages"),
    "messages an object": (b'{"messages": {"role": "user", "content": "Hi"}}', "messages"),
    "a model that is a number": (b'{"model": 5, "messages": [{"role": "user", "content": "Hi"}]}', "model"),
    "a model that is true": (b'{"model": true, "messages": [{"role": "user", "content": "Hi"}]}', "model"),
    "a stream that is a word": (b'{"messages": [{"role": "user", "content": "Hi"}], "stream": "maybe"}', "stream"),
    "a stream that is a list": (b'{"messages": [{"role": "user", "content": "Hi"}], "stream": []}', "stream"),
    "a stream that is two": (b'{"messages": [{"role": "user", "content": "Hi"}], "stream": 2}', "stream"),
}


@every_profile_at_all
@pytest.mark.parametrize(("body", "param"), NO_REQUEST.values(), ids=NO_REQUEST)
def test_what_is_no_request_is_refused_at_its_place(profile, body, param):
    refused = refusal(body, profile)

    assert (refused.status, refused.kind, refused.param) == (400, "invalid_request_error", param)
    assert SECRET not in refused.message


CALL = {"id": "abcDEF123", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

#: name, request, param: what a profile that translates cannot make sense of
NO_SENSE = {
    "a message that is a string": (chat(USER, "Hi"), "messages[1]"),
    "a message that is null": (chat(None), "messages[0]"),
    "a message that is a list": (chat([]), "messages[0]"),
    "no role": (chat({"content": SECRET}), "messages[0].role"),
    "a role that is null": (chat(USER, {"role": None, "content": SECRET}), "messages[1].role"),
    "a role that is a list": (chat({"role": ["user"], "content": SECRET}), "messages[0].role"),
    "an unknown role": (chat(USER, {"role": "narrator", "content": SECRET}), "messages[1].role"),
    "content that is a number": (chat({"role": "user", "content": 5}), "messages[0].content"),
    "content that is an object": (chat({"role": "user", "content": {"text": SECRET}}), "messages[0].content"),
    "content that is false": (chat({"role": "system", "content": False}), "messages[0].content"),
    "content that is a number beside calls": (
        chat(USER, {"role": "assistant", "content": 5, "tool_calls": [CALL]}),
        "messages[1].content",
    ),
    "a part that is a number": (chat({"role": "user", "content": [{"type": "text", "text": SECRET}, 5]}),
                                "messages[0].content[1]"),
    "a part whose text is an object": (
        chat({"role": "user", "content": [{"type": "text", "text": {"value": SECRET}}]}),
        "messages[0].content[0].text",
    ),
    "calls that are a string": (chat(USER, {"role": "assistant", "tool_calls": "f"}), "messages[1].tool_calls"),
    "a call that is a string": (chat(USER, {"role": "assistant", "tool_calls": [CALL, "f"]}),
                                "messages[1].tool_calls[1]"),
    "tools that are an object": (chat(USER, tools=TOOL), "tools"),
    "a tool that is a string": (chat(USER, tools=[TOOL, "f"]), "tools[1]"),
    "a tool without a name": (chat(USER, tools=[{"type": "function", "function": {}}]), "tools[0].function.name"),
    "a tool whose name is a number": (chat(USER, tools=[{"type": "function", "function": {"name": 5}}]),
                                      "tools[0].function.name"),
    "a tool without a function": (chat(USER, tools=[TOOL, {"type": "function"}]), "tools[1].function"),
    "a choice that is a name": (chat(USER, tools=[TOOL], tool_choice="f"), "tool_choice"),
    "a choice that is a number": (chat(USER, tools=[TOOL], tool_choice=1), "tool_choice"),
    "a choice that is empty": (chat(USER, tools=[TOOL], tool_choice={}), "tool_choice"),
    "a choice of a foreign kind": (chat(USER, tools=[TOOL], tool_choice={"type": "mcp"}), "tool_choice"),
    "a choice without a name": (chat(USER, tools=[TOOL], tool_choice={"type": "function"}),
                                "tool_choice.function.name"),
    "a choice of what is not offered": (
        chat(USER, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
        "tool_choice.function.name",
    ),
    "only tools allowed that are not offered": (
        chat(USER, tools=[TOOL], tool_choice={"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]}),
        "tool_choice",
    ),
    "an allowed mode that is none": (
        chat(USER, tools=[TOOL], tool_choice={"type": "allowed_tools", "mode": "f",
                                              "tools": [{"type": "function", "name": "f"}]}),
        "tool_choice",
    ),
    "a schema of hundreds of levels": (chat_with_a_schema_of(480), "$"),
    "a number out of range": (
        b'{"messages": [{"role": "user", "content": "Hi"}], "top_p": 1e999}', "top_p",
    ),
    "a number of 5,000 digits": (
        b'{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": ' + b"1" * 5000 + b"}", "max_tokens",
    ),
    "a number out of range in a message": (
        b'{"messages": [{"role": "user", "content": "Hi", "x": 1e999}]}', "messages[0]",
    ),
    "a number out of range in a tool": (
        b'{"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function", "x": 1e999}]}', "tools[0]",
    ),
}  # fmt: skip


@every_profile
@pytest.mark.parametrize(("request_", "param"), NO_SENSE.values(), ids=NO_SENSE)
def test_what_makes_no_sense_is_refused_at_its_place(profile, request_, param):
    refused = refusal(request_, profile)

    assert (refused.status, refused.param) == (400, param)
    assert SECRET not in refused.message


def test_an_unknown_role_is_named():
    assert "narrator" in refusal(chat({"role": "narrator", "content": SECRET})).message


@every_profile_at_all
@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}, {"model": "x"}])
def test_a_model_may_be_left_to_the_server(profile, model):
    body = json.dumps({**model, "messages": [USER]}).encode()

    assert translate_request(body, profile).model == (model.get("model") or "")


@pytest.mark.parametrize("number", [b"1" * 5000, b"1e999", b"-0", b"123456789012345678901234567890", b"1e5"])
@pytest.mark.parametrize("profile", [VLLM, TEMPLATE, PASSTHROUGH])
def test_a_member_that_no_rule_reads_goes_on_as_it_came(profile, number):
    body = b'{"messages": [{"role": "user", "content": "Hi"}], "unknown": ' + number + b"}"

    assert b'"unknown":' + number + b"}" in translate_request(body, profile).body.replace(b": ", b":")


# --- strict mode


def strict_cases():
    late_result = [{"role": "tool", "tool_call_id": "abcDEF123", "content": "1"}, {"role": "assistant", "content": "x"}]
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    return {
        "a role": (chat(USER, {"role": "developer", "content": SECRET}), "developer_to_system", "messages[1].role"),
        "the first of two": (
            chat(USER, {"role": "assistant", "content": "a", "name": "x"}, {"role": "developer", "content": "b"}),
            "known_keys_only",
            "messages[1].name",
        ),
        "an id": (
            chat(USER, called | {"tool_calls": [CALL | {"id": "call_x"}]}, late_result[0] | {"tool_call_id": "call_x"}),
            "nine_char_tool_ids",
            "messages[1].tool_calls[0].id",
        ),
        "arguments": (
            chat(USER, called | {"tool_calls": [CALL, CALL | {"function": {"name": "f", "arguments": "{"}}]}),
            "arguments_repaired",
            "messages[1].tool_calls[1].function.arguments",
        ),
        "a part": (
            chat({"role": "user", "content": ["a", {"type": "input_text", "text": SECRET}]}),
            "known_part_names",
            "messages[0].content[0]",
        ),
        "a late result": (
            chat(USER, called, USER, *late_result, USER),
            "results_follow_their_calls",
            "messages[2]",
        ),
        "a missing result": (chat(USER, called, USER), "missing_result_to_text", "messages[1].tool_calls[0]"),
        "an orphan": (chat(USER, USER, late_result[0]), "orphan_result_to_user_text", "messages[2]"),
        "a tool": (chat(USER, tools=[TOOL, {"type": "mcp"}]), "foreign_tool_removed", "tools[1]"),
        "a tool's name": (
            chat(USER, tools=[TOOL, {"type": "function", "function": {"name": "a.b", "parameters": {}}}]),
            "legal_tool_names",
            "tools[1].function.name",
        ),
        "a schema": (
            chat(USER, tools=[{"type": "function", "function": {"name": "f", "parameters": {"$schema": "x"}}}]),
            "schema_to_draft7",
            "tools[0].function.parameters",
        ),
        "a parameter": (chat(USER, top_p=0), "zero_top_p_removed", "top_p"),
        "legacy functions": (chat(USER, functions=[{"name": "f"}]), "functions_to_tools", "functions"),
        "the last message": (
            chat(USER, {"role": "assistant", "content": "x"}),
            "user_after_trailing_assistant",
            "messages[1]",
        ),
    }


@pytest.mark.parametrize(("request_", "rule", "param"), strict_cases().values(), ids=strict_cases())
def test_strict_mode_names_the_rule_and_the_place_in_the_clients_own_count(request_, rule, param):
    refused = refusal(request_, strict=True)

    assert refused.message.startswith(f"Refused in strict mode by {rule}: ")
    assert (refused.status, refused.param) == (400, param)
    assert SECRET not in refused.message


def test_strict_mode_lets_the_operator_have_their_way():
    overrides = {"param_set": {"top_k": 5}, "param_drop": ("user",), "default_temperature": 0.15}
    profile = build_profile(PROFILE_NAMES[0], overrides)

    translated = translate_request(json.dumps(chat(USER, user="u")).encode(), profile, strict=True)

    assert json.loads(translated.body) == chat(USER, temperature=0.15, top_k=5)
    assert set(translated.rules_applied) == {rule.__name__ for rule in OPERATOR_RULES}
