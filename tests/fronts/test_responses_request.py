"""A request to the Responses API becomes a chat: cases side by side, what is left out, and what is refused."""

import json

import pytest

from proxy.errors import InvalidRequest, PayloadTooLarge
from proxy.fronts.responses import Responses, client_param
from proxy.fronts.responses_rules import RESPONSES_RULES
from proxy.fronts.rewrites import reason_of
from proxy.translate.profile import PROFILE_NAMES, build_profile
from proxy.translate.request import translate_request

PROFILE = build_profile("vllm-mistral-tokenizer")
HI = {"role": "user", "content": "Hi"}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'}


def asked(body, *, strict=False):
    """Return the chat that `body` becomes, and the front's rules that changed something."""
    front = Responses("req_1")
    text = body if isinstance(body, bytes) else json.dumps({"model": "devstral"} | body).encode()
    return json.loads(front.request(text, strict=strict)), front.rules


def function(name, call_id="Ab1Cd2Ef3", arguments="{}"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def assistant(*calls, **fields):
    return {"role": "assistant", **fields} | ({"tool_calls": list(calls)} if calls else {})


def result(content, call_id="Ab1Cd2Ef3"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def called(name, call_id="Ab1Cd2Ef3", **more):
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": "{}"} | more


def returned(output, call_id="Ab1Cd2Ef3"):
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def spoken(text):
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}


#: The items of `input`, and the messages that they are.
CONVERSATIONS = {
    "text": ("Hi", [HI]),
    "messages without a type": ([HI, {"role": "assistant", "content": "Yes?"}, HI],
                                [HI, {"role": "assistant", "content": "Yes?"}, HI]),
    "one part is its text": ([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
                             [HI]),
    "parts stay parts": (
        [{"role": "developer", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
        [{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    ),
    "an image": (
        [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,", "detail": ""}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}],
    ),
    "text and a call are one message": ([HI, spoken("I look."), called("ls"), returned("x")],
                                        [HI, assistant(function("ls"), content="I look."), result("x")]),
    "two calls and their results": (
        [HI, called("a"), called("b", "Gh4Ij5Kl6"), returned("1"), returned("2", "Gh4Ij5Kl6")],
        [HI, assistant(function("a"), function("b", "Gh4Ij5Kl6")), result("1"), result("2", "Gh4Ij5Kl6")],
    ),
    "each call with its result": (
        [HI, called("a"), returned("1"), called("b", "Gh4Ij5Kl6"), returned("2", "Gh4Ij5Kl6")],
        [HI, assistant(function("a")), result("1"), assistant(function("b", "Gh4Ij5Kl6")), result("2", "Gh4Ij5Kl6")],
    ),
    "text after a call is left to the rules of the chat": (
        [HI, called("a"), spoken("Wait."), returned("1")],
        [HI, assistant(function("a")), {"role": "assistant", "content": "Wait."}, result("1")],
    ),
    "a result in parts": (
        [HI, called("a"),
         returned([{"type": "input_text", "text": "1"}, {"type": "input_image", "image_url": "data:x"}])],
        [HI, assistant(function("a")),
         result([{"type": "text", "text": "1"}, {"type": "image_url", "image_url": {"url": "data:x"}}])],
    ),
    "thoughts stand beside what was said": (
        [HI, {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}, spoken("Yes?")],
        [HI, assistant(reasoning="Hm.", content="Yes?")],
    ),
    "thoughts before a call": (
        [HI, {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}, called("a")],
        [HI, assistant(function("a"), reasoning="Hm.")],
    ),
    "thoughts are read before their summary": (
        [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "short"}],
          "content": [{"type": "reasoning_text", "text": "long"}]}, spoken("Yes?")],
        [assistant(reasoning="long", content="Yes?")],
    ),
    "a custom tool's input is its one argument": (
        [HI, {"type": "custom_tool_call", "call_id": "Ab1Cd2Ef3", "name": "patch", "input": 'say "x"'},
         {"type": "custom_tool_call_output", "call_id": "Ab1Cd2Ef3", "output": "ok"}],
        [HI, assistant(function("patch", arguments='{"input":"say \\"x\\""}')), result("ok")],
    ),
    "a command of the local shell": (
        [HI, {"type": "local_shell_call", "id": "lsh_1", "call_id": "Ab1Cd2Ef3", "status": "completed",
              "action": {"type": "exec", "command": ["ls"], "env": {}, "timeout_ms": 5, "user": None}},
         {"type": "local_shell_call_output", "id": "Ab1Cd2Ef3", "output": "x"}],
        [HI, assistant(function("local_shell", arguments='{"command":["ls"],"timeout_ms":5}')), result("x")],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "messages"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_the_items_of_a_conversation_are_messages(given, messages):
    chat, rules = asked({"input": given})

    assert chat == {"model": "devstral", "messages": messages}
    assert rules == ()


#: Other members, what they are in the chat, and the rules that said so.
MEMBERS = {
    "instructions go first": (
        {"instructions": "Be brief."},
        {"messages": [{"role": "system", "content": "Be brief."}, HI]},
        (),
    ),
    "a stream asks for its usage": ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}, ()),
    "the same words": (
        {"temperature": 0.1, "top_p": 0.9, "parallel_tool_calls": False, "seed": 1, "user": "u"},
        {"temperature": 0.1, "top_p": 0.9, "parallel_tool_calls": False, "seed": 1, "user": "u"},
        (),
    ),
    "the limit": ({"max_output_tokens": 5}, {"max_tokens": 5}, ()),
    "the effort": ({"reasoning": {"effort": "high", "summary": "auto"}}, {"reasoning_effort": "high"}, ()),
    "probabilities": (
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 2},
        (),
    ),
    "plain text": ({"text": {"format": {"type": "text"}}}, {}, ()),
    "a schema": (
        {"text": {"format": {"type": "json_schema", "name": "c", "schema": WEATHER, "strict": True}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": WEATHER, "strict": True}}},
        (),
    ),
    "any JSON": ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}, ()),
    "a function": (
        {"tools": [{"type": "function", "name": "f", "description": "d", "parameters": WEATHER, "strict": None}]},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": WEATHER}}]},
        (),
    ),
    "a custom tool": (
        {"tools": [{"type": "custom", "name": "patch", "description": "d"}]},
        {"tools": [{"type": "custom", "custom": {"name": "patch", "description": "d"}}]},
        (),
    ),
    "the grammar of a custom tool": (
        {"tools": [{"type": "custom", "name": "patch", "description": "d", "format": GRAMMAR}]},
        {"tools": [{"type": "custom", "custom": {
            "name": "patch", "description": 'd\n\nThe input follows this grammar (lark):\nstart: "x"'}}]},
        ("grammar_to_description",),
    ),
    "a namespace": (
        {
            "tools": [{"type": "namespace", "name": "crm", "description": "Customers.", "tools": [
                {"type": "function", "name": "find", "description": "d"}, {"type": "custom", "name": "note"}]}],
            "tool_choice": {"type": "function", "name": "find", "namespace": "crm"},
        },
        {
            "tools": [
                {"type": "function", "function": {"name": "crm__find", "description": "crm: Customers.\n\nd"}},
                {"type": "custom", "custom": {"name": "crm__note", "description": None}},
            ],
            "tool_choice": {"type": "function", "function": {"name": "crm__find"}},
        },
        ("namespace_to_names",),
    ),
    "a namespace that ends in underscores": (
        {"tools": [{"type": "namespace", "name": "mcp__x__", "tools": [{"type": "function", "name": "f"}]}]},
        {"tools": [{"type": "function", "function": {"name": "mcp__x__f"}}]},
        ("namespace_to_names",),
    ),
    "tools of OpenAI's servers": (
        {"tools": [{"type": "web_search"}, {"type": "function", "name": "f"}], "tool_choice": {"type": "web_search"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        ("built_in_tool_removed", "built_in_choice_removed"),
    ),
    "the choice of a custom tool": (
        {"tool_choice": {"type": "custom", "name": "patch"}},
        {"tool_choice": {"type": "function", "function": {"name": "patch"}}},
        (),
    ),
    "allowed tools are read by the rules of the chat": (
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
        (),
    ),
    "what is not done": (
        {"truncation": "auto", "text": {"verbosity": "low"}, "top_cheese": 1},
        {},
        ("truncation_removed", "verbosity_removed", "unknown_members_removed"),
    ),
    "what the service is told": (
        {"store": True, "metadata": {"a": "b"}, "prompt_cache_key": "k", "client_metadata": {},
         "include": ["reasoning.encrypted_content"], "service_tier": "auto", "previous_response_id": None,
         "background": False, "truncation": "disabled", "stream_options": {"include_obfuscation": False}},
        {},
        (),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("members", "expected", "rules"), MEMBERS.values(), ids=MEMBERS)
def test_members_are_those_of_a_chat(members, expected, rules):
    chat, ran = asked({"input": "Hi"} | members)

    assert chat == {"model": "devstral", "messages": [HI]} | expected
    assert ran == rules


def test_the_local_shell_is_a_function():
    chat, rules = asked({"input": "Hi", "tools": [{"type": "local_shell"}], "tool_choice": {"type": "local_shell"}})

    (tool,) = chat["tools"]
    assert tool["function"]["name"] == "local_shell"
    assert tool["function"]["parameters"]["required"] == ["command"]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "local_shell"}}
    assert rules == ("local_shell_to_function",)


def test_the_local_shell_may_be_one_of_the_allowed_tools():
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "local_shell"}]}

    chat, rules = asked({"input": "Hi", "tools": [{"type": "local_shell"}], "tool_choice": choice})

    assert chat["tool_choice"] == choice | {"tools": [{"type": "function", "name": "local_shell"}]}
    assert rules == ("local_shell_to_function",)


def test_a_tool_that_is_listed_twice_is_left_to_the_rules_of_the_chat():
    namespace = {"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "f"}]}

    chat, _ = asked({"input": "Hi", "tools": [namespace, namespace]})

    assert [tool["function"]["name"] for tool in chat["tools"]] == ["a__f", "a__f"]


def test_the_name_of_a_tool_that_is_not_offered_is_free():
    namespace = {"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "f"}]}

    chat, _ = asked({"input": "Hi", "tools": [{"type": "mcp", "name": "a__f"}, namespace]})

    assert [tool["function"]["name"] for tool in chat["tools"]] == ["a__f"]


@pytest.mark.parametrize("profile", PROFILE_NAMES)
@pytest.mark.parametrize(
    ("given", "streams"),
    [("false", False), ("False", False), (0, False), (None, False), ("true", True), (1, True), (True, True)],
)
def test_a_stream_is_what_the_chat_reads_as_one(given, streams, profile):
    body = Responses("req_1").request(json.dumps({"input": "Hi", "stream": given}).encode(), strict=False)

    request = translate_request(body, build_profile(profile))

    assert request.stream is streams
    assert "stream_options" not in json.loads(request.body) or streams
    assert request.expectation.usage_wanted or not streams


@pytest.mark.parametrize("given", ["x", [], {}, 2, 0.5])
def test_a_stream_that_is_neither_true_nor_false_is_refused_with_its_path(given):
    body = Responses("req_1").request(json.dumps({"input": "Hi", "stream": given}).encode(), strict=False)

    with pytest.raises(InvalidRequest) as refused:
        translate_request(body, PROFILE)

    assert refused.value.param == "stream"


def test_items_without_a_place_in_a_chat_are_left_out_and_tools_among_items_are_offered():
    items = [
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "f"}]},
        HI,
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
        spoken("Yes?"),
        called("find", namespace="crm"),
    ]

    chat, rules = asked({"input": items})

    assert chat["messages"] == [HI, assistant(function("crm__find"), content="Yes?")]
    assert chat["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert rules == (
        "listed_tools_to_tools", "namespace_to_names", "built_in_item_removed", "hidden_reasoning_removed"
    )  # fmt: skip


