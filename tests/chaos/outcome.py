"""
What became of a request, as its client sees it: exactly one of these.

    RIGHT   an answer that is whole and says what it should
    ERROR   the client was told: a status of 400 or more, or an error event before [DONE]
    CUT     the connection broke before the end: what a client of a killed worker sees
    REFUSED nothing listened: all workers were killed, and none has come back yet
    AWAY    the client itself left
    WRONG   anything that a client would take for whole and is not, and anything that is no honest error
    LOST    no outcome within the deadline
"""

import json
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple


class Kind(Enum):
    """See the table at the top."""

    RIGHT = "right"
    ERROR = "error"
    CUT = "cut"
    REFUSED = "refused"
    AWAY = "away"
    WRONG = "wrong"
    LOST = "lost"


class Outcome(NamedTuple):
    """Its kind, in a word or two what it was, whether another replica went on with it, and an error's own message."""

    kind: Kind
    detail: str
    is_continued: bool = False
    message: str = ""


class Judge(NamedTuple):
    """What an answer must be: `problem(text)` of a whole one is "", `begins(text)` of one that broke off is true."""

    problem: Callable[[str], str]
    begins: Callable[[str], bool]
    finish: str = "stop"

    def whole(self, status: int, body: bytes) -> Outcome:
        """Judge an answer that is no stream, and that has come to its end."""
        try:
            answer = json.loads(body)
            if status != 200:
                return _refused(status, answer)
            choice = answer["choices"][0]
            return self._told(choice["message"]["content"], choice["finish_reason"], len(answer["choices"]))
        except (ValueError, LookupError, TypeError) as exc:
            return Outcome(Kind.WRONG, f"status {status}, and no OpenAI answer: {exc!r}")

    def stream(self, body: bytes, *, is_ended: bool) -> Outcome:
        """Judge a stream of status 200; `is_ended`: HTTP says that this is all."""
        told = Told(body)
        if not self.begins(told.text) and self.problem(told.text):
            return Outcome(Kind.WRONG, f"a text that nobody wrote: {told.text[-200:]!r}")
        if told.problem:
            return Outcome(Kind.WRONG, told.problem)
        if told.finishes and told.error is None:
            found = self._told(told.text, told.finishes[0], 1)
            if found.kind is Kind.WRONG or told.is_done:
                return found._replace(is_continued=told.is_continued)
        if told.error is not None and told.is_done and not told.finishes:
            return Outcome(Kind.ERROR, f"event: {told.error}")
        if is_ended:
            return Outcome(Kind.WRONG, f"an end without [DONE], or beside an error: {body[-200:]!r}")
        return Outcome(Kind.CUT, "stream")

    def _told(self, text: Any, finish: Any, choices: int) -> Outcome:
        problem = self.problem(text)
        if problem or finish != self.finish or choices != 1:
            return Outcome(Kind.WRONG, f"looks whole, finish {finish!r}, {choices} choices: {problem}")
        return Outcome(Kind.RIGHT, "")


class Told:
    """All that the events of a stream say; `problem` is "" where they keep the protocol. What is cut is left out."""

    def __init__(self, body: bytes) -> None:
        self.text, self.finishes, self.error, self.problem = "", list[str](), None, ""
        self.is_done = self.is_continued = False
        roles, ids = 0, set()
        for event in body.split(b"\n\n")[:-1]:
            if event.startswith(b":"):
                self.is_continued |= b"continued on another replica" in event
                continue
            if self.is_done or not event.startswith(b"data: "):
                self.problem = f"behind [DONE], or no event: {event[:200]!r}"
                return
            if event == b"data: [DONE]":
                self.is_done = True
                continue
            chunk = json.loads(event[6:])
            if "error" in chunk:
                self.error = chunk["error"].get("code") or chunk["error"].get("type")
                continue
            ids.add(chunk["id"])
            for choice in chunk["choices"]:
                roles += "role" in choice["delta"]
                self.text += choice["delta"].get("content") or ""
                self.finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
        if roles > 1 or len(self.finishes) > 1 or len(ids) > 1:
            self.problem = f"{roles} roles, {len(self.finishes)} finish reasons, {len(ids)} ids"


def _refused(status: int, answer: Any) -> Outcome:
    error = answer["error"]
    if status < 400 or not {"message", "type", "param", "code"} <= error.keys():
        return Outcome(Kind.WRONG, f"status {status}, and no OpenAI error")
    return Outcome(Kind.ERROR, f"{status}: {error['code'] or error['type']}", message=error["message"])


def exactly(text: str) -> Judge:
    """Return the judge of an answer that must be `text`."""

    def problem(told: str) -> str:
        return "" if told == text else f"{told[:100]!r}...{told[-100:]!r} is not ...{text[-100:]!r}"

    return Judge(problem, text.startswith)
