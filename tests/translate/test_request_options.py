"""What each option of the request side does, value by value. The defaults are in tests/cases/request."""

import json

import pytest

from proxy.translate.profile import CHAT_RULES, MESSAGE_RULES, PROFILE_NAMES, Choice, build_profile
from proxy.translate.request import translate_request
from proxy.wire.ids import nine_char_digest as digest
from tests.translate.test_request_golden import RULES

VLLM, TEMPLATE, HOSTED, _ = PROFILE_NAMES


def system(content):
    return {"role": "system", "content": content}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def called(*calls, content=None, **more):
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


def call(id_, name="f", arguments="{}"):
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(id_, content, **more):
    return {"role": "tool", "content": content, "tool_call_id": id_, **more}


def text(value):
    return {"type": "text", "text": value}


def image(url):
    return {"type": "image_url", "image_url": {"url": url}}


def tool(name, **more):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}, **more}}


def thinking(value, **more):
    return {"type": "thinking", "thinking": [text(value)], "closed": True, **more}


GO, OK = user("Go"), assistant("OK.")
A, B = "abcDEF123", "xyzXYZ987"

#: option, value, profile, what the client sends (messages, other members), what goes upstream
MESSAGES = [
    ("id_mode", "keep", VLLM, [GO, called(call("call_x")), result("call_x", "r")], None),
    (
        "id_mode",
        "keep",
        VLLM,
        [GO, called(call("call_x"), call("call_x"), call("", "g")), result("call_x", "1"), result("call_x", "2")],
        [
            GO,
            called(call("call_x"), call(digest("call_x#2")), call(digest("~pos:0:2:g"), "g")),
            result("call_x", "1"),
            result(digest("call_x#2"), "2"),
            result(digest("~pos:0:2:g"), "[no result was provided for this tool call]"),
        ],
    ),
    (
        "message_name",
        "prefix",
        VLLM,
        [
            {**user("Hi"), "name": "alice"},
            {**assistant("Hello"), "name": "bot"},
            {**user([text("a"), text("b")]), "name": "bob"},
            {**assistant(""), "name": "bot"},
        ],
        [user("alice: Hi"), assistant("bot: Hello"), user("bob:\n\na\n\nb")],
    ),
    ("flatten_text", False, VLLM, [system([text("a"), text("b")]), user([text("c")])], None),
    (
        "flatten_text",
        False,
        VLLM,
        [GO, assistant([text("a")]), system([text("b"), text("c")]), user([text("d")])],
        [GO, assistant([text("a")]), user("<system>\nb\n\nc\n</system>"), user([text("d")])],
    ),
    (
        "vision",
        False,
        VLLM,
        [user([text("Look:"), image("https://example.org/a.png")]), called(call(A)), result(A, [image("data:,")])],
        [
            user("Look:\n\n[unsupported attachment: image_url]"),
            called(call(A)),
            result(A, "[unsupported attachment: image_url]"),
        ],
    ),
    ("attachments", "keep", VLLM, [user([{"type": "document_url", "document_url": "https://example.org/d"}])], None),
    (
        "attachments",
        "placeholder",
        HOSTED,
        [user([{"type": "document_url", "document_url": "https://example.org/d"}])],
        [user("[unsupported attachment: document_url]")],
    ),
    ("tool_images", "keep", VLLM, [GO, called(call(A)), result(A, [text("a"), image("data:,")])], None),
    (
        "tool_images",
        "after",
        HOSTED,
        [GO, called(call(A)), result(A, [text("a"), image("data:,")])],
        [GO, called(call(A)), result(A, "a\n\n[image 1 attached below]"), OK, user([image("data:,")])],
    ),
    (
        "legacy_v3",
        True,
        VLLM,
        [GO, called(call(A), call(B), content="Let me look."), result(A, "1"), result(B, "2")],
        [
            GO,
            {"role": "assistant", "tool_calls": [call(A), call(B)]},
            result(A, "[assistant before calling the tool] Let me look.\n\n1"),
            result(B, "2"),
        ],
    ),
    (
        "legacy_v3",
        True,
        VLLM,
        [GO, called(call(A), content=" "), result(A, "1")],
        [GO, {"role": "assistant", "tool_calls": [call(A)]}, result(A, "1")],
    ),
    (
        "legacy_v3",
        True,
        HOSTED,
        [GO, called(call(A), content="Look."), result(A, [text("a"), image("data:,")])],
        [
            GO,
            {"role": "assistant", "tool_calls": [call(A)]},
            result(A, [text("[assistant before calling the tool] Look."), text("a"), image("data:,")]),
        ],
    ),
    (
        "empty_call_content",
        "empty",
        VLLM,
        [GO, called(call(A)), result(A, "1"), {"role": "assistant", "tool_calls": [call(B)]}, result(B, "2")],
        [GO, called(call(A), content=""), result(A, "1"), called(call(B), content=""), result(B, "2")],
    ),
    (
        "reasoning_history",
        "keep",
        VLLM,
        [
            user("2?"),
            assistant("4", reasoning="so", reasoning_content="so"),
            GO,
            assistant([{"type": "thinking", "thinking": [text("hm")]}, text("6")]),
            GO,
            called(call(A), thinking_blocks=[{"type": "thinking", "thinking": "a", "signature": "s"}]),
            result(A, "1"),
            assistant("end", reasoning=""),
            GO,
        ],
        [
            user("2?"),
            assistant("4", reasoning="so"),
            GO,
            assistant("6", reasoning="hm"),
            GO,
            called(call(A), reasoning="a"),
            result(A, "1"),
            assistant("end"),
            GO,
        ],
    ),
    ("reasoning_history", "keep", VLLM, [GO, assistant("4", reasoning="so"), GO], None),
    (
        "reasoning_history",
        "keep",
        TEMPLATE,
        [GO, assistant("a", reasoning="1"), assistant("b", reasoning_content="2"), GO],
        [GO, assistant("a\n\nb", reasoning="1\n\n2"), GO],
    ),
    (
        "reasoning_history",
        "chunks",
        HOSTED,
        [
            user("2?"),
            assistant("4", reasoning_content="so", reasoning="so"),
            GO,
            assistant(
                [{"type": "thinking", "thinking": "hm", "signature": "s"}, text("6"), {"type": "redacted_thinking"}]
            ),
            GO,
            called(call(A), reasoning="a", reasoning_content=""),
            result(A, "1"),
            assistant("end", reasoning_content=""),
            GO,
        ],
        [
            user("2?"),
            assistant([thinking("so"), text("4")]),
            GO,
            assistant([thinking("hm", signature="s"), text("6")]),
            GO,
            called(call(A), content=[thinking("a")]),
            result(A, "1"),
            OK | {"content": "end"},
            GO,
        ],
    ),
    ("reasoning_history", "chunks", HOSTED, [GO, assistant([thinking("so"), text("4")]), GO], None),
    (
        "invalid_args",
        "wrap",
        VLLM,
        [GO, called(call(A, arguments='{"a":'), call(B, arguments="[1]")), result(A, "1"), result(B, "2")],
        [
            GO,
            called(call(A, arguments='{"_raw_arguments":"{\\"a\\":"}'), call(B, arguments='{"value":[1]}')),
            result(A, "1"),
            result(B, "2"),
        ],
    ),
    ("invalid_args", "keep", VLLM, [GO, called(call(A, arguments='{"a":')), result(A, "1")], None),
    (
        "orphan_results",
        "synthesize_call",
        VLLM,
        [GO, result("call_gone", "1", name="g"), result("", "2"), assistant("ok"), result(A, "3"), GO],
        [
            GO,
            {"role": "assistant", "tool_calls": [call(digest("call_gone"), "g")]},
            result(digest("call_gone"), "1", name="g"),
            {"role": "assistant", "tool_calls": [call(digest("~orphan:unknown_tool"), "unknown_tool")]},
            result(digest("~orphan:unknown_tool"), "2"),
            assistant("ok", tool_calls=[call(A, "unknown_tool")]),
            result(A, "3"),
            OK,
            GO,
        ],
    ),
    (
        "orphan_results",
        "synthesize_call",
        VLLM,
        [
            GO,
            called(call("", "f"), call("", "g")),
            {"role": "tool", "content": "1"},
            result(A, "stray", name="q"),
            {"role": "tool", "content": "2"},
        ],
        [
            GO,
            called(call(digest("~pos:0:0:f"), "f"), call(digest("~pos:0:1:g"), "g")),
            result(digest("~pos:0:0:f"), "1"),
            result(digest("~pos:0:1:g"), "2"),
            {"role": "assistant", "tool_calls": [call(A, "q")]},
            result(A, "stray", name="q"),
        ],
    ),
    ("orphan_results", "drop", VLLM, [GO, result(A, "gone"), assistant("ok"), GO], [GO, assistant("ok"), GO]),
    (
        "missing_result_text",
        "(cancelled)",
        VLLM,
        [GO, called(call(A))],
        [GO, called(call(A)), result(A, "(cancelled)")],
    ),
    (
        "mid_system",
        "user",
        VLLM,
        [system("a"), GO, system("b"), assistant("c"), GO],
        [system("a"), GO, user("<system>\nb\n</system>"), assistant("c"), GO],
    ),
    (
        "mid_system",
        "hoist",
        VLLM,
        [system("a"), GO, assistant("1"), system("b"), called(call(A)), result(A, "r"), system("c"), GO],
        [system("a\n\nb\n\nc"), GO, called(call(A), content="1"), result(A, "r"), OK, GO],
    ),
    ("mid_system", "hoist", VLLM, [GO, assistant("1"), system("b"), GO], [system("b"), GO, assistant("1"), GO]),
    ("lead_system", "single", VLLM, [system("a"), system("b"), GO], [system("a\n\nb"), GO]),
    (
        "merge_same_role",
        True,
        VLLM,
        [GO, user([text("a"), image("data:,")]), assistant("b"), assistant("c"), GO],
        [user([text("Go"), text("a"), image("data:,")]), assistant("b\n\nc"), GO],
    ),
    ("merge_same_role", False, TEMPLATE, [GO, GO], None),
    ("bridge", "never", TEMPLATE, [GO, called(call(A), content=""), result(A, "1"), GO], None),
    (
        "bridge",
        "always",
        VLLM,
        [GO, called(call(A)), result(A, "1"), GO],
        [GO, called(call(A)), result(A, "1"), OK, GO],
    ),
    (
        "bridge_text",
        "Done.",
        VLLM,
        [GO, called(call(A)), result(A, "1"), GO],
        [GO, called(call(A)), result(A, "1"), assistant("Done."), GO],
    ),
    ("first_message", "user", VLLM, [system("a")], [system("a"), user("(start of conversation)")]),
    ("first_message", "user_or_system", TEMPLATE, [system("a"), assistant("b"), GO], None),
    ("first_user_text", ".", VLLM, [assistant("b"), GO], [user("."), assistant("b"), GO]),
    ("trailing_assistant", "error", VLLM, [GO, assistant("a")], None),
    ("continue_text", "Go on.", VLLM, [GO, assistant("a")], [GO, assistant("a"), user("Go on.")]),
    ("trailing_assistant", "continue", HOSTED, [GO, assistant("a")], [GO, assistant("a", prefix=True)]),
]  # fmt: skip

