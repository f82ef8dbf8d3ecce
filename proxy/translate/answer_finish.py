"""How an answer ends: the finish reason that fits what was said (R10), and an answer that was swallowed (R4)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from proxy.errors import UpstreamError, UpstreamProtocolError
from proxy.translate.answer_facts import offers_tools
from proxy.translate.expectation import Expectation
from proxy.wire.completion import Usage

#: What clients know. `model_length` is the hosted API's; vLLM also says `abort` and `repetition`.
_REASONS: Final[Mapping[str | None, str]] = MappingProxyType(
    {
        "stop": "stop",
        "length": "length",
        "model_length": "length",
        "tool_calls": "tool_calls",
        "function_call": "function_call",
        "content_filter": "content_filter",
    }
)

# An answer of nothing but end-of-sequence tokens is honestly empty. The figure is the specification's (R4).
_FEWEST_SWALLOWED_TOKENS: Final = 5


class SwallowedToolCall(UpstreamProtocolError):
    """
    The model spoke and nothing of it arrived: the model server's tool parser dropped a call (R4).

    vLLM up to 0.12 does so in streams (vllm#20028). Asking again without streaming may bring the call to light.
    """

    code = "tool_call_swallowed"


def finish_reason(upstream: str | None, expectation: Expectation, *, has_calls: bool, is_cut: bool) -> str:
    """
    Return the reason that the client gets.

    Raises:
        UpstreamError: the model server gave up on the answer.
    """
    if upstream == "error":
        raise UpstreamError("The model server ended the answer with an error.")
    reason = _REASONS.get(upstream, "stop")
    if reason not in ("stop", "tool_calls"):
        return reason
    if is_cut:
        return "length"
    if not has_calls:
        return "stop"
    if expectation.legacy_functions:
        return "function_call"
    is_named = expectation.tool_choice == "named" and expectation.options.named_finish == "stop"
    return "stop" if is_named else "tool_calls"


def require_announced_call(upstream: str | None, expectation: Expectation) -> None:
    """
    Refuse an answer that ends as a call though nothing at all arrived; the caller has seen that nothing did.

    Raises:
        SwallowedToolCall: the model server says `tool_calls`, and tools were offered.
    """
    if upstream == "tool_calls" and offers_tools(expectation):
        raise SwallowedToolCall("The model server says that the model called a tool, and no call arrived.")


def require_not_swallowed(usage: Usage | None, expectation: Expectation) -> None:
    """
    Refuse an answer in which nothing arrived though the model spoke; the caller has seen that nothing arrived.

    Raises:
        SwallowedToolCall: tools were offered, and more tokens were spent than an empty answer needs.
    """
    spent = usage.completion_tokens if usage is not None else None
    if offers_tools(expectation) and spent is not None and spent > _FEWEST_SWALLOWED_TOKENS:
        raise SwallowedToolCall(
            f"The model spent {spent} tokens, and neither text nor a tool call arrived: the model server's tool parser"
            " dropped what the model wrote."
        )
