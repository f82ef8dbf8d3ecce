"""F27: how the gateway ends. The last row, because there is no gateway after it."""

import asyncio
import signal
from typing import Final

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, event, text_chunk
from tests.kit.answers import FIRST_PART, LAST_PART
from tests.kit.rig import Rig, text_of
from tests.kit.row import Row
from tests.kit.verdict import Fails, NotApplicable, within

_TEXTS: Final = tuple(f" {number}" for number in range(30))
_BETWEEN_S: Final = 0.1
#: Some go on accepting for a while so that load balancers can see it.
_END_S: Final = 20.0


async def stream_outlives_sigterm(rig: Rig) -> str:
    """SIGTERM lets a running stream finish; then the process ends by itself."""
    if rig.ending is None:
        raise NotApplicable("its process is not known; give --pid")
    steps = [step for text in _TEXTS for step in (event(text_chunk(text)), _BETWEEN_S)]
    play = rig.play([STREAM_HEAD, event(FIRST_PART), *steps, event(LAST_PART), DONE, STREAM_END])
    async with rig.ask(play, stream=True, patience_s=_END_S) as answer:
        first = await answer.next_event()
        await asyncio.sleep(_BETWEEN_S)
        rig.ending.terminate()
        events = [first, *await answer.events()]
    if (text := text_of(events)) != "".join(_TEXTS):
        raise Fails(f"the stream ends behind {text[-3:]!r}")
    async with within(_END_S, "the process did not end"):
        code = await rig.ending.exit_code()
    if code is None:
        return "exit code not visible"
    if code not in (0, -signal.SIGTERM):  # a process may say by its end what has ended it
        raise Fails(f"the stream finishes, the exit code is {code}")
    return "exit code 0" if code == 0 else "ended by the signal"


ROWS: Final = (Row("F27", stream_outlives_sigterm, probe="P"),)