FLAGS = {"continue_final_message": True, "add_generation_prompt": False}
F, G = tool("f"), tool("g")
NAMED_F = {"type": "function", "function": {"name": "f"}}
USAGE = {"include_usage": True}

#: option, value, profile, the members beside one user message, and what becomes of them
MEMBERS = [
    ("custom_tools", "drop", VLLM, {"tools": [F, {"type": "custom", "custom": {"name": "c"}}]}, {"tools": [F]}),
    ("tool_strict", "keep", VLLM, {"tools": [tool("f", strict=True)]}, None),
    ("tool_strict", "strip", HOSTED, {"tools": [tool("f", strict=True)]}, {"tools": [F]}),
    ("schema_clean", "none", VLLM, {"tools": [tool("f", parameters={"type": "objekt", "$schema": "x"})]}, None),
    ("required_word", "any", VLLM, {"tools": [F], "tool_choice": "required"}, {"tools": [F], "tool_choice": "any"}),
    ("required_word", "required", HOSTED, {"tools": [F], "tool_choice": "required"}, None),
    ("none_strips_tools", False, VLLM, {"tools": [F], "tool_choice": "none"}, None),
    ("unknown_params", "allow_list", VLLM, {"top_k": 1, "user": "u"}, {"top_k": 1}),
    ("unknown_params", "pass", HOSTED, {"user": "u"}, None),
    ("param_allow", ("user", "x"), HOSTED, {"user": "u", "store": True}, {"user": "u"}),
    ("param_drop", ("user", "x"), VLLM, {"user": "u", "store": True}, {"store": True}),
    ("param_set", {"top_k": 5, "user": "u"}, VLLM, {"user": "u"}, {"user": "u", "top_k": 5}),
    ("parameter_names", "mistral", VLLM, {"seed": 1, "max_completion_tokens": 2}, {"random_seed": 1, "max_tokens": 2}),
    ("parameter_names", "vllm", HOSTED, {"random_seed": 1, "safe_prompt": True}, {}),
    ("template_params", "pass", VLLM, {"chat_template_kwargs": {"a": 1}, "chat_template": "x"},
     {"chat_template_kwargs": {"a": 1}}),
    ("template_params", "delete", TEMPLATE, {"chat_template_kwargs": {"a": 1}}, {}),
    ("reasoning_effort", "pass", VLLM, {"reasoning_effort": "medium"}, None),
    ("reasoning_effort", "pass", VLLM, {"reasoning_effort": {"effort": "low"}}, {"reasoning_effort": "low"}),
    ("reasoning_effort", "binary", VLLM, {"reasoning_effort": "minimal"}, {"reasoning_effort": "none"}),
    ("reasoning_effort", "binary", VLLM, {"reasoning_effort": "xhigh"}, {"reasoning_effort": "high"}),
    ("reasoning_effort", "binary", VLLM, {"reasoning_effort": "none"}, None),
    ("reasoning_effort", "delete", HOSTED, {"reasoning_effort": "high"}, {}),
    ("default_temperature", 0.15, VLLM, {}, {"temperature": 0.15}),
    ("default_temperature", 0.15, VLLM, {"temperature": None}, {"temperature": 0.15}),
    ("default_temperature", 0.15, VLLM, {"temperature": 0}, None),
    ("default_temperature", 0.0, HOSTED, {"top_p": 0.5}, {"temperature": 0.0}),
    ("json_object", "schema", VLLM, {"response_format": {"type": "json_object"}}, {"response_format":
     {"type": "json_schema", "json_schema": {"name": "json_object", "schema": {"type": "object"}}}}),
    ("json_object", "pass", TEMPLATE, {"response_format": {"type": "json_object"}}, None),
    ("prefix_form", "prefix", VLLM, FLAGS, None),
    ("stream_options", "delete", VLLM, {"stream": True, "stream_options": USAGE}, {"stream": True}),
    ("stream_options", "pass", HOSTED, {"stream": True}, {"stream": True, "stream_options": USAGE}),
    ("ask_usage", False, VLLM, {"stream": True}, None),
    ("ask_usage", True, VLLM, {"stream": True, "stream_options": {"continuous_usage_stats": True}},
     {"stream": True, "stream_options": {"continuous_usage_stats": True, "include_usage": True}}),
    ("upstream_stream", "never", VLLM, {"stream": True, "stream_options": USAGE}, {"stream": False}),
    ("upstream_stream", "never_with_tools", VLLM, {"stream": True, "tools": [F]}, {"stream": False, "tools": [F]}),
    ("upstream_stream", "never_with_tools", VLLM, {"stream": True, "stream_options": USAGE}, None),
]  # fmt: skip

