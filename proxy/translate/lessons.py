"""
What a refusal teaches: the texts of a model server that name a rule which it needs after all (Q29).

A probe asks before, a lesson comes after: the first request that is refused with one of these texts flips the option,
and may be sent once more. Only texts that an option can answer are here. A refusal quotes little of what a client
wrote, and the options here cost no more than rules that other servers need anyway.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from proxy.translate.options import Options


class Lesson(NamedTuple):
    """A text, and the options that avoid it."""

    text: re.Pattern[str]
    options: Mapping[str, Any]
    source: str


#: llama.cpp writes where in the template it was before the template's own words.
_BEGIN: Final = r"(?:^|Exception: )"


def _lesson(text: str, source: str, **options: Any) -> Lesson:
    return Lesson(re.compile(text, re.DOTALL), MappingProxyType(options), source)


#: The first one that fits is taken.
LESSONS: Final[tuple[Lesson, ...]] = (
    _lesson(
        _BEGIN + r"Unexpected role 'user' after role 'tool'",
        "mistral-common up to 1.11.0; api.mistral.ai, code 3230",
        bridge="always",
    ),
    _lesson(
        _BEGIN + r"(?:After the optional system message, c|C)onversation roles must alternate",
        "templates of Devstral and Ministral 2512; vllm#6862, llama.cpp#19851",
        bridge="always",
        merge_same_role=True,
        lead_system="single",
        mid_system="user",
        first_message="user",
        empty_call_content="empty",
    ),
    _lesson(
        _BEGIN + r"Only user and assistant roles are supported, with the exception of an initial optional system",
        "vLLM's examples/tool_chat_template_mistral_parallel.jinja",
        lead_system="single",
        mid_system="user",
    ),
    _lesson(
        _BEGIN + r"Unexpected role 'system' after role '",
        "templates that mistral-common generates",
        mid_system="user",
    ),
    _lesson(
        _BEGIN + r"Conversation must start with a user (?:or system )?message",
        "templates that mistral-common generates, v1 to v3",
        first_message="user",
    ),
    _lesson(
        _BEGIN
        + r"(?:Tool call id (?:was .* but must be a-z|must be a non-empty|has to be defined)"
        + r"|Tool call IDs should be alphanumeric|Tool call must have an id of 9|Tool message must have a call_id"
        + r"|Duplicate tool call id)",
        "mistral-common, all versions; templates; ids that chat cut to one end",
        id_mode="hash9",
    ),
    _lesson(
        _BEGIN
        + r"Assistant message (?:must have either content or tool_calls, but not both"
        + r"|cannot have both content and tool calls)",
        "mistral-common and templates, tokenizers v1 to v3",
        legacy_v3=True,
    ),
    _lesson(
        r"\bstrict\b.{0,40}Extra inputs are not permitted",
        "mistral-common up to 1.9",
        tool_strict="strip",
    ),
    _lesson(
        r"\breasoning\w*.{0,40}Extra inputs are not permitted",
        "api.mistral.ai, crush#1590, litellm#30835",
        reasoning_history="drop",
    ),
    _lesson(
        r"^Extra inputs are not permitted",
        "mistral-common up to 1.11.0, without the place",
        tool_strict="strip",
        reasoning_history="drop",
    ),
    _lesson(
        _BEGIN
        + r"(?:think tokens are not available for this tokenizer|Think not implemented for tokenizer"
        + r"|Unexpected content chunk types in assistant message: \['ThinkChunk'\]"
        + r"|`reasoning_content` and `reasoning` should be equal|Reasoning input is not enabled for this model)",
        "mistral-common; api.mistral.ai, code 3051, vibe#758",
        reasoning_history="drop",
    ),
    _lesson(
        _BEGIN + r"chat_template is not supported for Mistral tokenizers",
        "vLLM, vllm/tokenizers/mistral.py, validate_request_params",
        template_params="delete",
    ),
    # The line that does not compile is the one of the calls, not the one of `response_format`.
    _lesson(
        r"^Grammar error: at (\d+)\(\d+\): failed to compile JSON schema.*\n +\1 \| fcalls:",
        "live vLLM 0.32.0, llguidance: a keyword that a grammar lacks, in a tool with `strict`",
        tool_strict="strip",
    ),
)

#: `auto` bridges as `always` does.
_SAME: Final = MappingProxyType({("bridge", "auto"): "always"})


def learned_from(status: int, message: str, options: Options) -> Mapping[str, Any] | None:
    """
    Return the options that would have avoided a refusal; None if there are none, or they were in force already.

    `status` and `message` are those of the `UpstreamRejected` that `translate_failure` made, `options` those of the
    profile that the request was translated with.
    """
    if status not in (400, 422):
        return None
    text = message.partition(" (devstral-proxy: ")[0]  # behind it stands our own advice
    lesson = next((lesson for lesson in LESSONS if lesson.text.search(text)), None)
    if lesson is None:
        return None
    new = {name: value for name, value in lesson.options.items() if _in_force(options, name) != value}
    return new or None


def _in_force(options: Options, name: str) -> Any:
    value = getattr(options, name)
    return _SAME.get((name, value), value) if isinstance(value, str) else value
