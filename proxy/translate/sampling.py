"""Rules on the other members of a request: names, ranges, what a server knows."""

from typing import Any

from msgspec import UNSET

from proxy.errors import InvalidRequest
from proxy.translate.chat import Chat, JsonPath, only_with

#: What api.mistral.ai takes (mistralai 3.7.0, ChatCompletionRequest); anything else is a 422 there.
MISTRAL_PARAMETERS = frozenset({
    "model", "messages", "temperature", "top_p", "max_tokens", "stream", "stop", "random_seed", "metadata",
    "response_format", "tools", "tool_choice", "presence_penalty", "frequency_penalty", "min_tokens",
    "repetition_penalty", "top_k", "logprobs", "top_logprobs", "prompt_logprobs", "top_prompt_logprobs", "n",
    "prediction", "parallel_tool_calls", "reasoning_effort", "prompt_mode", "guardrails", "prompt_cache_key",
    "service_tier", "safe_prompt",
})  # fmt: skip

#: How the answer travels is decided after the rules (`request._transport`).
_TRANSPORT = ("stream_options",)

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}

_EFFORTS = {
    "none": "none", "minimal": "none", "low": "none",
    "medium": "high", "high": "high", "xhigh": "high", "max": "high",
}  # fmt: skip

# Above this the hosted API refuses. Not documented; seen in answers of 2026.
_HOSTED_MAX_TEMPERATURE = 1.5


@only_with("stream")
def stream_to_boolean(chat: Chat) -> JsonPath | None:
    """
    `stream` is true or false; vLLM reads "true" and 1 that way too, and so do we (Q24).

    Raises:
        InvalidRequest: anything else.
    """
    value = chat.read("stream")
    if value is UNSET or value is None or isinstance(value, bool):
        return None
    chat.members["stream"] = wants_stream(chat)
    return ("stream",)


def wants_stream(chat: Chat) -> bool:
    """
    Tell whether the client asked for a stream.

    Raises:
        InvalidRequest: `stream` is nothing that vLLM reads as true or false.
    """
    value = chat.read("stream")
    if value is UNSET or value is None:
        return False
    word = str(value).lower() if isinstance(value, str | int) else ""
    if word not in _BOOLEANS:
        raise InvalidRequest("`stream` must be true or false.", param="stream")
    return _BOOLEANS[word]


def foreign_parameters_removed(chat: Chat) -> JsonPath | None:
    """Parameters outside the hosted API's schema are left out: it answers 422 to any other (Q22)."""
    allowed = MISTRAL_PARAMETERS.union(chat.options.param_allow, _TRANSPORT)
    return chat.drop(*[name for name in chat.members if name not in allowed])


@only_with("safe_prompt", "prompt_mode", "guardrails")
def hosted_parameters_removed(chat: Chat) -> JsonPath | None:
    """`safe_prompt`, `prompt_mode` and `guardrails` are the hosted API's alone; vLLM ignores or refuses them (Q22)."""
    return chat.drop("safe_prompt", "prompt_mode", "guardrails")


def operator_drops(chat: Chat) -> JsonPath | None:
    """Parameters that the operator lists in `param_drop` are left out (Q22)."""
    return chat.drop(*chat.options.param_drop)


def operator_sets(chat: Chat) -> JsonPath | None:
    """Parameters that the operator lists in `param_set` have the operator's value (Q22)."""
    changed: JsonPath | None = None
    for name, value in chat.options.param_set.items():
        if chat.read(name) != value:
            chat.members[name] = value
            changed = changed or (name,)
    return changed


def default_temperature(chat: Chat) -> JsonPath | None:
    """A request without a temperature gets the operator's; Mistral advises 0.15 for Devstral (Q27)."""
    if chat.options.default_temperature is None or chat.read("temperature") not in (UNSET, None):
        return None
    chat.members["temperature"] = chat.options.default_temperature
    return ("temperature",)


@only_with("random_seed")
def random_seed_to_seed(chat: Chat) -> JsonPath | None:
    """Mistral's `random_seed` is `seed` at vLLM, which ignores the other name without a word (Q23)."""
    return _rename(chat, "random_seed", "seed")


@only_with("seed")
def seed_to_random_seed(chat: Chat) -> JsonPath | None:
    """OpenAI's `seed` is `random_seed` at the hosted API, which refuses the other name (Q23)."""
    return _rename(chat, "seed", "random_seed")


@only_with("max_completion_tokens")
def max_completion_tokens_to_max_tokens(chat: Chat) -> JsonPath | None:
    """OpenAI's `max_completion_tokens` is `max_tokens` at the hosted API; it wins if both are given (Q23)."""
    if chat.read("max_completion_tokens") not in (UNSET, None):
        chat.members.pop("max_tokens", None)
    return _rename(chat, "max_completion_tokens", "max_tokens")


def _rename(chat: Chat, old: str, new: str) -> JsonPath | None:
    value = chat.members.pop(old, UNSET)
    if value is UNSET:
        return None
    chat.members.setdefault(new, value)
    return (old,)


@only_with("max_tokens", "max_completion_tokens")
def useless_limit_removed(chat: Chat) -> JsonPath | None:
    """A token limit below 1 means none: vLLM refuses it, some clients send 0 or -1 for that (Q23)."""
    names = ("max_tokens", "max_completion_tokens")
    return chat.drop(*[name for name in names if _number(chat, name, above=1.0) < 1])


