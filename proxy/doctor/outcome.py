"""What a check comes to, and text of other servers made fit for a screen."""

from enum import StrEnum
from typing import Final, NamedTuple

#: Arbitrary: a refusal of vLLM can be nineteen lines long, and its first sentence says it.
_LONGEST_QUOTE: Final = 300


class Status(StrEnum):
    """`failed` keeps an agent from working through the proxy; `warning` does not, and should still be changed."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Outcome(NamedTuple):
    """
    One result: a sentence for people, lines that go deeper, and what to type where there is something to type.

    Texts that came from a server have been through `quoted`.
    """

    status: Status
    says: str
    details: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()


def ok(says: str, *details: str) -> Outcome:
    """Return what needs nothing done."""
    return Outcome(Status.OK, says, details)


def warning(says: str, *fix: str, details: tuple[str, ...] = ()) -> Outcome:
    """Return what works through the proxy, and should be changed."""
    return Outcome(Status.WARNING, says, details, fix)


def failed(says: str, *fix: str, details: tuple[str, ...] = ()) -> Outcome:
    """Return what does not work."""
    return Outcome(Status.FAILED, says, details, fix)


def skipped(says: str) -> Outcome:
    """Return what was not looked at, or could not be seen; `says` is why."""
    return Outcome(Status.SKIPPED, says)


def quoted(text: str, longest: int = _LONGEST_QUOTE) -> str:
    """Return text of a server on one line, cut, and without what a terminal would act on."""
    line = " ".join(text.split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= longest else line[: longest - 1] + "…"