#: An option that says something about the last message or the first, with everything around it.
WHOLE = [
    ("prefix_form", "prefix", VLLM, {"messages": [GO, assistant("a")], **FLAGS},
     {"messages": [GO, assistant("a", prefix=True)]}),
    ("prefix_form", "continue_final_message", VLLM, {"messages": [GO, assistant("a", prefix=True)]},
     {"messages": [GO, assistant("a")], **FLAGS}),
    ("trailing_assistant", "continue", VLLM, {"messages": [GO, assistant("a")]},
     {"messages": [GO, assistant("a")], **FLAGS}),
    ("downgrade_required", True, VLLM, {"messages": [system("a"), GO], "tools": [F, G], "tool_choice": "required"},
     {"messages": [system("a\n\nCall one of the tools now."), GO], "tools": [F, G], "tool_choice": "auto"}),
    ("downgrade_required", True, VLLM, {"messages": [GO], "tools": [F], "tool_choice": NAMED_F},
     {"messages": [system("Call the tool f now."), GO], "tools": [F], "tool_choice": "auto"}),
]  # fmt: skip

CASES = [
    *((option, value, profile, {"messages": sent}, {"messages": wire or sent})
      for option, value, profile, sent, wire in MESSAGES),
    *((option, value, profile, {"messages": [GO], **sent}, {"messages": [GO], **(sent if wire is None else wire)})
      for option, value, profile, sent, wire in MEMBERS),
    *WHOLE,
]  # fmt: skip


