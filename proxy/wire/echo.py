"""
An assistant message as OpenAI's clients echo it: in canonical form, but for keys that hold nothing of the conversation.

openai-python and openai-node append the message object that they parsed, with `refusal`, `annotations`, `audio`,
`function_call` and `parsed` null, and in calls `index` and `parsed_arguments`; LiteLLM adds
`provider_specific_fields`. Nearly every assistant message of an agent is such an echo. The message rules would only
leave the keys out, over plain dicts: 25 µs a message, and 5 this way (2026-11-23).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from proxy.wire.chat import FunctionCall, Message, ToolCall, is_canonical

_Nothing = None | UnsetType
_Empty = Annotated[list[Any], Meta(max_length=0)] | None | UnsetType


class _EchoedFunction(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: str
    arguments: str
    parsed_arguments: Raw | UnsetType = UNSET


class _EchoedCall(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    id: str
    type: Literal["function"]
    function: _EchoedFunction
    index: Raw | UnsetType = UNSET


class _EchoedMessage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["assistant"]
    content: Raw | UnsetType = UNSET
    tool_calls: list[_EchoedCall] | _Nothing = UNSET
    refusal: _Nothing = UNSET
    annotations: _Empty = UNSET
    audio: _Nothing = UNSET
    function_call: _Nothing = UNSET
    parsed: _Nothing = UNSET
    provider_specific_fields: Raw | UnsetType = UNSET


class Echo(msgspec.Struct, frozen=True):
    """The message that an echo stands for, and whether keys beside its own and in its calls were left out."""

    message: Message
    left_out_keys: bool
    left_out_in_calls: bool


_decoder = msgspec.json.Decoder(_EchoedMessage)
_EXTRA_KEYS = ("refusal", "annotations", "audio", "function_call", "parsed", "provider_specific_fields")


def read_echo(raw: Raw) -> Echo | None:
    """Return what `raw` echoes when leaving such keys out is all that it needs, else None."""
    try:
        echoed = _decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    calls = echoed.tool_calls if isinstance(echoed.tool_calls, list) else []
    message = Message("assistant", echoed.content, [_call(call) for call in calls] or UNSET)
    if not is_canonical(message):
        return None
    left_out = any(getattr(echoed, key) is not UNSET for key in _EXTRA_KEYS)
    in_calls = not calls and echoed.tool_calls is not UNSET
    in_calls |= any(call.index is not UNSET or call.function.parsed_arguments is not UNSET for call in calls)
    return Echo(message, left_out, in_calls)


def _call(call: _EchoedCall) -> ToolCall:
    return ToolCall(call.id, "function", FunctionCall(call.function.name, call.function.arguments))
