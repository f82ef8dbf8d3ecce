"""
What was said, in vLLM 0.32's wire forms: one completion, or the chunks of a stream (recorded from a live server).

The order of keys, the null vendor keys and the cut between chunks are vLLM's: a role chunk first; a call's first chunk
with id, type, index, name and the first fragment of its arguments; the last fragment and `finish_reason` in one chunk;
the system fingerprint on the last chunk with anything in it. Not imitated: `logprobs` and `continuous_usage_stats`.
"""

import secrets
import string
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any

import msgspec

from proxy.demo.model import Generation, Kind

FINGERPRINT = "devstral-proxy-demo"
_ALPHANUMERICS = string.ascii_letters + string.digits

Json = dict[str, Any]


class Frame(msgspec.Struct, frozen=True):
    """What all parts of one answer share: its id, the time in seconds since 1970, the model, the prompt's tokens."""

    id: str
    created: int
    model: str
    prompt_tokens: int


def new_call_id() -> str:
    """Return nine random alphanumerics, the form of every id that vLLM gives to a Mistral model's call."""
    return "".join(secrets.choice(_ALPHANUMERICS) for _ in range(9))


# --- whole


def completion(frame: Frame, generations: Sequence[Generation]) -> Json:
    """Return the answer as one `chat.completion`."""
    return {
        "id": frame.id,
        "object": "chat.completion",
        "created": frame.created,
        "model": frame.model,
        "choices": [_choice(index, generation) for index, generation in enumerate(generations)],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": {**_usage(frame, generations), "prompt_tokens_details": None},
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "metrics": None,
    }


def _choice(index: int, generation: Generation) -> Json:
    calls = _whole_calls(generation)
    message: Json = {
        "role": "assistant",
        "content": _whole_content(generation, bool(calls)),
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
    }
    if calls:
        message["tool_calls"] = calls
    message["reasoning"] = None
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": _whole_finish(generation, bool(calls)),
        "stop_reason": generation.stop_string,
        "token_ids": None,
        "routed_experts": None,
    }


def _whole_content(generation: Generation, calls: bool) -> str | None:
    """Return the content; before calls it loses its last line breaks, and is "" for a forced call, else null."""
    text = "".join(token.text for token in generation.tokens if token.kind is Kind.TEXT)
    if calls:
        return text.rstrip() or ("" if generation.choice in ("required", "named") else None)
    return text or (None if generation.tokens else "")


def _whole_calls(generation: Generation) -> list[Json]:
    """Return the calls; one that is cut inside its name gets `{}` for arguments, as vLLM's parser gives it."""
    parts: dict[int, dict[Kind, str]] = {}
    for token in generation.tokens:
        if token.kind in (Kind.NAME, Kind.ARGUMENTS):
            call = parts.setdefault(token.call, {Kind.NAME: "", Kind.ARGUMENTS: ""})
            call[token.kind] += token.text
    return [
        {
            "id": new_call_id(),
            "type": "function",
            "function": {"name": call[Kind.NAME], "arguments": call[Kind.ARGUMENTS] or "{}"},
        }
        for call in parts.values()
    ]


def _whole_finish(generation: Generation, calls: bool) -> str:
    """Return the finish reason: `tool_calls` even for a cut call, and for `required` without one; never for named."""
    if generation.choice == "required" or (calls and generation.choice == "auto"):
        return "tool_calls"
    return generation.reason


# --- streamed


def chunks(frame: Frame, generations: Sequence[Generation], *, usage: bool) -> Iterator[Json]:
    """Yield the answer as `chat.completion.chunk`s, choices taking turns; with `usage`, one more chunk at the end."""
    for index in range(len(generations)):
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        yield {**_chunk(frame, [choice]), "prompt_token_ids": None, "prompt_text": None}
    streams = [_choices(index, generation) for index, generation in enumerate(generations)]
    for choice in chain.from_iterable(zip_longest(*streams)):
        if choice is not None:
            fingerprint = {} if usage or choice["finish_reason"] is None else {"system_fingerprint": FINGERPRINT}
            yield {**_chunk(frame, [choice]), **fingerprint}
    if usage:
        yield {**_chunk(frame, []), "usage": _usage(frame, generations), "system_fingerprint": FINGERPRINT}


def _chunk(frame: Frame, choices: list[Json]) -> Json:
    return {
        "id": frame.id,
        "object": "chat.completion.chunk",
        "created": frame.created,
        "model": frame.model,
        "choices": choices,
    }


def _choices(index: int, generation: Generation) -> Iterator[Json]:
    """Yield one choice's chunks after the role: its deltas, the last one with the finish reason."""
    deltas = list(_deltas(generation))
    if not deltas or _ends_by_itself(generation):
        deltas.append({} if generation.parsed else {"content": ""})
    for delta in deltas[:-1]:
        yield {"index": index, "delta": delta, "logprobs": None, "finish_reason": None, "token_ids": None}
    yield {
        "index": index,
        "delta": deltas[-1],
        "logprobs": None,
        "finish_reason": _streamed_finish(generation),
        "stop_reason": generation.stop_string,
        "token_ids": None,
    }


def _ends_by_itself(generation: Generation) -> bool:
    """Return whether the end is a token of its own, after text; after a call its last bracket brings the end along."""
    text_last = bool(generation.tokens) and generation.tokens[-1].kind is Kind.TEXT
    return text_last and generation.reason == "stop" and generation.stop_string is None


def _deltas(generation: Generation) -> Iterator[Json]:
    """Yield a delta per token that shows: names wait for their first arguments, or for the end."""
    name = ""
    for token in generation.tokens:
        if token.kind is Kind.TEXT:
            yield {"content": token.text}
        elif token.kind is Kind.NAME:
            name += token.text
        elif token.kind is Kind.ARGUMENTS and name:
            yield _first_delta(token.call, name, token.text)
            name = ""
        elif token.kind is Kind.ARGUMENTS:
            yield {"tool_calls": [{"index": token.call, "function": {"arguments": token.text}}]}
    if name:
        yield _first_delta(generation.tokens[-1].call, name, "")


def _first_delta(index: int, name: str, arguments: str) -> Json:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"id": new_call_id(), "type": "function", "index": index, "function": function}]}


def _streamed_finish(generation: Generation) -> str:
    """Return the finish reason: a cut call says `length` here, and a named choice keeps the engine's word."""
    called = any(token.kind is Kind.ARGUMENTS for token in generation.tokens)
    if called and generation.reason == "stop" and generation.choice in ("auto", "required"):
        return "tool_calls"
    return generation.reason


def _usage(frame: Frame, generations: Sequence[Generation]) -> Json:
    said = sum(generation.length for generation in generations)
    return {
        "prompt_tokens": frame.prompt_tokens,
        "total_tokens": frame.prompt_tokens + said,
        "completion_tokens": said,
    }
