"""
The cases: what clients may send that is not what it should be, or is so only just, and what must become of it.

They re-express public lists in this project's words: the requirements of RFC 9112 and RFC 9110, the groups of
Http11Probe (compliance, smuggling, malformed input, normalisation), the classes of differences of HTTP Garden,
PortSwigger's variants of request smuggling, and the advisories of aiohttp and h11. Each case names its source.
"""

from typing import Final

from tests.security.cases import bodies, chunks, framing, headers, lines, start_line, targets
from tests.security.cases.case import Case

#: What the groups are about, and their cases.
GROUPS: Final[dict[str, tuple[Case, ...]]] = {
    "Where a body ends": framing.CASES,
    "Chunks and trailers": chunks.CASES,
    "Header lines": lines.CASES,
    "Start lines, Host, versions, methods": start_line.CASES,
    "Targets": targets.CASES,
    "Headers with a meaning for hops": headers.CASES,
    "Short bodies, pipelines": bodies.CASES,
}

CASES: Final[tuple[Case, ...]] = tuple(case for cases in GROUPS.values() for case in cases)