def test_every_rule_is_seen_at_work_here():
    ran = {rule for _, _, rules in MEMBERS.values() for rule in rules}
    ran |= {"listed_tools_to_tools", "built_in_item_removed", "hidden_reasoning_removed", "local_shell_to_function"}

    assert ran == {rule.__name__ for rule in RESPONSES_RULES}


#: What is refused, and the path that the error names.
REFUSED = {
    "no input": ({}, "input"),
    "an empty input": ({"input": []}, "input"),
    "messages": ({"messages": [HI]}, "input"),
    "an item that is none": ({"input": [HI, "Hi"]}, "input[1]"),
    "an item without a type": ({"input": [{"content": "Hi"}]}, "input[0].type"),
    "an unknown item": ({"input": [HI, {"type": "telepathy"}]}, "input[1].type"),
    "an unknown role": ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    "content that is a number": ({"input": [{"role": "user", "content": 1}]}, "input[0].content"),
    "a part without a type": ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0]"),
    "a part without text": (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
    "a call without an id": ({"input": [{"type": "function_call", "name": "f", "arguments": ""}]}, "input[0].call_id"),
    "a call without a name": (
        {"input": [{"type": "function_call", "call_id": "a", "arguments": ""}]}, "input[0].name"),
    "a result without output": ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "input[0].output"),
    "a shell call without action": ({"input": [{"type": "local_shell_call", "call_id": "a"}]}, "input[0].action"),
    "a reference": ({"input": [HI, {"type": "item_reference", "id": "msg_1"}]}, "input[1]"),
    "a reference without a type": ({"input": [{"id": "msg_1"}]}, "input[0]"),
    "a compaction": ({"input": [{"type": "compaction", "encrypted_content": "gAAA"}]}, "input[0]"),
    "an answer before": ({"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id"),
    "a conversation": ({"input": "Hi", "conversation": "conv_1"}, "conversation"),
    "a stored prompt": ({"input": "Hi", "prompt": {"id": "pmpt_1"}}, "prompt"),
    "the background": ({"input": "Hi", "background": True}, "background"),
    "instructions in a list": ({"input": "Hi", "instructions": [HI]}, "instructions"),
    "tools that are no list": ({"input": "Hi", "tools": {}}, "tools"),
    "a tool without a type": ({"input": "Hi", "tools": [{"name": "f"}]}, "tools[0]"),
    "a tool without a name": ({"input": "Hi", "tools": [{"type": "function"}]}, "tools[0].name"),
    "a namespace without a name": ({"input": "Hi", "tools": [{"type": "namespace"}]}, "tools[0].name"),
    "a tool without a name in a namespace": (
        {"input": "Hi", "tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}]},
        "tools[0].tools[0].name"),
    "a namespaced tool with the name of a function": (
        {"input": "Hi", "tools": [
            {"type": "namespace", "name": "a", "tools": [
                {"type": "function", "name": "e"}, {"type": "function", "name": "f"}]},
            {"type": "function", "name": "a__f"}]},
        "tools[0].tools[1]"),
    "tools of two namespaces with one name": (
        {"input": "Hi", "tools": [
            {"type": "namespace", "name": "a", "tools": [{"type": "function", "name": "f"}]},
            {"type": "namespace", "name": "a__", "tools": [{"type": "function", "name": "f"}]}]},
        "tools[1].tools[0]"),
    "the local shell beside a function of its name": (
        {"input": "Hi", "tools": [{"type": "function", "name": "local_shell"}, {"type": "local_shell"}]}, "tools[1]"),
    "an unknown format": ({"input": "Hi", "text": {"format": {"type": "yaml"}}}, "text.format.type"),
    "a text that is none": ({"input": "Hi", "text": "x"}, "text"),
    "an effort that is a word": ({"input": "Hi", "reasoning": "high"}, "reasoning"),
    "a choice without a type": ({"input": "Hi", "tool_choice": {}}, "tool_choice.type"),
    "a number out of range": (b'{"input": "Hi", "metadata": 1e999}', "metadata"),
    "bytes that are no UTF-8": (b'{"input": "\xff"}', "$"),
    "no JSON": (b"{", "$"),
    "a key that is given twice": (b'{"input": "a", "input": "b"}', "$"),
    "too deep": (b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}", "$"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "param"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_with_its_path(body, param):
    with pytest.raises(InvalidRequest) as refused:
        asked(body)

    assert refused.value.param == param


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "prompt", "background"])
def test_what_needs_a_store_is_refused_with_what_to_do(name):
    with pytest.raises(InvalidRequest, match=r"kept here.*(send|write|leave)"):
        asked({"input": "Hi", name: "x"})


