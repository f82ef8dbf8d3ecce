"""A whole answer played as a stream, for a client that streams while the upstream was asked without (Q28, R9)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from proxy.translate.completion import CompletionAnswer
from proxy.translate.expectation import Expectation
from proxy.wire.completion import CHUNK_OBJECT, decode_object, encode
from proxy.wire.sse import DONE_EVENT, data_event

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_NOT_IN_CHUNKS: Final = ("object", "choices", "usage")
_THOUGHTS: Final = ("reasoning", "reasoning_content")
_OTHER_FIELDS: Final = ("refusal", "audio", "content", "function_call")


def played(whole: CompletionAnswer, expectation: Expectation, begun: Mapping[str, Any] = _NOTHING) -> bytes:
    """
    Return a translated answer as the events of a stream: each call and each text in one delta.

    `begun` has the constant fields of a stream whose first chunks the client already has: the events go on from there.
    """
    answer = decode_object(whole.body)
    constant = {key: value for key, value in answer.items() if key not in _NOT_IN_CHUNKS}
    constant["object"] = CHUNK_OBJECT
    constant |= begun
    first = 1 if begun else 0  # the role, which a stream that has begun has sent
    events = []
    for position, choice in enumerate(answer.get("choices") or ()):
        index = choice.get("index", position)
        for delta in _deltas(choice.get("message") or {})[first:]:
            events.append(_event(constant, {"index": index, "delta": delta, "finish_reason": None}))
        end = {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason")}
        events.append(_event(constant, _with_logprobs(end, choice)))
    if expectation.usage_wanted and answer.get("usage") is not None:
        events.append(data_event(encode({**constant, "choices": [], "usage": answer["usage"]})))
    return b"".join([*events, DONE_EVENT])


def _event(constant: dict[str, Any], choice: dict[str, Any]) -> bytes:
    return data_event(encode({**constant, "choices": [choice]}))


def _with_logprobs(end: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    return end if choice.get("logprobs") is None else {**end, "logprobs": choice["logprobs"]}


def _deltas(message: dict[str, Any]) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    thoughts = {key: message[key] for key in _THOUGHTS if message.get(key)}
    if thoughts:
        deltas.append(thoughts)
    deltas += [{key: message[key]} for key in _OTHER_FIELDS if message.get(key)]
    deltas += [{"tool_calls": [{"index": at, **call}]} for at, call in enumerate(message.get("tool_calls") or ())]
    return deltas
