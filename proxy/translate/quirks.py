"""
What single versions of vLLM and mistral-common do differently, as data: a row says since when, who says so, and what
mends it.

    VLLM_QUIRKS      by the version that GET /version tells
    LIBRARY_QUIRKS   by the version of mistral-common, which no server tells: the probe that shows it is named
    LIBRARY_FLOORS   the oldest mistral-common that a vLLM installs; containers usually have that one

What a probe can see is left to the probe (`capabilities`). A row of `VLLM_QUIRKS` sets options only where nothing
but the version tells.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec

Version = tuple[int, int, int]
#: Who turns messages into a prompt: mistral-common, or the chat template of a Hugging Face tokenizer.
Mode = Literal["mistral", "hf"]

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_VERSION: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


class Quirk(msgspec.Struct, frozen=True, kw_only=True):
    """
    One row. It holds from `since` on and before `before`; None is without end. `mode` None is both.

    `options` are what the profile `auto` sets for it; `seen_by` names the probe, the rule or the option that sees to
    it where nothing is set, "" where nothing can.
    """

    fact: str
    source: str
    since: Version | None = None
    before: Version | None = None
    mode: Mode | None = None
    options: Mapping[str, Any] = _NOTHING
    seen_by: str = ""

    def holds_for(self, version: Version) -> bool:
        return (self.since or version) <= version and (self.before is None or version < self.before)


VLLM_QUIRKS: Final[tuple[Quirk, ...]] = (
    Quirk(
        before=(0, 13, 0),
        mode="mistral",
        fact="Streamed tool calls are swallowed (tokenizer v11 and later) or damaged (v3, v7); whole answers are not.",
        options=MappingProxyType({"upstream_stream": "never_with_tools"}),
        source="tool parser of 0.11.2; vllm#20028, #17585, #13622",
    ),
    Quirk(
        before=(0, 20, 0),
        mode="hf",
        fact="The tool parser takes every Hugging Face tokenizer for one before v11: streamed calls are swallowed.",
        options=MappingProxyType({"upstream_stream": "never_with_tools"}),
        source="vllm#39294",
    ),
    Quirk(
        fact="Chat cuts tool ids to their last nine characters, /tokenize does not: long ids with one end collide.",
        mode="mistral",
        seen_by="id_mode=hash9",
        source="0.32.0, vllm/tokenizers/mistral.py, truncate_tool_call_ids; renderers/online_renderer.py",
    ),
    Quirk(
        before=(0, 10, 0),
        mode="mistral",
        fact="A last assistant message is continued without being asked for; later it is refused.",
        seen_by="user_after_trailing_assistant",
        source="0.9.2",
    ),
    Quirk(
        before=(0, 10, 0),
        mode="mistral",
        fact="`skip_special_tokens: false` is an error.",
        seen_by="special_tokens_stay_hidden",
        source="0.8.5, 0.9.2",
    ),
    Quirk(
        before=(0, 11, 0),
        fact="Reasoning comes as `reasoning_content`; 0.11 to 0.13 send `reasoning` too, 0.32 only that.",
        seen_by="reasoning_fields",
        source="0.10.2, 0.11.2, 0.13.0, 0.32.0",
    ),
    Quirk(
        since=(0, 11, 0),
        before=(0, 20, 0),
        mode="mistral",
        fact="Past `reasoning` is deleted; from 0.22 on it goes to mistral-common, which may refuse it.",
        seen_by="reasoning_history=drop",
        source="0.11.2 to 0.19.1, 0.22.1",
    ),
    Quirk(
        since=(0, 12, 0),
        before=(0, 17, 0),
        mode="mistral",
        fact="Unknown keys of tools are removed by vLLM itself, not in the versions before and after.",
        seen_by="strict_tool",
        source="0.12.0 to 0.16.0, 0.19.1",
    ),
    Quirk(
        since=(0, 18, 0),
        before=(0, 18, 1),
        mode="mistral",
        fact="`reasoning_effort` fails, even null.",
        seen_by="reasoning_effort=delete",
        source="vllm#38560",
    ),
    Quirk(
        since=(0, 19, 0),
        mode="mistral",
        fact="`strict: true` in a tool makes a grammar of its schema; a keyword the grammar lacks is a 400.",
        seen_by="strict_tool",
        source="vllm#39217; live 0.32.0: `Grammar error: … failed to compile JSON schema`",
    ),
    Quirk(
        since=(0, 19, 0),
        before=(0, 25, 0),
        fact="Arguments of a required or named call begin with `[TOOL_CALLS]name`.",
        seen_by="drop_argument_markers",
        source="vllm#37081",
    ),
    Quirk(
        since=(0, 22, 1),
        before=(0, 22, 2),
        fact="Calls of Devstral Small 2 are not parsed.",
        seen_by="recover_leaked_calls",
        source="vllm#44911",
    ),
    Quirk(
        since=(0, 24, 0),
        before=(0, 25, 0),
        fact="A required call that is streamed has the id `chatcmpl-tool-…`.",
        seen_by="nine_char_call_ids",
        source="vllm#47734",
    ),
    Quirk(
        before=(0, 31, 0),
        fact="A streamed call that was cut by the token limit says `tool_calls`; 0.32 says `length`.",
        seen_by="cut_call_to_length",
        source="0.24.0, 0.27.1, 0.30.0, 0.32.0; vllm#53269, #46303, #47963",
    ),
    Quirk(
        since=(0, 32, 0),
        before=(0, 33, 0),
        fact="Text behind a streamed call is part of its arguments; a call without arguments has an empty string.",
        seen_by="trailing_text_to_content",
        source="live 0.32.0; vllm#48975",
    ),
    Quirk(
        since=(0, 32, 0),
        before=(0, 33, 0),
        fact="`tool_choice: null` with tools drops the model's call without a word.",
        seen_by="null_choice_removed",
        source="live 0.32.0",
    ),
    Quirk(
        since=(0, 32, 0),
        before=(0, 33, 0),
        mode="hf",
        fact="A required or named call comes as text; `response_format` `json_object` is a 500.",
        seen_by="recover_tool_calls=all, json_object=schema",
        source="live 0.32.0, tokenizer v13",
    ),
    Quirk(
        since=(0, 32, 0),
        before=(0, 33, 0),
        mode="mistral",
        fact="/tokenize refuses content null beside calls (`tool_calls must be a list`), which chat takes.",
        seen_by="calls",
        source="live 0.32.0",
    ),
    Quirk(
        since=(0, 32, 0),
        before=(0, 33, 0),
        mode="mistral",
        fact="With mistral-common 1.13 nearly every chat request is a 400 (`GrammarFactory.get_lark_from_jinja()"
        " missing 1 required positional argument`): install 1.12.",
        source="live 0.32.0 with 1.13.1",
    ),
)

LIBRARY_QUIRKS: Final[tuple[Quirk, ...]] = (
    Quirk(
        before=(1, 11, 1),
        fact="A user message after a tool result is refused.",
        seen_by="user_after_tool",
        source="1.5.6, 1.6.4, 1.8.8, 1.10.0, 1.11.0, 1.11.1; zed#53392",
    ),
    Quirk(
        before=(1, 11, 1),
        fact="A key of a message, a tool or a part that is not known is refused.",
        seen_by="extra_tool_key",
        source="1.8.8, 1.10.0, 1.11.1; vibe#70",
    ),
    Quirk(
        before=(1, 10, 0),
        fact="`strict` in a tool is refused.",
        seen_by="strict_tool",
        source="1.8.8, 1.10.0",
    ),
    Quirk(
        before=(1, 12, 0),
        fact="Tool ids must be nine letters or digits with every tokenizer; from 1.12 on only with v3 to v11.",
        seen_by="short_id",
        source="1.11.7, 1.12.0; protocol/instruct/validator.py, _TOOL_CALL_ID_REGEX",
    ),
    Quirk(
        before=(1, 13, 1),
        fact="The role `developer` is not known.",
        seen_by="developer_to_system",
        source="1.13.0, 1.13.1",
    ),
    Quirk(
        before=(1, 8, 8),
        fact="Lists of text parts are refused in system, assistant and tool messages.",
        seen_by="text_parts_to_string",
        source="1.6.4, 1.8.8",
    ),
    Quirk(
        since=(1, 11, 7),
        fact="`reasoning` becomes a thinking part, which tokenizers before v13 refuse; older versions ignore it.",
        seen_by="reasoning",
        source="1.10.0, 1.11.7, 1.13.1",
    ),
    Quirk(
        fact="Tokenizers v1 to v3 take text or calls in an assistant message, not both.",
        seen_by="text_beside_calls",
        source="1.13.1, protocol/instruct/validator.py, _allow_tool_call_and_content",
    ),
    Quirk(
        fact="A system message after an assistant or a tool is refused.",
        seen_by="late_system",
        source="1.13.1, protocol/instruct/validator.py, _validate_message_order",
    ),
)

#: Source: the METADATA of each wheel, `Requires-Dist: mistral_common`.
LIBRARY_FLOORS: Final[tuple[tuple[str, str], ...]] = (
    ("0.8.5", "1.5.4"),
    ("0.9.2", "1.6.2"),
    ("0.10.2", "1.8.2"),
    ("0.11.2", "1.8.5"),
    ("0.16.0", "1.9.0"),
    ("0.19.1", "1.10.0"),
    ("0.22.1", "1.11.2"),
    ("0.24.0", "1.11.3"),
    ("0.27.1", "1.11.6"),
)


def parse_version(text: str | None) -> Version | None:
    """
    Return the numbers that a version begins with, None if it does not begin like one.

    A build from between two releases (`0.13.0rc2`, `0.13.0.dev7+g1`) counts as the release it leads to.
    """
    found = _VERSION.match(text or "")
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def quirks_for(version: str | None, mode: Mode | None = None) -> tuple[Quirk, ...]:
    """Return the rows of `VLLM_QUIRKS` that hold for a version in a mode; none for a version that is not known."""
    numbers = parse_version(version)
    if numbers is None:
        return ()
    return tuple(quirk for quirk in VLLM_QUIRKS if quirk.mode in (None, mode) and quirk.holds_for(numbers))