def test_a_body_with_too_many_values_is_refused():
    with pytest.raises(PayloadTooLarge):
        asked(b'{"input": [' + b",".join([b"{}"] * 1_000_000) + b"]}")


def test_in_strict_mode_the_first_rule_that_would_change_something_refuses():
    with pytest.raises(InvalidRequest) as refused:
        asked({"input": "Hi", "tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}, strict=True)

    assert refused.value.param == "tools[1]"
    assert refused.value.message.startswith("Refused in strict mode by built_in_tool_removed: ")


@pytest.mark.parametrize("rule", RESPONSES_RULES, ids=lambda rule: rule.__name__)
def test_a_rule_says_what_it_changes_and_has_its_number(rule):
    assert reason_of(rule).endswith(f"(F{RESPONSES_RULES.index(rule) + 1}).")


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_the_chat_is_one_that_the_chat_takes(case):
    front = Responses("req_1")
    body = front.request(json.dumps({"model": "devstral", "input": CONVERSATIONS[case][0]}).encode(), strict=False)

    translate_request(body, PROFILE)


PLACES = {"messages": ["instructions", "input[0]", "input[3]"], "tools": ["tools[0].tools[0]", "tools[1]"]}


@pytest.mark.parametrize(
    ("chats", "clients"),
    [
        (None, None),
        ("$", "$"),
        ("model", "model"),
        ("messages", "input"),
        ("messages[0].content", "instructions"),
        ("messages[1].content[2].text", "input[0].content[2]"),
        ("messages[2].tool_calls[0].id", "input[3]"),
        ("messages[9]", "input"),
        ("tools[0].function.name", "tools[0].tools[0].name"),
        ("tools[1].function.parameters.x", "tools[1].parameters.x"),
        ("tool_choice.function.name", "tool_choice.name"),
        ("max_tokens", "max_output_tokens"),
        ("response_format.json_schema", "text.format.json_schema"),
    ],
)
def test_the_path_of_an_error_is_one_in_the_clients_own_body(chats, clients):
    assert client_param(chats, PLACES) == clients
