"""
The examination: all checks, in order.

A check is left out where the one that it needs has failed, or was left out for such a reason. One that was left out
because nothing could be seen stops nobody.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple

from proxy.doctor import reach, rounds, what
from proxy.doctor.asking import NoAnswer
from proxy.doctor.case import Case
from proxy.doctor.outcome import Outcome, Status, failed, quoted, skipped


class Check(NamedTuple):
    """One row. `needs` names the row that must not have failed, "" is none."""

    name: str
    run: Callable[[Case], Awaitable[Outcome]]
    needs: str = ""


CHECKS: Final[tuple[Check, ...]] = (
    Check("address", reach.address),
    Check("connection", reach.connection, "address"),
    Check("tls", reach.tls, "connection"),
    Check("http", reach.http, "tls"),
    Check("server", what.server, "http"),
    Check("version", what.version, "server"),
    Check("health", what.health, "server"),
    Check("api key", what.key, "server"),
    Check("models", what.models, "api key"),
    Check("tokenizer", what.tokenizer, "models"),
    Check("shapes", what.shapes, "tokenizer"),
    Check("quirks", what.quirks, "models"),
    Check("tool parser", rounds.tool_parser, "models"),
    Check("tool call", rounds.tool_call, "tool parser"),
    Check("tool call, streamed", rounds.tool_call_streamed, "tool parser"),
    Check("tool result", rounds.tool_result, "tool call"),
    Check("reasoning parser", rounds.reasoning, "models"),
    Check("keep-alive", reach.keep_alive, "http"),
    Check("clock", reach.clock, "http"),
)

Result = tuple[Check, Outcome]


async def examine(case: Case, begins: Callable[[Check], None]) -> AsyncIterator[Result]:
    """Run all checks; yield each with its outcome. `begins` is told of each before it runs."""
    broken: dict[str, str] = {}
    for check in CHECKS:
        if check.needs in broken:
            broken[check.name] = broken[check.needs]
            yield check, skipped(f"not looked at, since this failed: {broken[check.needs]}")
            continue
        begins(check)
        outcome = what.without_key(await _outcome(check, case), case.server.backend.api_key)
        if outcome.status is Status.FAILED:
            broken[check.name] = check.name
        yield check, outcome


async def _outcome(check: Check, case: Case) -> Outcome:
    try:
        return await check.run(case)
    except NoAnswer as exc:
        return failed(quoted(exc.says), *exc.fix)
