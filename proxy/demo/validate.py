"""
Every check of the demo upstream, in the order in which a vLLM with an old mistral-common would make them.

The server imitated is vLLM 0.32 (its own checks and their texts) around a mistral-common of at most 1.11.0 with a v11
tokenizer: the strictest pair that users meet. Pure: decoded JSON in, a Refusal out or nothing.
"""

from collections.abc import Callable
from typing import Any

from proxy.demo import conversation, messages, parameters, tools
from proxy.demo.parameters import Body
from proxy.demo.refusal import field_refused, parameter_refused

CHECKS: tuple[Callable[[Body], None], ...] = (
    # vLLM reads the body
    parameters.stream_is_a_boolean,
    parameters.stream_options_need_a_stream,
    parameters.top_logprobs_need_logprobs,
    parameters.response_format_is_known,
    tools.tools_are_not_empty,
    tools.tool_choice_is_possible,
    parameters.stops_are_texts,
    messages.messages_are_a_list,
    messages.messages_are_objects,
    messages.contents_are_texts_or_parts,
    tools.tools_are_functions,
    parameters.model_is_served,
    # vLLM renders the conversation
    messages.calls_are_function_calls,
    messages.results_name_their_call,
    parameters.template_is_fixed,
    parameters.effort_is_not_offered,
    messages.contents_are_present,
    messages.parts_are_text,
    messages.generation_prompt_fits,
    # mistral-common takes it over
    conversation.roles_are_known,
    conversation.no_extra_keys,
    tools.tools_have_no_extra_keys,
    conversation.one_message_is_a_question,
    conversation.roles_follow_in_order,
    conversation.results_pair_with_calls,
    conversation.ids_and_names_are_plain,
    tools.tools_have_valid_schemas,
    conversation.assistants_say_something,
    # vLLM prepares the sampling
    parameters.token_limit_is_positive,
    parameters.answers_are_countable,
    parameters.sampling_is_in_range,
    parameters.bias_is_in_the_vocabulary,
)

#: tokens around the words of a conversation: the beginning, [INST] and [/INST]
_FRAME_TOKENS = 3


def check_request(body: Any, max_model_len: int) -> None:
    """Raise the Refusal that `body`, any decoded JSON, earns from a model with a context of `max_model_len` tokens."""
    if not isinstance(body, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise field_refused("model_attributes_type", "", message, body)
    for check in CHECKS:
        check(body)
    parameters.answer_fits(body, max_model_len)
    _prompt_fits(body, max_model_len)


def prompt_tokens(body: Body) -> int:
    """Return the length of a checked request's prompt: its messages' words, and the frame around them."""
    words = sum(len(conversation.text_of(message.get("content")).split()) for message in body["messages"])
    return words + _FRAME_TOKENS


def _prompt_fits(body: Body, max_model_len: int) -> None:
    """Refuse a prompt that is longer than the context."""
    length = prompt_tokens(body)
    if length > max_model_len:
        message = (
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains {length} "
            "input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt."
        )
        raise parameter_refused(message, "input_tokens", length)
