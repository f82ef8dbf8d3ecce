"""What a live refusal teaches, by the texts of A.1 as they reach a client, our own advice behind them included."""

import json

import pytest

from proxy.translate.failure import translate_failure
from proxy.translate.lessons import LESSONS, learned_from
from proxy.translate.profile import UNPROBED, build_profile

#: As if everything had been spared, or switched off.
RELAXED = build_profile(
    "vllm-hf-template",
    {
        "bridge": "never",
        "id_mode": "keep",
        "merge_same_role": False,
        "lead_system": "keep",
        "mid_system": "keep",
        "first_message": "user_or_system",
        "empty_call_content": "null",
        "tool_strict": "keep",
        "reasoning_history": "keep",
    },
).options
ALTERNATING = {
    "bridge": "always",
    "merge_same_role": True,
    "lead_system": "single",
    "mid_system": "user",
    "first_message": "user",
    "empty_call_content": "empty",
}
TEXTS = {
    "Unexpected role 'user' after role 'tool'": {"bridge": "always"},
    "After the optional system message, conversation roles must alternate user and assistant roles except for tool"
    " calls and results.": ALTERNATING,
    "After the optional system message, conversation roles must alternate user/assistant/user/assistant/...": (
        ALTERNATING
    ),
    "Conversation roles must alternate user/assistant/user/assistant/...": ALTERNATING,
    "\n------------\nWhile executing CallExpression at line 84, column 24 in source:\n...{{- raise_exception(...\n"
    "Error: Jinja Exception: After the optional system message, conversation roles must alternate user and"
    " assistant roles except for tool calls and results.": ALTERNATING,
    "Only user and assistant roles are supported, with the exception of an initial optional system message!": {
        "lead_system": "single",
        "mid_system": "user",
    },
    "Unexpected role 'system' after role 'assistant'": {"mid_system": "user"},
    "Conversation must start with a user message, got assistant.": {"first_message": "user"},
    "Conversation must start with a user or system message, got assistant.": {"first_message": "user"},
    "Tool call id was call_PTLP8 but must be a-z, A-Z, 0-9, with a length of 9.": {"id_mode": "hash9"},
    "Tool call id was  but must be a-z, A-Z, 0-9, with a length of 9.": {"id_mode": "hash9"},
    "Tool call id must be a non-empty string other than 'null' for tokenizer version 13 or newer.": {
        "id_mode": "hash9"
    },
    "Tool call id has to be defined in serving mode.": {"id_mode": "hash9"},
    "Tool call IDs should be alphanumeric strings with length >= 9! (1)": {"id_mode": "hash9"},
    "Tool call must have an id of 9 characters or numbers.": {"id_mode": "hash9"},
    "Tool message must have a call_id or tool_call_id of 9 characters or numbers.": {"id_mode": "hash9"},
    "Duplicate tool call id samesame1 in assistant message": {"id_mode": "hash9"},
    "Assistant message must have either content or tool_calls, but not both.": {"legacy_v3": True},
    "Assistant message cannot have both content and tool calls.": {"legacy_v3": True},
    "1 validation error for Tool\nfunction.strict\n  Extra inputs are not permitted [type=extra_forbidden,"
    " input_value=True, input_type=bool]": {"tool_strict": "strip"},
    "Extra inputs are not permitted": {"tool_strict": "strip", "reasoning_history": "drop"},
    "think tokens are not available for this tokenizer.": {"reasoning_history": "drop"},
    "Think not implemented for tokenizer < V13.": {"reasoning_history": "drop"},
    "Unexpected content chunk types in assistant message: ['ThinkChunk']": {"reasoning_history": "drop"},
    "`reasoning_content` and `reasoning` should be equal.": {"reasoning_history": "drop"},
    "Reasoning input is not enabled for this model": {"reasoning_history": "drop"},
    "chat_template is not supported for Mistral tokenizers.": {"template_params": "delete"},
    # live vLLM 0.32.0
    'Grammar error: at 3(19): failed to compile JSON schema: Unimplemented keys: ["not"]\n   1 | start: body\n'
    "   2 | body: think? (content | fcalls)\n"
    '   3 | fcalls: content? (<[9]> SAFE_WS? "get_time" <[32]> SAFE_WS? %json {"type": "object"': {
        "tool_strict": "strip"
    },
}
OF_NO_USE = {
    "an unmatched call": "Not the same number of function calls and responses",
    "an image": "devstral is not a multimodal model",
    "too long": "This model's maximum context length is 4096 tokens. Please reduce the length of the input prompt.",
    "a wrong schema": "Invalid tool schema: 'Unexpected role 'user' after role 'tool'' is not a 'regex'",
    "an unknown key elsewhere": "1 validation error for UserMessage\nname\n  Extra inputs are not permitted",
    "a schema of response_format": "Grammar error: at 2(15): failed to compile JSON schema: Unimplemented keys: []\n"
    '   1 | start: body | json_grammar\n   2 | json_grammar: SAFE_WS? %json {"not": {}}\n'
    '                     ^\n   3 | body: think? (content | fcalls)\n   4 | fcalls: content? (<[9]> "get_time"',
    "nothing": "",
    "our own advice": "no (devstral-proxy: strict: Extra inputs are not permitted.)",
}


def rejected(message, status=400):
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return translate_failure(status, json.dumps({"error": error}).encode())


def learned(message, options=RELAXED, status=400):
    error = rejected(message, status)
    return learned_from(error.status, error.message, options)


@pytest.mark.parametrize(("text", "options"), TEXTS.items(), ids=lambda value: str(value)[:48])
def test_a_known_refusal_names_the_options_that_avoid_it(text, options):
    assert learned(text) == options


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:48])
def test_a_refusal_teaches_nothing_once_its_options_are_in_force(text):
    """The second attempt would be the same bytes."""
    options = build_profile(UNPROBED, {**vars_of(RELAXED), **learned(text)}).options

    assert learned(text, options) is None


@pytest.mark.parametrize("text", OF_NO_USE.values(), ids=OF_NO_USE)
def test_a_refusal_that_no_option_avoids_teaches_nothing(text):
    assert learned(text) is None


@pytest.mark.parametrize("status", [401, 404, 429, 502, 503])
def test_only_a_refusal_of_the_body_teaches(status):
    assert learned("Unexpected role 'user' after role 'tool'", status=status) is None


def test_a_template_that_fails_as_the_servers_own_fault_teaches_as_well():
    """llama.cpp answers 500 where its template refuses (llama.cpp#19851)."""
    assert learned(f"Jinja Exception: {list(TEXTS)[1]}", status=500) == ALTERNATING


def test_the_default_bridge_is_as_good_as_always():
    assert learned("Unexpected role 'user' after role 'tool'", build_profile(UNPROBED).options) is None


def test_every_lesson_has_a_text_here():
    lessons = [lesson for lesson in LESSONS if not any(lesson.text.search(text) for text in TEXTS)]

    assert [lesson.source for lesson in lessons] == ["api.mistral.ai, crush#1590, litellm#30835"]
    detail = {
        "loc": ["body", "messages", 31, "assistant", "reasoning_content"],
        "msg": "Extra inputs are not permitted",
    }
    error = translate_failure(422, json.dumps({"object": "error", "message": {"detail": [detail]}}).encode())
    assert learned_from(error.status, error.message, RELAXED) == {"reasoning_history": "drop"}


def vars_of(options):
    return {name: getattr(options, name) for name in options.__struct_fields__}
