"""How the modules that measure one thing each say what they found: results/NAME.json, and a table."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import report

Row = Mapping[str, Any]


def keep(name: str, rows: Sequence[Row], **more: Any) -> None:
    """Write results/NAME.json: machine, command, rows, and what else is given."""
    command = shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])
    report.RESULTS.mkdir(exist_ok=True)
    found = {"machine": report.machine(), "command": command, **more, "rows": rows}
    (report.RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown; the columns are the keys, in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(key)) for key in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return str(value)
