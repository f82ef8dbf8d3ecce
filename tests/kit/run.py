"""Runs rows against one gateway, and makes sure between them that it still serves."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from tests.kit.rig import Rig
from tests.kit.row import Row
from tests.kit.verdict import NotOk, Verdict, within

#: No row may hold up the others for longer.
_ROW_S: Final = 45.0
#: The whole run: rows that would start later do not run.
BUDGET_S: Final = 200.0
#: How long a gateway may take to serve again after a row; LiteLLM's cooldown is five seconds.
_RECOVERY_S: Final = 8.0

Restart = Callable[[], Awaitable[None]]


class Result(NamedTuple):
    """What one row said; `seen` is in few words."""

    row: Row
    verdict: Verdict
    seen: str = ""

    def fields(self) -> dict[str, Any]:
        """Return it for results.json."""
        row = self.row
        return {
            "id": row.id,
            "probe": row.probe,
            "kind": row.kind.value,
            "claim": row.claim,
            "verdict": self.verdict.value,
            "seen": self.seen,
        }


async def run(
    rig: Rig, rows: Sequence[Row], report: Callable[[Result], None], *, restart: Restart | None = None
) -> list[Result]:
    """
    Check `rows` one after the other; tell `report` of each, and return all.

    A gateway that does not serve any more after a row is restarted, or, where that cannot be done, the rest is not run.
    """
    ends_at = time.monotonic() + BUDGET_S
    results, lost = [], ""
    for row in rows:
        if lost or time.monotonic() > ends_at:
            result = Result(row, Verdict.NOT_RUN, lost or f"the {BUDGET_S:g} s for all rows were over")
        else:
            result = await _checked(rig, row)
            if row is not rows[-1] and not await _serves_again(rig):
                result = result._replace(seen=f"{result.seen}; does not serve after it".removeprefix("; "))
                if restart is None:
                    lost = f"it has not served since {row.id}"
                else:
                    await restart()
        results.append(result)
        report(result)
    return results


async def wait_until_it_serves(rig: Rig, seconds: float) -> bool:
    """Return whether a plain question was answered in this time."""
    ends_at = time.monotonic() + seconds
    while not await rig.is_serving():
        if time.monotonic() > ends_at:
            return False
        await asyncio.sleep(0.1)
    return True


async def _serves_again(rig: Rig) -> bool:
    rig.model.end_plays()
    return await wait_until_it_serves(rig, _RECOVERY_S)


async def _checked(rig: Rig, row: Row) -> Result:
    first = await _once(rig, row)
    if first.verdict is not Verdict.FAILS or not row.repeats or not await _serves_again(rig):
        return first
    # Once more: the machine may have been busy.
    second = await _once(rig, row)
    if second.verdict is Verdict.OK:
        return second._replace(seen=f"{second.seen}; at the second try, at the first: {first.seen}".removeprefix("; "))
    return first


async def _once(rig: Rig, row: Row) -> Result:
    try:
        async with within(_ROW_S, "no verdict"):
            return Result(row, Verdict.OK, await row.check(rig))
    except NotOk as exc:
        return Result(row, exc.verdict, str(exc))
    except Exception as exc:  # what a gateway sends may break any check: that is a finding, and not the end of the run
        return Result(row, Verdict.FAILS, f"the answer broke the check: {type(exc).__name__}: {str(exc)[:80]}")
    finally:
        rig.model.end_plays()
