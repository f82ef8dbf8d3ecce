"""Questions about what was asked for, which several rules of the way back put."""

from proxy.translate.expectation import Expectation
from proxy.translate.options import Options
from proxy.wire.completion import Usage


def is_passthrough(options: Options) -> bool:
    """Whether every rule on the content of an answer is off: then its bytes go on as they came."""
    return (
        options.reasoning_field == "untouched"
        and options.recover_tool_calls == "off"
        and not options.extract_think
        and not options.strip_vendor_fields
    )


def is_at_limit(usage: Usage | None, expectation: Expectation, choices: int = 1) -> bool:
    """Whether the answer is known to have used up all the tokens the client allowed, over `choices` choices."""
    spent = usage.completion_tokens if usage is not None else None
    return spent is not None and expectation.max_tokens is not None and spent >= expectation.max_tokens * choices


def offers_tools(expectation: Expectation) -> bool:
    """Whether the model may call tools at all."""
    return bool(expectation.tool_names) and expectation.tool_choice != "none"
