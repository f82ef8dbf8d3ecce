"""
What people and programs get to see: a table, with a spinner while it is made, lines of plain text, or JSON.

Results go to standard output. The spinner goes to standard error, and only where that is a terminal and `rich` is
installed; else each line is written when its check is done.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final, TextIO

from proxy.doctor.checks import CHECKS, Check, Result
from proxy.doctor.outcome import Outcome, Status
from proxy.printing import write_line

_MARKS: Final[Mapping[Status, str]] = MappingProxyType(
    {Status.OK: "✓", Status.WARNING: "!", Status.FAILED: "✗", Status.SKIPPED: "–"}
)
_ASCII_MARKS: Final[Mapping[Status, str]] = MappingProxyType(
    {Status.OK: "+", Status.WARNING: "!", Status.FAILED: "x", Status.SKIPPED: "-"}
)
_STYLES: Final[Mapping[Status, str]] = MappingProxyType(
    {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "bold red", Status.SKIPPED: "dim"}
)
_WIDTH: Final = max(len(check.name) for check in CHECKS)


def marks_for(stream: TextIO) -> Mapping[Status, str]:
    """Return the marks that a stream's encoding can write."""
    try:
        "".join(_MARKS.values()).encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _ASCII_MARKS
    return _MARKS


def lines_of(check: Check, outcome: Outcome, marks: Mapping[Status, str]) -> Iterator[str]:
    """Return one result as lines of plain text."""
    yield f" {marks[outcome.status]} {check.name:{_WIDTH}}  {outcome.says}"
    indent = " " * (_WIDTH + 5)
    yield from (f"{indent}{line}" for line in outcome.details)
    yield from (f"{indent}type: {line}" for line in outcome.fix)


def summary(results: Sequence[Result]) -> str:
    """Return the last line: how many of each, and what they mean together."""
    counts = Counter(outcome.status for _, outcome in results)
    words = {Status.WARNING: "warning" if counts[Status.WARNING] == 1 else "warnings"}
    said = ", ".join(f"{counts[status]} {words.get(status, status.value)}" for status in Status if counts[status])
    return f"{said}: {'an agent will not work with this server' if counts[Status.FAILED] else 'an agent can work'}"


def as_data(name: str, url: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return the results of one server as plain data."""
    return {
        "server": name,
        "url": url,
        "ok": is_well(results),
        "checks": [
            {
                "check": check.name,
                "status": outcome.status.value,
                "says": outcome.says,
                "details": list(outcome.details),
                "fix": list(outcome.fix),
            }
            for check, outcome in results
        ],
    }


def is_well(results: Sequence[Result]) -> bool:
    """Whether nothing failed."""
    return all(outcome.status is not Status.FAILED for _, outcome in results)


def print_json(servers: Sequence[Mapping[str, Any]]) -> None:
    """Write the results of all servers as one JSON object."""
    data = {"ok": all(each["ok"] for each in servers), "servers": list(servers)}
    write_line(json.dumps(data, indent=2))


# --- a terminal


def is_rich(stream: TextIO) -> bool:
    """Whether a table or a spinner can be drawn there."""
    if not stream.isatty():
        return False
    try:
        import rich  # noqa: F401 - an extra: whether it is installed
    except ImportError:
        return False
    return True


@contextmanager
def progress() -> Iterator[Callable[[Check], None]]:
    """Yield what is told of each check before it runs: it turns a spinner on standard error, or does nothing."""
    if not is_rich(sys.stderr):
        yield lambda check: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(CHECKS))
        places = {check: place for place, check in enumerate(CHECKS)}
        yield lambda check: bar.update(task, completed=places[check], description=check.name)


def print_table(results: Sequence[Result]) -> None:
    """Draw the results on standard output, which is a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = marks_for(sys.stdout)
    table = Table(show_header=False, box=None, padding=(0, 1))
    for check, outcome in results:
        style = _STYLES[outcome.status]
        says = Text(outcome.says, "dim" if outcome.status is Status.SKIPPED else "")
        for line in outcome.details:
            says.append(f"\n{line}", "dim")
        for line in outcome.fix:
            says.append("\ntype: ", "dim").append(line, "bold cyan")
        table.add_row(Text(marks[outcome.status], style), Text(check.name), says)
    Console(highlight=False).print(table)
