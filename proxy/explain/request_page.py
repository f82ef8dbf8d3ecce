"""A report on a request, as lines to read."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from proxy.errors import ClientError
from proxy.explain.differences import Change, DiffLine, changes_between, diff_lines, value_at
from proxy.explain.document import Line, lines_of, plain_of, printable, shortened
from proxy.explain.page import Kind, Row, counted, diff_rows, listed
from proxy.explain.request import RequestReport, RuleReport
from proxy.translate.chat import JsonPath, path_text
from proxy.translate.request import UpstreamRequest
from proxy.translate.steps import TRANSPORT

# Arbitrary: a rule that changes forty messages does the same to all of them, and a schema of 200 lines is read with
# --full. So many show what is done.
_MOST_CHANGES: Final = 3
_MOST_LINES: Final = 24
_MOST_IN_A_RUN: Final = 8
_MOST_PATHS: Final = 6
_AROUND_A_FAULT: Final = 3
_INDENT: Final = "    "


def request_rows(report: RequestReport, *, full: bool) -> Iterator[Row]:
    """Return what to show of a request; `full` shortens nothing, and shows the whole body that goes upstream."""
    if report.request is not None:
        yield from _facts(report.request)
    if report.is_made:
        yield from _made(report)
    yield Row("text", "")
    for number, rule in enumerate(report.rules, start=1):
        yield from rule_rows(number, rule, full=full)
    if report.error is not None:
        yield from _refusal(report, report.error)
    elif report.request is not None:
        yield from _sent(report, report.request.body, full)


def _made(report: RequestReport) -> Iterator[Row]:
    """Say that what follows is about a chat completion, and what got lost on the way to it."""
    yield Row("text", f"as chat  {len(report.body):,} bytes: it becomes a chat completion, which is what follows")
    for name, reason in report.front_rules.items():
        yield Row("title", f"         {name}")
        yield Row("text", f"             {reason}")


def _facts(request: UpstreamRequest) -> Iterator[Row]:
    yield Row("text", f"model    {printable(request.model) or 'none: the upstream takes its only one'}")
    asked, upstream = ("true" if streams else "false" for streams in (request.stream, request.upstream_stream))
    yield Row("text", f"stream   {asked}" + ("" if asked == upstream else f"; the upstream is asked with {upstream}"))


def rule_rows(number: int, rule: RuleReport, *, full: bool) -> Iterator[Row]:
    """Return what one rule did and why."""
    yield Row("title", f"{number}. {rule.rule}" + (f"  ({rule.option})" if rule.option else ""))
    yield Row("text", f"{_INDENT}{rule.reason}")
    yield Row("path", f"{_INDENT}at {printable(listed(rule.paths, len(rule.paths) if full else _MOST_PATHS))}")
    shown = rule.changes if full else rule.changes[:_MOST_CHANGES]
    for change in shown:
        yield from change_rows(change, full=full)
    if len(shown) < len(rule.changes):
        left = counted(len(rule.changes) - len(shown), "more change")
        yield Row("note", f"{_INDENT}… {left} of this rule: --full shows them")
    yield Row("text", "")


def change_rows(change: Change, *, full: bool) -> Iterator[Row]:
    """Return one change as a difference."""
    where = printable(path_text(change.place))
    if change.verb == "moved":
        yield Row("note", f"{_INDENT}@@ {printable(path_text(change.was or ()))} moved to {where} @@")
        return
    yield Row("note", f"{_INDENT}@@ {where}{'' if change.verb == 'changed' else ' ' + change.verb} @@")
    lines = diff_lines(change, full=full)
    if full:
        yield from diff_rows(lines, _INDENT)
        return
    rows = list(diff_rows(_clipped(lines), _INDENT))
    yield from rows[:_MOST_LINES]
    if len(rows) > _MOST_LINES:
        yield Row("note", f"{_INDENT}  … {counted(len(rows) - _MOST_LINES, 'more line')}: --full shows them")


def _clipped(lines: Iterable[DiffLine]) -> Iterator[DiffLine]:
    """Leave out what is too much of runs of lines that came or went, so that what came instead is seen too."""
    for sign, group in groupby(lines, key=attrgetter("sign")):
        run = list(group)
        yield from run[:_MOST_IN_A_RUN]
        if len(run) > _MOST_IN_A_RUN:
            yield DiffLine("…", f"… {counted(len(run) - _MOST_IN_A_RUN, 'more line')} with {sign}", ())


def _sent(report: RequestReport, body: bytes, full: bool) -> Iterator[Row]:
    if body == report.body:
        how = "as this chat completion" if report.is_made else "byte for byte as it came"
        yield Row("good", f"goes upstream {how} ({len(body):,} bytes)")
    elif not changes_between(report.body, body):
        yield Row("good", f"goes upstream as it came, but for white space and the order of keys ({len(body):,} bytes)")
    else:
        rules = sum(rule.rule != TRANSPORT for rule in report.rules)
        how = f"changed by {counted(rules, 'rule')}" if rules else "with what the answer needs"
        yield Row("good", f"goes upstream, {how}: {len(report.body):,} bytes became {len(body):,}")
    if full:
        yield Row("text", "")
        yield from document_rows(plain_of(body))


def document_rows(value: Any) -> Iterator[Row]:
    """Return a whole document, nothing shortened."""
    return (Row("text", f"{line.head}{line.value}{line.comma}") for line in lines_of(value))


# --- refusals


def _refusal(report: RequestReport, error: ClientError) -> Iterator[Row]:
    yield Row("bad", f"refused: nothing goes upstream. The client gets HTTP {error.status}:")
    yield from error_rows(report.error_body(error))
    where = "the chat completion that this becomes" if report.is_made else "what the client sent"
    yield from _marked(report.body, error.param, where)


def error_rows(body: bytes) -> Iterator[Row]:
    """Return an error as the client gets it."""
    return (Row("text", f"{_INDENT}{line.head}{line.value}{line.comma}") for line in lines_of(plain_of(body)))


def _marked(body: bytes, param: str | None, where: str) -> Iterator[Row]:
    """Show the place that a refusal names, in the body that was refused; `where` says whose that is."""
    try:
        document = plain_of(body)
    except (ValueError, RecursionError):
        return
    path = path_of(param or "$")
    _, there = value_at(document, path)
    holder, above = value_at(document, there[:2] if there[:1] in (("messages",), ("tools",)) else there[:1])
    lines = lines_of(holder, above)
    at = next((i for i, line in enumerate(lines) if line.path == there), 0)
    missing = "" if there == path or not path else f" (`{printable(path_text(path[len(there) :]))}` is not there)"
    yield Row("path", f"{_INDENT}at {printable(path_text(there))}{missing}, in {where}")
    start = max(0, at - _AROUND_A_FAULT)
    yield from _around(lines, at, start, at + _AROUND_A_FAULT + 1)


def _around(lines: Sequence[Line], at: int, start: int, end: int) -> Iterator[Row]:
    for i, line in enumerate(lines[start:end], start=start):
        kind: Kind = "bad" if i == at else "text"
        yield Row(kind, f"{_INDENT}{'> ' if i == at else '  '}{line.head}{shortened(line.value)}{line.comma}")


_STEP: Final = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def path_of(param: str) -> JsonPath:
    """Return the path that an error's `param` writes: `messages[3].role`; `$` is the whole."""
    if param == "$":
        return ()
    return tuple(int(index) if index else name for index, name in _STEP.findall(param))
