"""
An answer on the wire: chunks of a stream, and whole completions, with the fields that some rule reads.

A field that is absent and one that is null are the same to every rule, so both decode to None. What no rule reads is
not decoded at all: an event or a message that needs no change goes on as the bytes that came, unknown fields included,
and one that does need a change is edited in a plain dict (`decode_object`).
"""

from typing import Annotated, Any, Final, TypeVar

import msgspec

from proxy.errors import UpstreamProtocolError
from proxy.wire.body import has_too_many_values

T = TypeVar("T")

CHUNK_OBJECT: Final = "chat.completion.chunk"

#: Arbitrary: the most choices of an answer and calls of a message. Each costs 30 µs; OpenAI takes `n` up to 128.
_Few: Final = msgspec.Meta(max_length=4096)
#: Arbitrary, and eight times what a request may have: 8,000 tokens with 20 alternatives each are 1,200,000.
MOST_VALUES: Final = 2_000_000


class Usage(msgspec.Struct, frozen=True):
    """What an answer cost, in tokens. Other counters of the model server ride along on the wire only."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class Function(msgspec.Struct, omit_defaults=True):
    """A called function. `arguments` is text; the hosted API also sends an object (mistralai 3.7.0, FunctionCall)."""

    name: str | None = None
    arguments: Any = None


class Call(msgspec.Struct, omit_defaults=True):
    """A tool call, or a fragment of one. Whole messages have no `index`."""

    index: int | None = None
    id: Any = None
    type: str | None = None
    function: Function | None = None
    custom: dict[str, Any] | None = None


class Message(msgspec.Struct, omit_defaults=True):
    """
    An assistant message, or what a chunk adds to it.

    `content` is text; the hosted API also sends a list of parts. vLLM up to 0.10 spells the thoughts
    `reasoning_content`, 0.11 to 0.13 send both spellings, later ones only `reasoning`.
    `function_call`, `refusal` and `audio` are only passed on.
    """

    role: str | None = None
    content: str | list[Any] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[Call], _Few] | None = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None


class ChunkChoice(msgspec.Struct):
    """One choice of a chunk; the last three fields are vLLM's own."""

    index: int = 0
    delta: Message = msgspec.field(default_factory=Message)
    logprobs: Any = None
    finish_reason: str | None = None
    stop_reason: Any = None
    token_ids: Any = None
    routed_experts: Any = None


class Chunk(msgspec.Struct):
    """One event of a stream. `choices` is None in what is no chunk; `error` is set in an upstream's error event."""

    id: str | None = None
    object: str | None = None
    created: int | float | None = None
    model: str | None = None
    choices: Annotated[list[ChunkChoice], _Few] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    detail: Any = None


class Choice(msgspec.Struct):
    """One choice of a whole answer."""

    index: int = 0
    message: Message = msgspec.field(default_factory=Message)
    finish_reason: str | None = None


class Completion(msgspec.Struct):
    """A whole answer."""

    id: str | None = None
    created: int | float | None = None
    choices: Annotated[list[Choice], _Few] | None = None
    usage: dict[str, Any] | None = None


#: Keys that are vLLM's own, and where they stand. Source: live vLLM 0.32, chunks and whole answers.
VENDOR_KEYS: Final = frozenset(
    {
        "stop_reason",
        "token_ids",
        "routed_experts",
        "prompt_token_ids",
        "prompt_text",
        "prompt_logprobs",
        "prompt_routed_experts",
        "kv_transfer_params",
        "metrics",
    }
)

_chunk_decoder = msgspec.json.Decoder(Chunk)
_completion_decoder = msgspec.json.Decoder(Completion)
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder()

encode = _encoder.encode


def decode_chunk(payload: bytes) -> Chunk:
    """
    Return the event `payload` as a chunk.

    Raises:
        UpstreamProtocolError: it is not JSON, or a field that is read has another type.
    """
    return _decode(_chunk_decoder, payload, "an event")


def decode_completion(body: bytes) -> Completion:
    """
    Return the whole answer `body`.

    Raises:
        UpstreamProtocolError: as for `decode_chunk`.
    """
    return _decode(_completion_decoder, body, "an answer")


def decode_object(body: bytes) -> dict[str, Any]:
    """
    Return any JSON object as plain dicts, to be edited.

    Raises:
        UpstreamProtocolError: it is not a JSON object.
    """
    return _decode(_object_decoder, body, "an answer")


def decode_usage(usage: dict[str, Any]) -> Usage:
    """
    Return the counters of `usage`; a missing total is the sum of the other two.

    Raises:
        UpstreamProtocolError: a counter is not a number.
    """
    try:
        counters = msgspec.convert(usage, Usage)
    except msgspec.ValidationError as exc:
        raise UpstreamProtocolError(f"The model server sent a usage that cannot be read: {exc}.") from None
    prompt, completion = counters.prompt_tokens, counters.completion_tokens
    if counters.total_tokens is None and prompt is not None and completion is not None:
        return Usage(prompt, completion, prompt + completion)
    return counters


def _decode(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    if has_too_many_values(body, MOST_VALUES):
        raise UpstreamProtocolError(
            f"The model server sent {what} with more than {MOST_VALUES} values.", code="malformed_upstream_answer"
        )
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look at the bytes of a field that nothing reads
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        # msgspec's texts name types, paths and byte positions, never a value.
        problem = "text that is not UTF-8" if isinstance(exc, UnicodeDecodeError) else str(exc)
        message = f"The model server sent {what} that cannot be read: {problem}."
        raise UpstreamProtocolError(message, code="malformed_upstream_answer") from None
