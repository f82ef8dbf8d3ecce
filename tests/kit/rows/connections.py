"""F02, F06: connections to the model server that are stale, or refused."""

import asyncio
import time
from contextlib import suppress
from typing import Final

from tests.kit.client import PATIENCE_S, connected
from tests.kit.model import Act, Call, Script, usual
from tests.kit.rig import Rig, took
from tests.kit.row import Row
from tests.kit.verdict import Fails, NotApplicable, within

#: A gateway of several processes may pick another one for each try.
_TRIES: Final = 6
_REQUESTS: Final = 12
_BRIEF_S: Final = 2.0


async def stale_connection(rig: Rig) -> str:
    """A kept connection that the model has closed is replaced, and the client sees nothing of it."""
    for _ in range(_TRIES):
        play = rig.play(_close_if_used, usual)
        async with connected(rig.target) as connection:  # one, so that it is one process that answers
            rig.send(connection, rig.body(rig.play()))
            await (await connection.answer()).read()
            asked_at = time.monotonic()
            rig.send(connection, rig.body(play))
            answer = await connection.answer(PATIENCE_S * 2)
            await answer.read()
        if not play.calls[0].is_first:
            if answer.status != 200:
                raise Fails(f"the client got {answer.status}")
            return took(asked_at)
    raise NotApplicable("it opens a connection for each request")


def _close_if_used(call: Call) -> Script:
    """A server that closed the connection while the request was under way."""
    return usual(call) if call.is_first else [Act.CLOSE]


async def refused(rig: Rig) -> str:
    """A model server that is down is a 502 or 503 at once, and JSON."""
    async with rig.model.down():
        asked_at = time.monotonic()
        answer = await rig.whole(rig.play())
        if answer.status not in (502, 503):
            raise Fails(f"the client got {answer.status}")
        if not isinstance((await answer.json()).get("error"), dict):
            raise Fails(f"{answer.status} without an error object")
        return f"{answer.status} {took(asked_at)}"


async def back_again(rig: Rig) -> str:
    """A model server that is up again gets requests within four seconds."""
    async with rig.model.down():
        for _ in range(3):
            with suppress(Fails):  # what it says of it is another row
                await rig.whole(rig.play(), patience_s=_BRIEF_S)
    up_at = time.monotonic()
    async with within(PATIENCE_S, "it was not asked again"):
        while not await rig.is_serving():  # noqa: ASYNC110 - it is the gateway that has to notice
            await asyncio.sleep(0.1)
    return took(up_at)


async def one_of_two_is_down(rig: Rig) -> str:
    """Of two model servers one is down: every request is answered by the other."""
    if len(rig.model.ports) < 2:
        raise NotApplicable("one model server; give --upstream-port twice")
    async with rig.model.down(rig.model.ports[:1]):
        statuses = [(await rig.whole(rig.play())).status for _ in range(_REQUESTS)]
    if bad := [status for status in statuses if status != 200]:
        raise Fails(f"{len(bad)} of {len(statuses)} failed: {bad[0]}")
    return ""


ROWS: Final = (
    Row("F02", stale_connection, probe="B"),
    Row("F06a", refused),
    Row("F06b", back_again, repeats=False),
    Row("F06c", one_of_two_is_down, repeats=False),
)