@only_with("chat_template", "chat_template_kwargs")
def template_removed(chat: Chat) -> JsonPath | None:
    """`chat_template` and its kwargs are left out: `chat_template is not supported for Mistral tokenizers` (Q25)."""
    return chat.drop("chat_template", "chat_template_kwargs")


@only_with("chat_template")
def foreign_template_removed(chat: Chat) -> JsonPath | None:
    """A client's own `chat_template` is left out: it is a program that the server would run (Q25)."""
    return chat.drop("chat_template")


@only_with("skip_special_tokens")
def special_tokens_stay_hidden(chat: Chat) -> JsonPath | None:
    """`skip_special_tokens: false` is left out: vLLM up to 0.9 refuses it in Mistral mode (Q25)."""
    return chat.drop("skip_special_tokens") if chat.read("skip_special_tokens") is False else None


@only_with("thinking", "enable_thinking", "reasoning", "reasoning_effort")
def effort_from_object(chat: Chat) -> JsonPath | None:
    """An effort given as `reasoning: {effort}` or `reasoning_effort: {effort}` is a word; other dialects go (Q26)."""
    changed = chat.drop("thinking", "enable_thinking")
    for name in ("reasoning", "reasoning_effort"):
        value = chat.read(name)
        if isinstance(value, dict):
            del chat.members[name]
            if isinstance(value.get("effort"), str):
                chat.members["reasoning_effort"] = value["effort"]
            changed = changed or (name,)
    return changed


@only_with("reasoning", "reasoning_effort")
def effort_removed(chat: Chat) -> JsonPath | None:
    """`reasoning_effort` is left out: tokenizers up to v13 have no such setting and may refuse it (Q26)."""
    return chat.drop("reasoning_effort")


@only_with("reasoning", "reasoning_effort")
def effort_to_none_or_high(chat: Chat) -> JsonPath | None:
    """`reasoning_effort` is `none` or `high`, all that v15 and the hosted API know (Q26)."""
    effort = chat.read("reasoning_effort")
    if effort is UNSET or effort in ("none", "high"):
        return None
    wire = _EFFORTS.get(effort) if isinstance(effort, str) else None
    if wire is None:
        return chat.drop("reasoning_effort")
    chat.members["reasoning_effort"] = wire
    return ("reasoning_effort",)


@only_with("top_p")
def zero_top_p_removed(chat: Chat) -> JsonPath | None:
    """`top_p` of 0 or less is left out: `top_p must be in (0, 1]` (Q27)."""
    return chat.drop("top_p") if _number(chat, "top_p", above=1.0) <= 0 else None


@only_with("top_p", "temperature")
def greedy_top_p_removed(chat: Chat) -> JsonPath | None:
    """With temperature 0 `top_p` is left out: `top_p must be 1 when using greedy sampling` (Q27)."""
    return chat.drop("top_p") if _number(chat, "temperature", above=1.0) == 0 else None


def hosted_temperature_capped(chat: Chat) -> JsonPath | None:
    """A temperature above 1.5 is 1.5, the hosted API's upper end (Q27)."""
    if _number(chat, "temperature", above=0.0) <= _HOSTED_MAX_TEMPERATURE:
        return None
    chat.members["temperature"] = _HOSTED_MAX_TEMPERATURE
    return ("temperature",)


@only_with("logprobs", "top_logprobs")
def top_logprobs_need_logprobs(chat: Chat) -> JsonPath | None:
    """`top_logprobs` without `logprobs` is left out: vLLM refuses it (Q27)."""
    return chat.drop("top_logprobs") if not chat.read("logprobs") or chat.read("logprobs") is UNSET else None


@only_with("n")
def null_count_removed(chat: Chat) -> JsonPath | None:
    """`n: null` is left out (Q27)."""
    return chat.drop("n") if chat.read("n") is None else None


@only_with("stop")
def empty_stop_removed(chat: Chat) -> JsonPath | None:
    """Empty stop sequences are left out: `stop cannot contain an empty string` (Q27, H12)."""
    stop = chat.read("stop")
    if stop in ("", []):
        return chat.drop("stop")
    if not isinstance(stop, list) or "" not in stop:
        return None
    chat.members["stop"] = [text for text in stop if text != ""]
    if not chat.members["stop"]:
        del chat.members["stop"]
    return ("stop",)


@only_with("response_format")
def json_object_to_schema(chat: Chat) -> JsonPath | None:
    """JSON without a schema is asked for by the widest schema: vLLM 0.32 answers 500 in template mode (H7)."""
    wanted = chat.read("response_format")
    if not isinstance(wanted, dict):
        return None
    schema = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and isinstance(schema, dict) and not schema.get("schema"):
        name = schema.get("name")
    elif wanted.get("type") == "json_object":
        name = None
    else:
        return None
    named = name if isinstance(name, str) and name else "json_object"
    chat.members["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": named, "schema": {"type": "object"}},
    }
    return ("response_format",)


def _number(chat: Chat, name: str, *, above: float) -> float:
    """The value of a numeric member; `above` when it is absent or not a number."""
    value: Any = chat.read(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else above
