"""Results as text: lines for a terminal, and the table of several gateways for the README."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from tests.kit.row import Kind
from tests.kit.run import Result
from tests.kit.verdict import Verdict

#: Arbitrary: the rest is in results.json.
_LONGEST: Final = 90


def line(result: Result) -> str:
    """Return one row for a terminal."""
    seen = f"  [{result.seen}]" if result.seen else ""
    return f"{result.row.id:<5} {result.verdict.value:<8} {result.row.claim}{seen}"


def summary(results: Iterable[Result]) -> str:
    """Return how many rows have which verdict."""
    counts = Counter(result.verdict for result in results)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])


def section(kept: Mapping[str, Any]) -> str:
    """Return the README's table of what results.json holds: a row for each claim, a column for each gateway."""
    gateways: Mapping[str, Any] = kept["gateways"]
    heads = [f"{name} {found['version']}".strip() for name, found in gateways.items()]
    dates = sorted({found["date"] for found in gateways.values()})
    count = len(_rows(gateways))
    parts = [f"Measured on {' and '.join(dates)} with `make faults-peers`: {count} rows, default settings."]
    for kind in Kind:
        ids = [row["id"] for row in _rows(gateways) if row["kind"] == kind.value]
        lines = [_row(f"{kind.value}", *heads), _row(*["---"] * (1 + len(heads)))]
        lines += [_line(id_, gateways) for id_ in ids]
        lines.append(_row("rows that fail", *(_failing(found, ids) for found in gateways.values())))
        parts.append("\n".join(lines))
    lost = [f"{name} {found['restarts']} times" for name, found in gateways.items() if found["restarts"]]
    parts.append(f"Did not serve any more, and was started anew: {', '.join(lost) or 'none'}.")
    return "\n\n".join(parts) + "\n"


def _rows(gateways: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The rows of the gateway that has most, in the order of their ids."""
    longest = max((found["rows"] for found in gateways.values()), key=len)
    return sorted(longest, key=lambda row: row["id"])


def _line(id_: str, gateways: Mapping[str, Any]) -> str:
    found = [next((row for row in each["rows"] if row["id"] == id_), None) for each in gateways.values()]
    claim = next(row["claim"] for row in found if row)
    return _row(f"{id_}. {claim}", *map(_cell, found))


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["verdict"] == Verdict.NOT_RUN:
        return "not run"
    if row["verdict"] == Verdict.FAILS:
        return f"**fails**: {textwrap.shorten(row['seen'], _LONGEST, placeholder=' …')}"
    if row["verdict"] == Verdict.OK:
        return "ok"
    return str(row["seen"])


def _failing(found: Mapping[str, Any], ids: Sequence[str]) -> str:
    return str(sum(row["verdict"] == Verdict.FAILS for row in found["rows"] if row["id"] in ids))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
