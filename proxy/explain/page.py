"""Lines of a report, and how a terminal shows them. Whoever writes them says what they are, not which colour."""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from proxy.explain.differences import DiffLine

Kind = Literal["title", "text", "note", "path", "-", "+", " ", "…", "good", "bad"]


class Row(NamedTuple):
    """One line of a report."""

    kind: Kind
    text: str


#: SGR parameters, ECMA-48 8.3.117. Faint and not grey: grey on grey is somebody's background.
_COLOURS: Final[Mapping[str, str]] = MappingProxyType(
    {"title": "1", "note": "2", "path": "36", "-": "31", "+": "32", "…": "2", "good": "1;32", "bad": "1;31"}
)


def written(rows: Iterable[Row], *, coloured: bool) -> str:
    """Return a report as text; without colour it says the same."""
    lines = (_coloured(row) if coloured and row.text else row.text.rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _coloured(row: Row) -> str:
    colour = _COLOURS.get(row.kind)
    return row.text if colour is None else f"\x1b[{colour}m{row.text}\x1b[0m"


def diff_rows(lines: Iterable[DiffLine], indent: str) -> Iterator[Row]:
    """Return lines of a difference as rows."""
    for line in lines:
        yield Row(line.sign, f"{indent}{'  ' if line.sign == '…' else line.sign + ' '}{line.text or '…'}")


def listed(words: Iterable[str], most: int) -> str:
    """Return `words` with commas between them; those after the first `most` are only counted."""
    given = list(words)
    more = f" and {len(given) - most:,} more" if len(given) > most else ""
    return ", ".join(given[:most]) + more


def counted(number: int, thing: str) -> str:
    """Return a number with its noun: `1 event`, `2 events`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
