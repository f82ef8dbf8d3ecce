"""Reports as JSON, for programs. Parts of bodies are in it as they are: numbers keep the form they were written in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from proxy.errors import ProxyError, error_body
from proxy.explain.answer import AnswerReport
from proxy.explain.differences import Change
from proxy.explain.document import printable
from proxy.explain.request import RequestReport
from proxy.explain.stream import StreamReport, usage_facts
from proxy.translate.answer_rules import ANSWER_RULES
from proxy.translate.chat import JsonPath, path_text

Fields = dict[str, Any]


def as_json(head: Mapping[str, Any], fields: Fields) -> str:
    """Return one JSON object, on lines that a terminal shows and does not obey."""
    text = msgspec.json.format(msgspec.json.encode({**head, **fields}), indent=2).decode()
    return "".join(f"{printable(line)}\n" for line in text.split("\n"))


def request_fields(report: RequestReport) -> Fields:
    """Return what is known of a request; `body` is what goes upstream, null where nothing does."""
    request = report.request
    return {
        "front_rules": report.front_rules,
        "rules": [
            {
                "rule": rule.rule,
                "reason": rule.reason,
                "option": rule.option or None,
                "paths": rule.paths,
                "changes": _changes(rule.changes),
            }
            for rule in report.rules
        ],
        "rules_applied": () if request is None else request.rules_applied,
        "model": None if request is None else request.model,
        "stream": None if request is None else request.stream,
        "upstream_stream": None if request is None else request.upstream_stream,
        "body": None if request is None else Raw(request.body),
        "error": _error(report.error, report.error_body),
    }


def stream_fields(report: StreamReport) -> Fields:
    """Return what is known of a stream, with every event as text."""
    return {
        "events": [
            {
                "number": event.number,
                "outcome": event.outcome,
                "rules": event.rules,
                "came": _text(event.came),
                "out": _text(event.out),
            }
            for event in report.events
        ],
        "state": report.state.name,
        "finish_reasons": report.finish_reasons,
        "usage": usage_facts(report.usage) or None,
        "rules_applied": _answer_rules(report.rules),
        "asked_again_whole": report.wants_whole,
        "error": _error(report.error),
    }


def answer_fields(report: AnswerReport) -> Fields:
    """Return what is known of a whole answer; `body` is what the client gets, null where it gets the error."""
    answer = report.answer
    return {
        "paths": report.paths,
        "changes": _changes(report.changes),
        "finish_reasons": () if answer is None else answer.finish_reasons,
        "usage": None if answer is None else usage_facts(answer.usage) or None,
        "rules_applied": {} if answer is None else _answer_rules(answer.rules_applied),
        "body": None if answer is None else Raw(answer.body),
        "error": _error(report.error),
    }


def _changes(changes: Sequence[Change]) -> list[Fields]:
    return [
        {
            "verb": change.verb,
            "was": _place(change.was),
            "now": _place(change.now),
            "before": Raw(change.before) if change.before else None,
            "after": Raw(change.after) if change.after else None,
        }
        for change in changes
    ]


def _place(path: JsonPath | None) -> str | None:
    return None if path is None else path_text(path)


def _answer_rules(names: Sequence[str]) -> Fields:
    return {name: ANSWER_RULES[name] for name in names}


def _error(error: ProxyError | None, body_of: Callable[[ProxyError], bytes] = error_body) -> Fields | None:
    return None if error is None else {"status": error.status, "body": Raw(body_of(error))}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
