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


def read_echo(raw: Raw) -> Echo | None:
    """Return what `raw` echoes when leaving such keys out is all that it needs, else None."""
    try:
        echoed = _decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    calls, in_calls = _calls(echoed.tool_calls) if echoed.tool_calls is not UNSET else ([], False)
    message = Message("assistant", echoed.content, calls or UNSET)
    if not is_canonical(message):
        return None
    return Echo(message, _has_extra_keys(echoed), in_calls)


def _calls(echoed: list[_EchoedCall] | None) -> tuple[list[ToolCall], bool]:
    """Return the calls, and whether something was left out: keys of theirs, or the key that holds none."""
    if not echoed:
        return [], True
    calls, left_out = [], False
    for call in echoed:
        function = call.function
        calls.append(ToolCall(call.id, "function", FunctionCall(function.name, function.arguments)))
        left_out = left_out or call.index is not UNSET or function.parsed_arguments is not UNSET
    return calls, left_out


def _has_extra_keys(echoed: _EchoedMessage) -> bool:
    # Written out: a loop over their names takes longer.
    return (
        echoed.refusal is not UNSET
        or echoed.annotations is not UNSET
        or echoed.audio is not UNSET
        or echoed.function_call is not UNSET
        or echoed.parsed is not UNSET
        or echoed.provider_specific_fields is not UNSET
    )
