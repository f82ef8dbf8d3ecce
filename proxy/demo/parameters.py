"""The checks on everything but messages and tools: ranges, combinations, the model's name (texts: vLLM 0.32)."""

import math
from collections.abc import Callable
from typing import Any

from proxy.demo.refusal import Refusal, field_refused, parameter_refused
from proxy.demo.schema import schema_fault

Body = dict[str, Any]

MODEL = "devstral"
VOCABULARY = 131_072
#: vLLM takes up to VLLM_MAX_N_SEQUENCES (16384) answers; a demo needs fewer
MAX_ANSWERS = 16
MAX_STOPS = 4
EFFORTS = ("none", "high")

#: the words that pydantic reads as booleans
_TRUE = {"1", "true", "t", "yes", "y", "on"}
_FALSE = {"0", "false", "f", "no", "n", "off"}


def wants_stream(body: Body) -> bool:
    """Return whether the answer is to be streamed; `stream` may be null or a word such as "false"."""
    value = body.get("stream")
    if value is None or isinstance(value, bool):
        return bool(value)
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        message = "Input should be a valid boolean, unable to interpret input"
        raise field_refused("bool_parsing", "stream", message, value)
    return word in _TRUE


def stream_is_a_boolean(body: Body) -> None:
    """Refuse a `stream` that is no boolean."""
    wants_stream(body)


def stream_options_need_a_stream(body: Body) -> None:
    """Refuse `stream_options` without `stream`; they are an object."""
    options = body.get("stream_options")
    if options is None:
        return
    if not wants_stream(body):
        raise parameter_refused("Stream options can only be defined when `stream=True`.", "stream_options")
    if not isinstance(options, dict):
        message = "Input should be a valid dictionary or instance of StreamOptions"
        raise field_refused("model_attributes_type", "stream_options", message, options)


def top_logprobs_need_logprobs(body: Body) -> None:
    """Refuse `top_logprobs` without `logprobs`."""
    if body.get("top_logprobs") and not body.get("logprobs"):
        raise parameter_refused("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")


