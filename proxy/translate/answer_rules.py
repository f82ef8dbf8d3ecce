"""The rules of the way back, by name: what each one changes in an answer. R-numbers are the specification's."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

ANSWER_RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "role_is_assistant": "R1: an answer is the assistant's; vLLM names it after a last message to go on from.",
        "one_role_first": "R1: each choice begins with exactly one role chunk; later roles are dropped.",
        "constant_envelope": "R1: id, model, created and object are constant over a stream; what is missing is filled.",
        "drop_empty_deltas": "R1: chunks that say nothing are dropped (vLLM 0.13 sends `delta: {}` after calls).",
        "list_content_to_text": "R2: the hosted API's list of parts becomes text; thinking parts become reasoning.",
        "empty_content_to_null": "R2, H9: a message with calls and no text has content null, not an empty string.",
        "drop_echoed_prefix": "R2: the hosted API repeats a continued message; the repetition is removed once.",
        "drop_space_before_calls": "R2, H9: white space at the end of an answer with calls is dropped.",
        "recover_leaked_calls": "R3, H7: calls that reached `content` as text become tool calls.",
        "restore_tool_names": "R5: tools are called by the names the client gave them.",
        "function_to_custom_call": "R5: a call of a tool declared as `custom` goes back as plain text.",
        "tool_call_to_function_call": "R5: a client that sent `functions` gets `function_call`.",
        "nine_char_call_ids": "R6, H2: every id has nine alphanumerics; missing, repeated, odd ones become a digest.",
        "one_index_per_call": "R6, H11: every streamed call has an int index of its own, id, type and name come once.",
        "clean_call_names": "R7: `[ARGS]` or a glued call id is removed from a name (tokenizer v11, older parsers).",
        "trailing_text_to_content": "R7: text after the arguments' closing brace is content (vLLM 0.32, vllm#48975).",
        "trailing_text_to_nothing": "R7: text after the arguments' closing brace is dropped, as configured.",
        "drop_argument_markers": "R7: markers in front of the arguments are removed (vLLM 0.19 to 0.24, vllm#37081).",
        "empty_arguments_to_object": "R8: a call without arguments has `{}` (vLLM 0.32 streams an empty string).",
        "object_arguments_to_text": "R8: arguments sent as a JSON object become its text.",
        "close_cut_arguments": "R8: what is missing to close cut arguments is appended, as configured.",
        "one_delta_per_call": "R9: each call comes whole in one delta, as configured.",
        "finish_by_content": "R10: the finish reason is one that OpenAI has, and `tool_calls` where there are calls.",
        "cut_call_to_length": "R10, H8: an answer that ends inside a call says `length`; no arguments are invented.",
        "think_tags_to_reasoning": "R11: `[THINK]` or `<think>` at the start of content becomes reasoning.",
        "reasoning_fields": "R11: reasoning is spelled as configured: `reasoning`, `reasoning_content` or both.",
        "reasoning_to_content": "R11: an answer that is nothing but reasoning is repeated as content.",
        "usage_as_asked": "R12: usage comes in one last chunk if the client asked for it, else not at all.",
        "strip_vendor_fields": "R14: keys that only vLLM has are removed.",
    }
)


class RuleLog:
    """The rules that changed something in one answer, in the order they first did, and what its calls lacked."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        #: how many calls had leaked into the text
        self.recovered = 0
        #: what was wrong with calls, once for each that had it
        self.malformed: tuple[str, ...] = ()

    def add(self, name: str) -> None:
        """Note that the rule `name` changed something."""
        self._names[name] = None

    def recover(self, calls: int) -> None:
        """Note that so many calls had leaked into the text."""
        self.add("recover_leaked_calls")
        self.recovered += calls

    def names(self) -> tuple[str, ...]:
        """The names noted so far."""
        return tuple(self._names)
