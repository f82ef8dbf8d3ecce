"""Calls that reached `content` as text: what is one, what is none, and what is held back."""

import pytest

from proxy.translate.answer_parts import FoundCall, Text
from proxy.translate.answer_rules import RuleLog
from proxy.translate.leaked import LeakedCalls
from tests.translate.answers import call, calls, expect, said

NAMES = ("get_weather", "get_time", "get")
PARIS = '{"city": "Paris"}'
WEATHER = FoundCall("get_weather", PARIS)
TIME = FoundCall("get_time", "{}")

#: Text, and what it is with the marked forms alone.
MARKED = [
    (f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {PARIS}}}]', [WEATHER]),
    (f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {PARIS}, "id": "abcDEF123"}}]',
     [FoundCall("get_weather", PARIS, "abcDEF123")]),
    ('[TOOL_CALLS]{"name": "get_time", "arguments": {}}', [TIME]),
    ('[TOOL_CALLS][{"name": "get_time", "arguments": "{}"}]', [TIME]),
    ('[TOOL_CALLS][{"name": "get_time", "parameters": {}, "id": 7}]', [TIME]),
    (f"[TOOL_CALLS]get_weather{PARIS}", [WEATHER]),
    (f"[TOOL_CALLS]get_weather[ARGS]{PARIS}", [WEATHER]),
    (f"[TOOL_CALLS] get_weather [ARGS] {PARIS}", [WEATHER]),
    (f"[TOOL_CALLS]get_weather[CALL_ID]abcDEF123[ARGS]{PARIS}", [FoundCall("get_weather", PARIS, "abcDEF123")]),
    (f"[TOOL_CALLS]get_weatherabcDEF123{PARIS}", [FoundCall("get_weather", PARIS, "abcDEF123")]),
    (f"[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]get_time[ARGS]{{}}", [WEATHER, TIME]),
    (f"Let me see.\n\n[TOOL_CALLS]get_weather{PARIS}", [Text("Let me see.\n\n"), WEATHER]),
    (f"[TOOL_CALLS]get_weather{PARIS}Estimating", [WEATHER, Text("Estimating")]),
    ("[TOOL_CALLS][TOOL_CALLS]get_time{}", [Text("[TOOL_CALLS]"), TIME]),
    ('[TOOL_CALLS]get{"a": "}{\\"", "b": [1, {}]}', [FoundCall("get", '{"a": "}{\\"", "b": [1, {}]}')]),
]  # fmt: skip

#: Text that is none, with the marked forms alone.
PLAIN = [
    "Hello",
    "[",
    "[TOOL_CALLS]",
    "a [TOOL_CALLS] is how Mistral marks a call",
    "[TOOL_CALLS]no_such_tool{}",
    "[TOOL_CALLS]get_weatherx{}",
    '[TOOL_CALLS][{"name": "no_such_tool", "arguments": {}}]',
    '[TOOL_CALLS][{"name": "get_time", "arguments": {}}, {"name": "no_such_tool", "arguments": {}}]',
    '[TOOL_CALLS][{"name": "get_time"}]',
    '[TOOL_CALLS][{"name": "get_time", "arguments": [1]}]',
    "[TOOL_CALLS]get_time[ARGS]{not json}",
    "[TOOL_CALLS]get_time[ARGS][1]",
    "[TOOL_CALLS]get_time",
    '[TOOL_CALLS]get_weather[ARGS]{"city":',
    "[TOOL_CALLS]" + " " * 100 + "get_time{}",
    "[TOOL_CALLS]get_time[CALL_ID]abc",
    '[{"name": "get_time", "arguments": {}}]',
    "get_time{}",
]

#: Text, and what it is when it may also be bare.
BARE = [
    ('[{"name": "get_time", "arguments":{}}]', [TIME]),
    ('\n {"name": "get_time", "arguments": {}} \n', [TIME]),
    ('{"tool_calls": [{"type": "function", "function": {"name": "get_time", "arguments": "{}"}}]}', [TIME]),
    ('```json\n[{"name": "get_time", "arguments": {}}]\n```', [TIME]),
    ('```\n{"arguments": {}, "name": "get_time"}```', [TIME]),
    (f"get_weather[ARGS]{PARIS}", [WEATHER]),
    (f"get_weather{PARIS}", [WEATHER]),
    (f" get_weather{PARIS} and more", [WEATHER, Text(" and more")]),
]

#: Text that is none even when it may be bare.
NOT_BARE = [
    'Sure: [{"name": "get_time", "arguments": {}}]',
    '[{"name": "get_time", "arguments": {}}] is what I would call',
    '{"name": "Alice", "arguments": {}}',
    '{"answer": 42}',
    "[1, 2, 3]",
    "[]",
    "```python\nprint()\n```",
    "get_weather is the tool",
    "get_we",
    "getaway{}",
    "{",
    "```",
]