def response_format_is_known(body: Body) -> None:
    """Refuse a `response_format` of an unknown type, `json_schema` without its object, and a schema that is none."""
    form = body.get("response_format")
    if form is None:
        return
    kind = form.get("type") if isinstance(form, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        message = "Input should be 'text', 'json_object' or 'json_schema'"
        raise field_refused("literal_error", "response_format.type", message, kind)
    if kind == "json_schema" and not isinstance(form.get("json_schema"), dict):
        message = "When response_format type is 'json_schema', the 'json_schema' field must be provided."
        raise parameter_refused(message, "response_format")
    schema = form["json_schema"].get("schema") if kind == "json_schema" else None
    fault = None if schema is None else schema_fault(schema)
    if fault is not None:
        raise parameter_refused(f"Invalid JSON schema: {fault}", "response_format")


def stops_are_texts(body: Body) -> None:
    """Refuse more than four stops, stops that are not text, and an empty one."""
    stops = body.get("stop")
    if stops is None:
        return
    texts = stops if isinstance(stops, list) else [stops]
    if len(texts) > MAX_STOPS:
        message = f"List should have at most {MAX_STOPS} items after validation, not {len(texts)}"
        raise field_refused("too_long", "stop", message, stops)
    for text in texts:
        if not isinstance(text, str):
            raise field_refused("string_type", "stop", "Input should be a valid string", text)
        if not text:
            raise Refusal("stop cannot contain an empty string.")


def model_is_served(body: Body) -> None:
    """Refuse a model that is not served with 404; a missing, null or empty name is served."""
    model = body.get("model")
    if model and model != MODEL:
        message = f"The model `{model}` does not exist. Valid aliases: {MODEL}."
        raise Refusal(message, param="model", status=404, kind="NotFoundError")


def template_is_fixed(body: Body) -> None:
    """Refuse `chat_template` and its arguments: a Mistral tokenizer has no template."""
    if body.get("chat_template") is not None or body.get("chat_template_kwargs") is not None:
        raise parameter_refused("chat_template is not supported for Mistral tokenizers.", "chat_template")


def effort_is_not_offered(body: Body) -> None:
    """Refuse `reasoning_effort`: vLLM other than none and high, a v11 tokenizer (mistral-common 1.10.0) any."""
    effort = body.get("reasoning_effort")
    if effort is None:
        return
    if effort not in EFFORTS:
        message = (
            f"reasoning_effort={effort} is not supported by Mistral models. Supported values are: {list(EFFORTS)}."
        )
        raise parameter_refused(message, "reasoning_effort")
    raise Refusal(f"reasoning_effort={effort!r} is not supported for this model")


def bias_is_in_the_vocabulary(body: Body) -> None:
    """Refuse a `logit_bias` for a token that does not exist."""
    bias = body.get("logit_bias")
    if not isinstance(bias, dict):
        return
    unknown = [key for key in bias if not (key.isdecimal() and len(key) < 10 and int(key) < VOCABULARY)]
    if unknown:
        ids = f"[{', '.join(unknown)}]"
        message = f"token_id(s) {ids} in logit_bias contain out-of-vocab token ids. Vocabulary size: {VOCABULARY}"
        raise parameter_refused(message, "logit_bias", ids)


def _number(body: Body, name: str) -> float | None:
    """Return a numeric parameter, or None; pydantic takes "0.5" too."""
    value = body.get(name)
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        message = "Input should be a valid number, unable to parse string as a number"
        raise field_refused("float_parsing", name, message, value) from None


def _temperature_fault(value: float) -> str:
    if not math.isfinite(value):
        return f"temperature must be a finite number, got {value}."
    if value < 0:
        return f"temperature must be non-negative, got {value}."
    return f"temperature must be in [0, 2], got {value}."


#: name, the range, the text; in the order in which vLLM's SamplingParams looks at them
_RANGES: tuple[tuple[str, Callable[[float], bool], Callable[[float], str]], ...] = (
    ("temperature", lambda v: 0 <= v <= 2, _temperature_fault),
    ("top_p", lambda v: 0 < v <= 1, lambda v: f"top_p must be in (0, 1], got {v}."),
)
_PENALTIES = ("presence_penalty", "frequency_penalty")


def sampling_is_in_range(body: Body) -> None:
    """Refuse sampling parameters that are out of range."""
    for name in _PENALTIES:
        penalty = _number(body, name)
        if penalty is not None and not -2 <= penalty <= 2:
            raise Refusal(f"{name} must be in [-2, 2], got {penalty}.")
    for name, in_range, text in _RANGES:
        value = _number(body, name)
        if value is not None and not in_range(value):
            raise parameter_refused(text(value), name, value)


def whole_number(body: Body, name: str) -> int | None:
    """Return an integer parameter, or None; pydantic takes "40" and 40.0 too."""
    number = _number(body, name)
    if number is None:
        return None
    if not math.isfinite(number) or number != int(number):
        message = "Input should be a valid integer, got a number with a fractional part"
        raise field_refused("int_from_float", name, message, body[name])
    return int(number)


def answers_are_countable(body: Body) -> None:
    """Refuse an `n` below one, or above what this server is willing to say at once."""
    count = whole_number(body, "n")
    if count is not None and count < 1:
        raise parameter_refused(f"n must be at least 1, got {count}.", "n", count)
    if count is not None and count > MAX_ANSWERS:
        raise parameter_refused(f"n must be at most {MAX_ANSWERS}, got {count}.", "n", count)


def token_limit(body: Body) -> int | None:
    """Return how many tokens the client allows, or None; `max_completion_tokens` goes first."""
    limit = whole_number(body, "max_completion_tokens")
    return whole_number(body, "max_tokens") if limit is None else limit


def token_limit_is_positive(body: Body) -> None:
    """Refuse a token limit below one; vLLM calls it max_tokens under either name."""
    limit = token_limit(body)
    if limit is not None and limit < 1:
        raise parameter_refused(f"max_tokens must be at least 1, got {limit}.", "max_tokens", limit)


def answer_fits(body: Body, max_model_len: int) -> None:
    """Refuse a token limit beyond the model's context."""
    for name in ("max_completion_tokens", "max_tokens"):
        limit = whole_number(body, name)
        if limit is not None and limit > max_model_len:
            message = (
                f"{name}={limit} cannot be greater than max_model_len={max_model_len}. "
                "Please request fewer output tokens."
            )
            raise parameter_refused(message, name, limit)
