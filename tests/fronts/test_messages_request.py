"""
What a request of Anthropic's Messages API becomes: tests/cases/messages.

NAME.json has the request, the chat completion that it must become, and the rules that say they lost something.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest, PayloadTooLarge
from proxy.fronts.messages_request import MESSAGES_RULES, chat_request
from proxy.translate.profile import PROFILE_NAMES, build_profile
from proxy.translate.request import translate_request
from tests.strategies import texts

CASES = {path.stem: path for path in sorted((Path(__file__).parents[1] / "cases/messages").glob("*.json"))}
HI = {"role": "user", "content": "Hi"}
CHOICE_OF_G = {"type": "tool", "name": "g"}

every_case = pytest.mark.parametrize("name", CASES)


def case(name):
    return json.loads(CASES[name].read_bytes())


def translated(request, *, strict=False, counts=False):
    return chat_request(json.dumps(request).encode(), strict=strict, counts=counts)


@every_case
def test_a_request_becomes_what_its_case_says(name):
    expected = case(name)

    got = translated(expected["request"])

    assert json.dumps(json.loads(got.body), indent=1) == json.dumps(expected["chat"], indent=1)
    assert list(got.rules) == expected["rules"]
    assert (got.model, got.stop) == ("devstral", tuple(expected["request"].get("stop_sequences", ())))


@every_case
def test_strict_mode_refuses_exactly_what_would_be_lost(name):
    expected = case(name)
    if not expected["rules"]:
        assert translated(expected["request"], strict=True).rules == ()
        return
    with pytest.raises(InvalidRequest) as refused:
        translated(expected["request"], strict=True)

    assert refused.value.message.startswith(f"Refused in strict mode by {expected['rules'][0]}: ")
    assert refused.value.param.partition(".")[0].partition("[")[0] in expected["request"]


@every_case
@pytest.mark.parametrize("profile", PROFILE_NAMES)
def test_every_profile_takes_what_it_becomes(name, profile):
    chat = translated(case(name)["request"]).body

    assert json.loads(translate_request(chat, build_profile(profile)).body)["messages"]


def test_every_rule_has_a_case():
    seen = {rule for name in CASES for rule in case(name)["rules"]}

    assert {rule.__name__ for rule in MESSAGES_RULES} == seen


def test_the_rules_are_named_in_the_order_in_which_they_run():
    order = [rule.__name__ for rule in MESSAGES_RULES]
    for name in CASES:
        rules = case(name)["rules"]

        assert rules == sorted(rules, key=order.index)


def test_a_number_of_a_tools_input_stays_as_it_was_written():
    """In a dictionary, 1e2 would become 100.0 and a number of 30 digits another one."""
    text = b'{"n":1e2,"m":123456789012345678901234567890,"u":"\\u00e9"}'
    block = b'{"type":"tool_use","id":"a","name":"f","input":' + text + b"}"
    body = b'{"max_tokens":1,"messages":[{"role":"assistant","content":[' + block + b"]}]}"

    (message,) = json.loads(chat_request(body, strict=False).body)["messages"]

    assert message["tool_calls"][0]["function"]["arguments"].encode() == text


def test_the_choice_of_a_tool_that_was_never_listed_is_left_to_the_chat_which_refuses_it():
    got = translated({"max_tokens": 1, "messages": [HI], "tools": [{"name": "f"}], "tool_choice": CHOICE_OF_G})

    assert (json.loads(got.body)["tool_choice"]["function"]["name"], got.rules) == ("g", ())


def test_counting_needs_no_limit():
    assert json.loads(translated({"messages": [HI]}, counts=True).body) == {"messages": [HI]}


# --- refusals

REFUSALS = {
    "no limit": ({"messages": [HI]}, "max_tokens", "max_tokens: Field required"),
    "a limit of nothing": ({"max_tokens": 0, "messages": [HI]}, "max_tokens", "max_tokens: Expected `int` >= 1"),
    "a limit that is too large": (
        {"max_tokens": 10**30, "messages": [HI]},
        "max_tokens",
        "max_tokens: Expected `int` <= 9223372036854775807",
    ),
    "a limit that is text": (
        {"max_tokens": "9", "messages": [HI]},
        "max_tokens",
        "max_tokens: Expected `int | float | null`, got `str`",
    ),
    "no messages": ({"max_tokens": 1}, "$", "messages: Field required"),
    "an empty conversation": (
        {"max_tokens": 1, "messages": []},
        "messages",
        "messages: at least one message is required",
    ),
    "a role of another API": (
        {"max_tokens": 1, "messages": [HI, {"role": "tool", "content": "x"}]},
        "messages[1].role",
        "messages.1.role: unknown value",
    ),
    "no content": (
        {"max_tokens": 1, "messages": [{"role": "user"}]},
        "messages[0]",
        "messages.0: content: Field required",
    ),
    "content that is a number": (
        {"max_tokens": 1, "messages": [{"role": "user", "content": 5}]},
        "messages[0].content",
        "messages.0.content: Expected `str | array`, got `int`",
    ),
    "a block without a type": (
        {"max_tokens": 1, "messages": [{"role": "user", "content": [{"text": "x"}]}]},
        "messages[0].content[0]",
        "messages.0.content.0: type: Field required",
    ),
    "a result of no call": (
        {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}]},
        "messages[0].content[0]",
        "messages.0.content.0: tool_use_id: Field required",
    ),
    "a result that is an object": (
        {
            "max_tokens": 1,
            "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": {}}]}],
        },
        "messages[0].content[0].content",
        "messages.0.content.0.content: Expected `str | array | null`, got `object`",
    ),
    "a block inside a result": (
        {
            "max_tokens": 1,
            "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [1]}]}],
        },
        "messages[0].content[0].content[0]",
        "messages.0.content.0.content.0: Expected `object`, got `int`",
    ),
    "a result of an assistant": (
        {
            "max_tokens": 1,
            "messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "a"}]}],
        },
        "messages[0].content[0]",
        "messages.0.content.0: `tool_result` blocks can only be in `user` messages",
    ),
    "a call inside a result": (
        {
            "max_tokens": 1,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "tool_use"}]}],
                }
            ],
        },
        "messages[0].content[0].content[0]",
        "messages.0.content.0.content.0: `tool_use` blocks can only be in `assistant` messages",
    ),
    "an image without a source": (
        {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]},
        "messages[0].content[0].source",
        "messages.0.content.0.source: Field required",
    ),
    "a tool without a name": (
        {"max_tokens": 1, "messages": [HI], "tools": [{}]},
        "tools[0]",
        "tools.0: name: Field required",
    ),
    "a choice of no tool": (
        {"max_tokens": 1, "messages": [HI], "tools": [{"name": "f"}], "tool_choice": {"type": "tool"}},
        "tool_choice",
        "tool_choice: name: Field required",
    ),
    "a choice in OpenAI's words": (
        {"max_tokens": 1, "messages": [HI], "tool_choice": "auto"},
        "tool_choice",
        "tool_choice: Expected `object | null`, got `str`",
    ),
}


@pytest.mark.parametrize(("request_body", "param", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_translated_is_refused_with_its_place(request_body, param, message):
    with pytest.raises(InvalidRequest) as refused:
        translated(request_body)

    assert (refused.value.param, refused.value.message) == (param, message)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"messages":',
        b'{"max_tokens":1,"max_tokens":2,"messages":[]}',
        b'{"max_tokens":1,"messages":[{"role":"user","content":"\xff"}]}',
        b'{"max_tokens":1,"messages":' + b"[" * 3000,
        b'{"max_tokens":1,"messages":[{"role":"user","content":'
        + b'[{"type":"search_result","source":"","content":' * 4
        + b"[]"
        + b"}]" * 4
        + b"}]}",
        b'{"max_tokens":1,"x":[' + b"1," * 2_000_000 + b"1]}",
    ],
    ids=["nothing", "a list", "half", "a key twice", "not UTF-8", "deep", "deep blocks", "many values"],
)
def test_what_is_no_request_is_refused(body):
    with pytest.raises((InvalidRequest, PayloadTooLarge)):
        chat_request(body, strict=False)


# --- properties

_said = texts.map(lambda text: {"type": "text", "text": text})
_thought = texts.map(lambda text: {"type": "thinking", "thinking": text, "signature": ""})
_ids = st.sampled_from("abc")
_call = st.builds(lambda id, text: {"type": "tool_use", "id": id, "name": "f", "input": {"x": text}}, _ids, texts)
_result = st.builds(
    lambda id, content: {"type": "tool_result", "tool_use_id": id, "content": content},
    _ids,
    texts | st.lists(_said, max_size=2),
)
_BLOCKS = {"user": _said | _result, "assistant": _said | _thought | _call, "system": _said}
_turns = st.sampled_from(sorted(_BLOCKS)).flatmap(
    lambda role: st.fixed_dictionaries({"role": st.just(role), "content": texts | st.lists(_BLOCKS[role], max_size=4)})
)


def told(content):
    """All texts of content, and of calls and results inside it; thoughts are left to the profile."""
    if isinstance(content, str):
        return [content]
    found = {"text": lambda b: [b["text"]], "tool_use": lambda b: [b["input"]["x"]], "thinking": lambda b: []}
    return [text for block in content for text in found.get(block["type"], lambda b: told(b["content"]))(block)]


def heard(messages):
    """All texts of a chat's messages, in one string."""
    arguments = [json.loads(call["function"]["arguments"])["x"] for m in messages for call in m.get("tool_calls", ())]
    return "\x01".join([*arguments, *(message["content"] for message in messages)])


@given(st.lists(_turns, min_size=1, max_size=5))
def test_every_text_is_in_the_chat_and_its_rules_take_it(turns):
    got = translated({"max_tokens": 5, "messages": turns})

    said = heard(json.loads(got.body)["messages"])
    assert [text for turn in turns for text in told(turn["content"]) if text not in said] == []
    translate_request(got.body, build_profile("vllm-mistral-tokenizer"))
