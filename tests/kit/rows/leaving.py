"""F01, F16: what becomes of the model server's work when a client leaves."""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

from tests.fakes import STREAM_HEAD, event, text_chunk
from tests.kit.answers import FIRST_PART
from tests.kit.client import connected
from tests.kit.model import Act, Play, usual
from tests.kit.rig import Rig, reached, took
from tests.kit.row import Row
from tests.kit.verdict import Fails, within

#: The ideal is 100 ms; a gateway that looks now and then still passes.
_LEFT_S: Final = 2.0
_CLIENTS: Final = 40


async def inside_a_stream(rig: Rig) -> str:
    """A client leaves inside a stream: the model is told to stop."""
    tokens = [step for number in range(80) for step in (event(text_chunk(f" {number}")), 0.05)]
    play = rig.play([STREAM_HEAD, event(FIRST_PART), *tokens, Act.HANG])
    async with rig.ask(play, stream=True) as answer:
        await answer.next_event()
    return await _left(play)


async def before_the_first_event(rig: Rig) -> str:
    """A client leaves before the first event of a stream: the model is told to stop."""
    return await _leaves_early(rig, stream=True)


async def before_a_whole_answer(rig: Rig) -> str:
    """A client leaves while it waits for a whole answer: the model is told to stop."""
    return await _leaves_early(rig, stream=False)


async def _leaves_early(rig: Rig, *, stream: bool) -> str:
    play = rig.play([Act.HANG])
    async with connected(rig.target) as connection:
        rig.send(connection, rig.body(play, stream=stream))
        await reached(play)
    return await _left(play)


async def _left(play: Play) -> str:
    left_at = time.monotonic()
    async with within(_LEFT_S, "the model was not left"):
        await play.calls[0].left.wait()
    return took(left_at)


async def slots_come_back(rig: Rig) -> str:
    """Forty clients that leave take nothing away from the twenty that come next."""
    play = rig.play([Act.HANG])
    async with AsyncExitStack() as leaving:
        for _ in range(_CLIENTS):
            rig.send(await leaving.enter_async_context(connected(rig.target)), rig.body(play, stream=True))
        await reached(play, _CLIENTS // 2)  # a gateway may queue the rest
    next_play = rig.play(usual)
    answers = await asyncio.gather(*(rig.whole(next_play, stream=True) for _ in range(_CLIENTS // 2)))
    if bad := [answer.status for answer in answers if answer.status != 200]:
        raise Fails(f"{len(bad)} of {len(answers)} were refused: {bad[0]}")
    return ""


ROWS: Final = (
    Row("F01a", inside_a_stream, probe="A1"),
    Row("F01b", before_the_first_event, probe="A2"),
    Row("F01c", before_a_whole_answer, probe="A3"),
    Row("F16", slots_come_back),
)
