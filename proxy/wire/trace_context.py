"""
W3C Trace Context: what a client says of the trace that its request is part of, and what is said on. Text in, text out.

    traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
                 |  trace id                         parent id        flags: 01 is sampled, 02 is random
                 version
    tracestate: vendor=value,other=value

Source: https://www.w3.org/TR/trace-context-2/, 3.2 and 3.3. Ids that are made here come from a generator that is not
for secrets: they name, and open nothing.
"""

import random
import re
from collections.abc import Sequence
from typing import Final

import msgspec

#: "ff" is not a version, zeros are not ids. A later version may have more behind its flags; 00 may not.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
#: One member of the list; spaces may stand inside a value and not at its end.
_MEMBER: Final = re.compile(
    r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_MOST_MEMBERS: Final = 32
#: What everybody passes on at the least, and here at the most.
_LONGEST_STATE: Final = 512
#: Longer members are the first to go.
_LONG_MEMBER: Final = 128

SAMPLED: Final = 0x01
#: The flags that have a meaning; the others are to be sent as zero.
_KNOWN_FLAGS: Final = 0x03


class TraceContext(msgspec.Struct, frozen=True):
    """Where a request comes from. Ids are lower-case hexadecimal, `state` is a `tracestate` or None."""

    trace_id: str
    parent_id: str
    flags: int
    state: str | None = None


def trace_context(parents: Sequence[str], states: Sequence[str]) -> TraceContext | None:
    """
    Return what the values of `traceparent` and `tracestate` say, each in the order in which its headers came.

    None if there is not exactly one `traceparent`, or it is not valid; `tracestate` means nothing then. A `tracestate`
    that is not valid is left out by itself.
    """
    found = _TRACEPARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == "00" and more is not None:
        return None
    return TraceContext(trace_id, parent_id, int(flags, 16) & _KNOWN_FLAGS, _state(states) if states else None)


def traceparent(trace_id: str, span_id: str, flags: int) -> str:
    """Return the header that makes `span_id` the parent of whatever is asked with it."""
    return f"00-{trace_id}-{span_id}-{flags:02x}"


def new_trace_id() -> str:
    """Return a random id of a trace: 32 digits."""
    return f"{random.getrandbits(128) or 1:032x}"


def new_span_id() -> str:
    """Return a random id of a span: 16 digits."""
    return f"{random.getrandbits(64) or 1:016x}"


def _state(lines: Sequence[str]) -> str | None:
    """Return the list that all lines make together; None if it is empty, too long or not valid."""
    members = [member for line in lines for word in line.split(",") if (member := word.strip(" \t"))]
    if not members or len(members) > _MOST_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return None
    return ",".join(_shortened(members)) or None


def _shortened(members: list[str]) -> list[str]:
    """Drop members, long ones first and then from the end, until what is left fits (3.3.1.5)."""
    excess = sum(map(len, members)) + len(members) - 1 - _LONGEST_STATE
    for longer_than in (_LONG_MEMBER, 0):
        for place in reversed(range(len(members))):
            if excess > 0 and len(members[place]) > longer_than:
                excess -= len(members.pop(place)) + 1
    return members
