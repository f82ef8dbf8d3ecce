"""What a check says of a gateway: it returns a remark when all is well, else it raises one of these."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum


class Verdict(StrEnum):
    """The first word of a row's result."""

    OK = "ok"
    FAILS = "fails"
    INFO = "info"
    NOT_APPLICABLE = "n/a"
    NOT_RUN = "not run"


class NotOk(Exception):
    """The row is not simply ok; the text says in few words what was seen."""

    verdict = Verdict.FAILS


class Fails(NotOk):
    """What the row claims does not hold."""


class Info(NotOk):
    """Worth knowing, and no fault: the row is about something that may be wanted or not."""

    verdict = Verdict.INFO


class NotApplicable(NotOk):
    """The gateway does nothing that this row could be about."""

    verdict = Verdict.NOT_APPLICABLE


@asynccontextmanager
async def within(seconds: float, complaint: str) -> AsyncIterator[None]:
    """
    Bound what is done inside.

    Raises:
        Fails: it took longer; `complaint` says what was missing, and the bound is added.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Fails(f"{complaint} within {seconds:g} s") from None
