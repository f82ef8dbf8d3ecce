"""
Profiles: what an upstream needs, as ordered lists of rules.

    MESSAGE_RULES   one message that is not in canonical form yet
    CHAT_RULES      the whole request: calls and results, turns, tools, parameters

The order is part of the specification: it was run over thousands of random histories against five
versions of mistral-common. Merging before pairing, for one, glues two tool turns together.
A rule that stands in a `Choice` is picked by an option; a profile is a name and its options.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from proxy.translate import (
    arguments,
    calls,
    content,
    messages,
    pairing,
    reasoning,
    sampling,
    tool_choice,
    tool_ids,
    tools,
    turns,
)
from proxy.translate.chat import MessageRule, Rule
from proxy.translate.options import Options

R = TypeVar("R")


class Choice(NamedTuple, Generic[R]):
    """The rules that an option picks from; a value that is not listed picks none."""

    option: str
    rules: Mapping[Any, R]


MESSAGE_RULES: tuple[MessageRule | Choice[MessageRule], ...] = (
    messages.developer_to_system,
    messages.tool_results_to_tool,
    messages.function_role_to_tool,
    messages.require_known_role,
    messages.function_call_to_tool_call,
    messages.refusal_to_content,
    messages.known_call_shape,
    messages.known_result_shape,
    Choice("message_name", {"prefix": messages.name_to_text}),
    Choice(
        "reasoning_history",
        {
            "drop": reasoning.reasoning_dropped,
            "keep": reasoning.reasoning_to_field,
            "chunks": reasoning.reasoning_to_chunk,
        },
    ),
    messages.known_keys_only,
    content.json_result_to_text,
    content.known_part_names,
    Choice("attachments", {"placeholder": content.attachment_to_text, "keep": content.foreign_attachment_to_text}),
    Choice("flatten_text", {True: content.text_parts_to_string}),
    content.null_content_to_empty,
    arguments.arguments_to_json_text,
    Choice("invalid_args", {"repair": arguments.arguments_repaired, "wrap": arguments.arguments_wrapped}),
)

CHAT_RULES: tuple[Rule | Choice[Rule], ...] = (
    tools.functions_to_tools,
    tools.read_tools,
    # calls and their results
    turns.empty_assistant_removed,
    calls.split_turn_to_one,
    pairing.match_results,
    Choice(
        "orphan_results",
        {
            "user_text": calls.orphan_result_to_user_text,
            "synthesize_call": calls.orphan_result_gets_call,
            "drop": calls.orphan_result_dropped,
        },
    ),
    calls.repeated_result_to_one,
    calls.missing_result_to_text,
    calls.results_follow_their_calls,
    Choice("id_mode", {"hash9": tool_ids.nine_char_tool_ids, "keep": tool_ids.tool_ids_agree}),
    Choice("tool_images", {"after": turns.images_follow_results}),
    # whose turn it is
    Choice("lead_system", {"single": turns.leading_systems_to_one}),
    Choice(
        "mid_system",
        {
            "user": turns.late_system_to_user,
            "keep": turns.misplaced_system_to_user,
            "hoist": turns.late_system_hoisted,
        },
    ),
    calls.text_before_turn_joined,
    Choice("legacy_v3", {True: turns.text_before_calls_moved}),
    Choice("empty_call_content", {"empty": turns.calls_have_empty_content}),
    Choice("merge_same_role", {True: turns.same_role_merged}),
    # "auto" bridges too: nothing here knows yet that an upstream can do without.
    Choice("bridge", {"auto": turns.bridge_tool_to_user, "always": turns.bridge_tool_to_user}),
    Choice("first_message", {"user_or_system": turns.user_before_assistant, "user": turns.user_comes_first}),
    turns.user_beside_tools,
    Choice(
        "trailing_assistant",
        {"user": turns.user_after_trailing_assistant, "continue": turns.continue_every_trailing},
    ),
    Choice(
        "prefix_form",
        {"continue_final_message": turns.prefix_to_continue, "prefix": turns.continue_to_prefix},
    ),
    turns.stray_continuation_removed,
    # tools
    tools.flat_tool_to_nested,
    Choice("custom_tools", {"function": tools.custom_tool_to_function}),
    tools.foreign_tool_removed,
    tools.known_definition_keys,
    Choice("tool_strict", {"strip": tools.strict_removed}),
    Choice("schema_clean", {"draft7": tools.schema_to_draft7}),
    tools.legal_tool_names,
    tools.repeated_tool_removed,
    tool_choice.null_choice_removed,
    tool_choice.allowed_tools_to_tools,
    tool_choice.choice_without_tools_removed,
    tool_choice.flat_choice_to_nested,
    Choice("required_word", {"required": tool_choice.any_to_required, "any": tool_choice.required_to_any}),
    tool_choice.known_choice,
    Choice("none_strips_tools", {True: tool_choice.none_removes_tools}),
    Choice("downgrade_required", {True: tool_choice.required_to_hint}),
    # parameters
    sampling.stream_to_boolean,
    Choice("parameter_names", {"vllm": sampling.random_seed_to_seed, "mistral": sampling.seed_to_random_seed}),
    Choice("parameter_names", {"mistral": sampling.max_completion_tokens_to_max_tokens}),
    Choice("parameter_names", {"vllm": sampling.hosted_parameters_removed}),
    sampling.useless_limit_removed,
    Choice("template_params", {"delete": sampling.template_removed, "pass": sampling.foreign_template_removed}),
    Choice("template_params", {"delete": sampling.special_tokens_stay_hidden}),
    sampling.effort_from_object,
    Choice("reasoning_effort", {"delete": sampling.effort_removed, "binary": sampling.effort_to_none_or_high}),
    sampling.default_temperature,
    sampling.zero_top_p_removed,
    Choice("parameter_names", {"mistral": sampling.greedy_top_p_removed}),
    Choice("parameter_names", {"mistral": sampling.hosted_temperature_capped}),
    sampling.top_logprobs_need_logprobs,
    sampling.null_count_removed,
    sampling.empty_stop_removed,
    Choice("json_object", {"schema": sampling.json_object_to_schema}),
    Choice("unknown_params", {"allow_list": sampling.foreign_parameters_removed}),
    sampling.operator_drops,
    sampling.operator_sets,
)

#: Rules that carry out the operator's wish and mend nothing: `strict` mode does not refuse them.
OPERATOR_RULES = frozenset({sampling.operator_drops, sampling.operator_sets, sampling.default_temperature})

#: Members that the rules themselves write; what the client asked for here decides how it is answered.
_OWNED = frozenset({"messages", "tools", "tool_choice", "stream", "stream_options"})

_VLLM_MISTRAL = Options()

_OPTIONS = {
    "vllm-mistral-tokenizer": _VLLM_MISTRAL,
    "vllm-hf-template": msgspec.structs.replace(
        _VLLM_MISTRAL,
        bridge="always",
        merge_same_role=True,
        lead_system="single",
        mid_system="user",
        first_message="user",
        empty_call_content="empty",
        template_params="pass",
        json_object="schema",
        recover_tool_calls="all",
    ),
    "mistral-api": msgspec.structs.replace(
        _VLLM_MISTRAL,
        bridge="always",
        first_message="user",
        prefix_form="prefix",
        attachments="keep",
        tool_images="keep",
        tool_strict="keep",
        required_word="any",
        unknown_params="allow_list",
        parameter_names="mistral",
        reasoning_effort="binary",
        stream_options="delete",
    ),
    "passthrough": msgspec.structs.replace(
        _VLLM_MISTRAL,
        ask_usage=False,
        recover_tool_calls="off",
        extract_think=False,
        reasoning_field="untouched",
        reasoning_fallback=False,
        strip_vendor_fields=False,
    ),
}

PROFILE_NAMES = tuple(_OPTIONS)

#: The profile that is chosen by asking the upstream, see `capabilities`; until it has answered it is `UNPROBED`.
AUTO: Final = "auto"
UNPROBED: Final = "vllm-mistral-tokenizer"
#: What a configuration may name.
PROFILE_CHOICES = (AUTO, *PROFILE_NAMES)


# Clients that read every delta of a tool call as a whole call, by what their User-Agent holds.
# Sources: @ai-sdk/mistral 3.0.58, mistralai 2.x for Python and TypeScript (their custom user agents).
_TAKES_WHOLE_CALLS = re.compile(r"ai-sdk/mistral/|mistral-client-(?:python|typescript)/")


class Profile(NamedTuple):
    """An upstream: its options, and the rules they pick. `passthrough` has none."""

    name: str
    options: Options
    whole_calls: Options
    message_rules: tuple[MessageRule, ...]
    rules: tuple[Rule, ...]

    def options_for(self, user_agent: str) -> Options:
        """The options for one client: `tool_stream=auto` is decided by its User-Agent (R9)."""
        is_whole = self.options.tool_stream == "auto" and _TAKES_WHOLE_CALLS.search(user_agent)
        return self.whole_calls if is_whole else self.options


def build_profile(name: str, overrides: Mapping[str, Any] | None = None) -> Profile:
    """
    Return the profile of that name with some of its options replaced. `auto` is what it is before a probe.

    Raises:
        ValueError: an unknown profile or option, or a value that the option does not have.
    """
    if name not in PROFILE_CHOICES:
        raise ValueError(f"unknown profile {name!r}: use one of {', '.join(PROFILE_CHOICES)}")
    options = _with_overrides(_OPTIONS[UNPROBED if name == AUTO else name], overrides or {})
    if owned := sorted(_OWNED & {*options.param_drop, *options.param_set}):
        raise ValueError(f"bad profile option: param_drop and param_set cannot name {', '.join(owned)}")
    whole_calls = msgspec.structs.replace(options, tool_stream="whole")
    if name == "passthrough":
        return Profile(name, options, options, (), ())
    return Profile(name, options, whole_calls, _pick(MESSAGE_RULES, options), _pick(CHAT_RULES, options))


def _with_overrides(options: Options, overrides: Mapping[str, Any]) -> Options:
    try:
        return msgspec.convert({**msgspec.structs.asdict(options), **overrides}, Options)
    except msgspec.ValidationError as exc:
        raise ValueError(f"bad profile option: {exc}") from None


def _pick(table: tuple[R | Choice[R], ...], options: Options) -> tuple[R, ...]:
    picked: list[R] = []
    for entry in table:
        if not isinstance(entry, Choice):
            picked.append(entry)
        elif (rule := entry.rules.get(getattr(options, entry.option))) is not None:
            picked.append(rule)
    return tuple(picked)
