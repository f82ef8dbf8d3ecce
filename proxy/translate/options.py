"""The choices a profile is made of: one frozen record, every field with the rule that reads it."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Choices for one upstream. The defaults are those of `vllm-mistral-tokenizer`."""

    # --- messages
    id_mode: Literal["hash9", "keep"] = "hash9"
    message_name: Literal["drop", "prefix"] = "drop"
    flatten_text: bool = True
    vision: bool = True
    attachments: Literal["placeholder", "keep"] = "placeholder"
    tool_images: Literal["after", "keep"] = "after"
    legacy_v3: bool = False
    empty_call_content: Literal["null", "empty"] = "null"
    reasoning_history: Literal["drop", "keep", "chunks"] = "drop"
    invalid_args: Literal["repair", "wrap", "keep"] = "repair"
    orphan_results: Literal["user_text", "synthesize_call", "drop"] = "user_text"
    missing_result_text: str = "[no result was provided for this tool call]"
    mid_system: Literal["user", "keep", "hoist"] = "keep"
    lead_system: Literal["keep", "single"] = "keep"
    merge_same_role: bool = False
    bridge: Literal["auto", "always", "never"] = "auto"
    bridge_text: str = "OK."
    first_message: Literal["user_or_system", "user"] = "user_or_system"
    first_user_text: str = "(start of conversation)"
    trailing_assistant: Literal["user", "continue", "error"] = "user"
    continue_text: str = "Continue."
    prefix_form: Literal["continue_final_message", "prefix"] = "continue_final_message"

    # --- tools
    custom_tools: Literal["function", "drop"] = "function"
    tool_strict: Literal["strip", "keep"] = "strip"
    schema_clean: Literal["draft7", "none"] = "draft7"
    required_word: Literal["required", "any"] = "required"
    none_strips_tools: bool = True
    downgrade_required: bool = False

    # --- parameters
    unknown_params: Literal["pass", "allow_list"] = "pass"
    param_allow: tuple[str, ...] = ()
    param_drop: tuple[str, ...] = ()
    param_set: Mapping[str, Any] = {}
    parameter_names: Literal["vllm", "mistral"] = "vllm"
    template_params: Literal["delete", "pass"] = "delete"
    reasoning_effort: Literal["delete", "binary", "pass"] = "delete"
    default_temperature: float | None = None
    json_object: Literal["pass", "schema"] = "pass"
    stream_options: Literal["pass", "delete"] = "pass"
    ask_usage: bool = True
    upstream_stream: Literal["same", "never", "never_with_tools"] = "same"

    # --- answers
    recover_tool_calls: Literal["off", "markers", "all"] = "markers"
    client_ids: Literal["upstream", "call_prefix"] = "upstream"
    trailing_text: Literal["content", "drop"] = "content"
    bad_args: Literal["keep", "repair"] = "keep"
    tool_stream: Literal["auto", "incremental", "whole"] = "auto"
    retry_swallowed: Literal["off", "non_stream"] = "off"
    named_finish: Literal["tool_calls", "stop"] = "tool_calls"
    extract_think: bool = True
    reasoning_field: Literal["both", "reasoning_content", "reasoning", "content", "drop", "untouched"] = "both"
    reasoning_fallback: bool = True
    strip_vendor_fields: bool = True