def body_of(request):
    return json.dumps(request, ensure_ascii=False).encode()


def ids(cases):
    return [f"{option}={value} ({profile}) {i}" for i, (option, value, profile, *_) in enumerate(cases)]


@pytest.mark.parametrize(("option", "value", "profile", "sent", "wire"), CASES, ids=ids(CASES))
def test_an_option_does_what_it_says(option, value, profile, sent, wire):
    chosen = build_profile(profile, {option: value})

    translated = translate_request(body_of(sent), chosen)

    assert json.loads(translated.body) == wire
    again = translate_request(translated.body, chosen)
    assert (again.body, again.rules_applied) == (translated.body, ())


def picked():
    """Every rule that an option picks, with the option and its value, and the others with nothing."""
    for entry in (*MESSAGE_RULES, *CHAT_RULES):
        if isinstance(entry, Choice):
            yield from (((entry.option, value), rule) for value, rule in entry.rules.items())
        else:
            yield (), entry


def test_every_value_of_an_option_that_picks_a_rule_is_tried():
    tried = [(option, value) for option, value, *_ in CASES]
    options = [build_profile(name).options for name in PROFILE_NAMES[:3]]
    default = [(option, getattr(chosen, option)) for option, _ in filter(None, dict(picked())) for chosen in options]

    assert [choice for choice, _ in picked() if choice and choice not in (*tried, *default)] == []


def test_every_rule_changes_something_in_some_case():
    seen = {rule for rules in RULES.values() for rule in rules}
    for option, value, profile, sent, _ in CASES:
        seen.update(translate_request(body_of(sent), build_profile(profile, {option: value})).rules_applied)

    assert {rule.__name__ for _, rule in picked() if not only_checks(rule)} - seen == set()


def only_checks(rule):
    """Whether the rule says of itself that it changes nothing."""
    return "changes nothing" in " ".join(rule.__doc__.lower().split())


@pytest.mark.parametrize(
    ("profile", "overrides", "problem"),
    [
        ("vllm", {}, "unknown profile"),
        (VLLM, {"no_such_option": 1}, "no_such_option"),
        (VLLM, {"bridge": "sometimes"}, "bridge"),
        (VLLM, {"flatten_text": "yes"}, "flatten_text"),
        (VLLM, {"param_set": {"messages": []}}, "messages"),
        (VLLM, {"param_drop": ("tools", "user")}, "tools"),
        (VLLM, {"param_set": {"stream": True}}, "stream"),
    ],
)
def test_a_wrong_option_is_named(profile, overrides, problem):
    with pytest.raises(ValueError, match=problem):
        build_profile(profile, overrides)
