"""Reports on streams and whole answers, as lines to read."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final, Literal

from proxy.errors import error_body
from proxy.explain.answer import AnswerReport
from proxy.explain.differences import diff_lines
from proxy.explain.document import inline, plain_of, printable, shortened
from proxy.explain.page import Row, counted, diff_rows, listed
from proxy.explain.request_page import change_rows, document_rows, error_rows
from proxy.explain.stream import ENDINGS, EventReport, StreamReport, one_change, payloads_of, usage_facts
from proxy.translate.answer_rules import ANSWER_RULES

_INDENT: Final = "    "
#: What every chunk of a stream repeats, left out where chunks are shown on one line.
_REPEATED: Final = ("id", "object", "created", "model")
_MOST_OUT: Final = 6


def stream_rows(report: StreamReport, *, full: bool) -> Iterator[Row]:
    """Return what to show of a stream; `full` shows every event and shortens nothing."""
    if full:
        for event in report.events:
            yield from _event(event, full=True)
    else:
        for _, run in groupby(report.events, key=_likeness):
            yield from _run(list(run))
    yield Row("text", "")
    yield from _end(report)


def _likeness(event: EventReport) -> tuple[object, ...]:
    """What events that are shown together have in common; an event at which a rule comes up is by itself."""
    return event.outcome, event.marks, event.number if event.rules or not event.came else 0


def _run(events: list[EventReport]) -> Iterator[Row]:
    first = events[0]
    if first.outcome == "changed":
        yield from _event(first, full=False)
        if events[1:]:
            where = f"in the same places ({listed(first.marks, 4)})" if first.marks else "in the same way"
            yield Row("note", f"{_numbers(events[1:])}: changed {where}")
    elif first.rules or not first.came:
        yield from _event(first, full=False)
    elif first.outcome == "passed":
        several = f"{counted(len(events), 'event')} passed as they came"
        yield Row("note", f"{_numbers(events)}: {several if events[1:] else 'passed as it came'}")
    else:
        yield Row("note", f"{_numbers(events)}: nothing goes out")
        for event in events[:_MOST_OUT]:
            yield from _payload_rows("-", event.came, full=False)
        if len(events) > _MOST_OUT:
            yield Row("note", f"{_INDENT}… {counted(len(events) - _MOST_OUT, 'more event')}")


def _numbers(events: list[EventReport]) -> str:
    first, last = events[0].number, events[-1].number
    return f"event {first}" if first == last else f"events {first} to {last}"


def _event(event: EventReport, *, full: bool) -> Iterator[Row]:
    yield Row("title", f"event {event.number}: {_what_goes_out(event)}" if event.came else "end of data")
    for rule in event.rules:
        yield Row("text", f"{_INDENT}{rule}: {ANSWER_RULES[rule]}")
    change = None
    try:
        change = one_change(event.came, event.out) if event.outcome == "changed" else None
        lines = diff_lines(change, full=full) if change is not None else []
    except (ValueError, RecursionError):
        lines = []
    if lines:
        yield from diff_rows(lines, _INDENT)
    elif change is not None:
        yield Row("note", f"{_INDENT}says the same: line ends, white space or the order of keys differ")
    elif event.outcome != "passed":
        yield from _payload_rows("-", event.came, full=full)
        yield from _payload_rows("+", event.out, full=full)
    elif full:
        yield from _payload_rows(" ", event.out, full=True)


def _what_goes_out(event: EventReport) -> str:
    if event.outcome == "passed":
        return "passed as it came"
    if event.outcome == "silent":
        return "nothing goes out"
    came, out = len(payloads_of(event.came)), len(payloads_of(event.out))
    return "changed" if came == out == 1 else f"{counted(out, 'event')} out"


def _payload_rows(sign: Literal["-", "+", " "], events: bytes, *, full: bool) -> Iterator[Row]:
    for payload in payloads_of(events):
        text = _on_one_line(payload)
        yield Row(sign, f"{_INDENT}{sign} {text if full else shortened(text)}")


def _on_one_line(payload: bytes) -> str:
    """Return what an event says, without what every chunk says."""
    try:
        value = plain_of(payload)
    except (ValueError, RecursionError):
        return printable(payload.decode("utf-8", "backslashreplace"))
    if isinstance(value, dict):
        value = {name: item for name, item in value.items() if name not in _REPEATED}
    return inline(value)


def _end(report: StreamReport) -> Iterator[Row]:
    came = [event for event in report.events if event.came]
    passed = sum(event.outcome == "passed" for event in came)
    yield Row("good" if report.error is None else "bad", f"{report.state.name}  {_ending(report)}")
    yield Row("text", f"{_INDENT}events         {len(came):,} came, {passed:,} of them passed as they came")
    yield Row("text", f"{_INDENT}finish reason  {', '.join(report.finish_reasons) or 'none'}")
    usage = [f"{name} {number:,}" for name, number in usage_facts(report.usage).items()]
    yield Row("text", f"{_INDENT}usage          {', '.join(usage) or 'none'}")
    yield from _rules(report.rules)
    if report.error is not None:
        yield Row("bad", f"{_INDENT}the error that the client gets:")
        yield from error_rows(error_body(report.error))


def _ending(report: StreamReport) -> str:
    if report.wants_whole:
        return "nothing of it arrived: the upstream is asked again, for a whole answer (retry_swallowed=non_stream)"
    return ENDINGS[report.state]


def _rules(rules: Iterable[str]) -> Iterator[Row]:
    named = list(rules)
    yield Row("text", f"{_INDENT}rules          {'none changed anything' if not named else ''}".rstrip())
    for rule in named:
        yield Row("text", f"{_INDENT}  {rule}: {ANSWER_RULES[rule]}")


def answer_rows(report: AnswerReport, *, full: bool) -> Iterator[Row]:
    """Return what to show of a whole answer."""
    if report.error is not None:
        yield Row("bad", f"the client gets HTTP {report.error.status} instead of this answer:")
        yield from error_rows(error_body(report.error))
        return
    for change in report.changes:
        yield from change_rows(change, full=full)
    if report.paths:
        yield Row("path", f"{_INDENT}at {printable(listed(report.paths, len(report.paths) if full else 6))}")
        yield Row("text", "")
    if report.answer is None:
        return
    words = "goes to the client" if report.changes else "goes to the client as it came"
    yield Row("good", f"{words}: {len(report.body):,} bytes came, {len(report.answer.body):,} go out")
    yield Row("text", f"{_INDENT}finish reason  {', '.join(report.answer.finish_reasons) or 'none'}")
    yield from _rules(report.answer.rules_applied)
    if full:
        yield from document_rows(plain_of(report.answer.body))
