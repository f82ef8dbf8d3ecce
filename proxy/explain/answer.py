"""What becomes of a whole answer of an upstream."""

from typing import NamedTuple

from proxy.errors import ProxyError
from proxy.explain.differences import Change, changed_paths, changes_between
from proxy.translate.completion import CompletionAnswer, translate_completion
from proxy.translate.expectation import Expectation


class AnswerReport(NamedTuple):
    """An answer before and after; either `answer` goes to the client, or `error` does."""

    body: bytes
    changes: tuple[Change, ...]
    paths: tuple[str, ...]
    answer: CompletionAnswer | None
    error: ProxyError | None


def explain_answer(body: bytes, expectation: Expectation) -> AnswerReport:
    """
    Return what a client gets of an upstream's whole answer. An error is a result.

    Raises:
        RecursionError: it is nested too deeply to be shown.
    """
    try:
        answer = translate_completion(body, expectation)
    except ProxyError as error:
        return AnswerReport(body, (), (), None, error)
    if answer.body == body:
        return AnswerReport(body, (), (), answer, None)
    changes = tuple(changes_between(body, answer.body))
    return AnswerReport(body, changes, tuple(changed_paths(changes)), answer, None)