def found(text, *, bare=False, is_cut=False, piece=0):
    """What is found, texts joined."""
    finder = LeakedCalls(NAMES, RuleLog(), json_alone=bare, bare_names=bare)
    pieces = [text[at : at + piece] for at in range(0, len(text), piece)] if piece else [text]
    joined = []
    for item in [item for part in pieces for item in finder.receive(part)] + finder.finish(is_cut=is_cut):
        if isinstance(item, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + item.text)
        elif item != Text(""):
            joined.append(item)
    return joined


@pytest.mark.parametrize("piece", [0, 1, 3])
@pytest.mark.parametrize(("text", "expected"), MARKED)
def test_a_marked_call_is_found(text, expected, piece):
    assert found(text, piece=piece) == expected


@pytest.mark.parametrize("piece", [0, 1, 3])
@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_call_is_returned_unchanged(text, piece):
    assert found(text, piece=piece) == [Text(text)]


@pytest.mark.parametrize("piece", [0, 1, 3])
@pytest.mark.parametrize(("text", "expected"), BARE)
def test_a_bare_call_is_found_if_that_is_on(text, expected, piece):
    assert found(text, bare=True, piece=piece) == expected


@pytest.mark.parametrize("piece", [0, 1, 3])
@pytest.mark.parametrize("text", [*NOT_BARE, *(text for text in PLAIN if text.startswith("[TOOL") or text == "Hello")])
def test_other_text_is_no_bare_call(text, piece):
    assert found(text, bare=True, piece=piece) == [Text(text)]


@pytest.mark.parametrize("text", ['[TOOL_CALLS]get_weather[ARGS]{"city":', 'get_weather{"city":'])
def test_arguments_cut_at_the_token_limit_are_a_call(text):
    assert found(text, bare=True, is_cut=True) == [FoundCall("get_weather", '{"city":')]


@pytest.mark.parametrize("text", ["[TOOL_CALLS]get_w", '[TOOL_CALLS][{"name":"get_weather","', '[{"name": "get_we'])
def test_a_cut_name_or_array_stays_text(text):
    assert found(text, bare=True, is_cut=True) == [Text(text)]


@pytest.mark.parametrize(
    ("text", "held"),
    [("Hello", ""), ("Hello [", "["), ("a [TOOL_CALL", "[TOOL_CALL"), ("[TOOL_CALLX", ""), ("[[T", "[T")],
)
def test_only_the_start_of_a_marker_is_held_back(text, held):
    finder = LeakedCalls(NAMES, RuleLog(), json_alone=False, bare_names=False)

    assert "".join(item.text for item in finder.receive(text)) + held == text


@pytest.mark.parametrize(
    "text", ["The", "[1", '{"b', "get_weather is", "```py", "```json\n{}", '[{"name": "x", "arguments": {}}]']
)
def test_an_opening_that_cannot_become_a_call_is_released_at_once(text):
    finder = LeakedCalls(NAMES, RuleLog(), json_alone=True, bare_names=True)

    assert "".join(item.text for item in finder.receive(text)) == text


def test_many_markers_cost_no_more_than_their_length():
    text = "[TOOL_CALLS]" * 50_000

    assert found(text) == [Text(text)]
    assert found("[TOOL_CALLS]get{" * 20_000) == [Text("[TOOL_CALLS]get{" * 20_000)]


@pytest.mark.parametrize(
    ("mode", "choice", "text", "is_call"),
    [
        ("off", "auto", "[TOOL_CALLS]get_time{}", False),
        ("markers", "auto", "[TOOL_CALLS]get_time{}", True),
        ("markers", "auto", '[{"name": "get_time", "arguments": {}}]', False),
        ("markers", "required", '[{"name": "get_time", "arguments": {}}]', True),
        ("markers", "named", '[{"name": "get_time", "arguments": {}}]', True),
        ("markers", "named", "get_time{}", False),
        ("all", "auto", '[{"name": "get_time", "arguments": {}}]', True),
        ("all", "auto", "get_time{}", True),
        ("all", "none", "[TOOL_CALLS]get_time{}", False),
        ("off", "named", '[{"name": "get_time", "arguments": {}}]', False),
    ],
)
def test_the_option_and_the_tool_choice_say_which_forms_are_calls(mode, choice, text, is_call):

    result = said({"content": text}, expectation=expect({"recover_tool_calls": mode}, tool_choice=choice))

    assert ("tool_calls" in result.deltas[0]) is is_call
    assert result.translator.finish_reasons == ("tool_calls" if is_call else "stop",)


def test_text_before_real_calls_is_text_even_if_it_looks_like_one():

    result = said({"content": "[TOOL_CALLS]get_ti"}, calls(call(0, "get_time", "{}", "abcDEF123")))

    assert result.deltas[0] == {"content": "[TOOL_CALLS]get_ti"}
    assert len(result.deltas) == 2


def test_a_call_may_interrupt_the_thoughts():
    result = said({"content": "[THINK]Let me see.[TOOL_CALLS]get_time[ARGS]{}"})

    assert result.deltas[0] == {"reasoning": "Let me see.", "reasoning_content": "Let me see."}
    assert result.deltas[1]["tool_calls"][0]["function"] == {"name": "get_time", "arguments": "{}"}
