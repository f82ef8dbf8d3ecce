"""What one request leaves behind for its answer: names to restore, forms to convert back, what was asked for."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from proxy.translate.options import Options

ToolChoice = Literal["none", "auto", "required", "named"]


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """
    Facts about a translated request that its answer needs. Nothing else outlives the request.

    `tool_names` maps each tool's name on the wire to the name the client gave it, in request order;
    it is empty when the request offers no tools. `custom_tools` holds the wire names of tools that the
    client declared as `custom` (free text): their `{"input": ...}` argument goes back as plain text.
    `legacy_functions` is true for a client that sent `functions`: it gets `function_call` back.
    `usage_wanted` is true when the client asked for `stream_options.include_usage`.
    `echoed_prefix` is the assistant text that the hosted API repeats at the start of its answer, or "".
    `max_tokens` is the most tokens of each of the `choices` that the client asked for, None if it set no limit; no
    number is above 2**53.
    """

    options: Options
    model: str
    stream: bool
    usage_wanted: bool = False
    tool_names: Mapping[str, str] = msgspec.field(default_factory=dict)
    tool_choice: ToolChoice = "auto"
    custom_tools: frozenset[str] = frozenset()
    legacy_functions: bool = False
    echoed_prefix: str = ""
    max_tokens: int | None = None
    choices: int = 1
