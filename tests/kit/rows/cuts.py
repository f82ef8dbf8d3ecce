"""F03: an answer that was cut never looks like a whole one."""

from typing import Final

from tests.fakes import STREAM_END, STREAM_HEAD, completion, event, text_chunk, whole
from tests.kit.answers import FIRST_PART
from tests.kit.client import Answer
from tests.kit.model import Act, Step
from tests.kit.rig import Rig, choices
from tests.kit.row import Row
from tests.kit.verdict import Fails


async def reset(rig: Rig) -> str:
    """A stream that is reset ends in an error event."""
    return await _ends_in_error(rig, Act.RESET)


async def ended_inside_a_chunk(rig: Rig) -> str:
    """A stream that ends inside an event ends in an error event."""
    return await _ends_in_error(rig, event(text_chunk("lost"))[:-20], Act.CLOSE)


async def ended_without_finish(rig: Rig) -> str:
    """A stream that ends cleanly, without a finish reason and [DONE], ends in an error event."""
    return await _ends_in_error(rig, STREAM_END)


async def _ends_in_error(rig: Rig, *cut: Step) -> str:
    play = rig.play([STREAM_HEAD, event(FIRST_PART), event(text_chunk("Hel")), 0.2, *cut])
    async with rig.ask(play, stream=True) as answer:
        if answer.status >= 400:
            return f"{answer.status}: it had kept the events back"
        events = await answer.events()
        invented = [choice["finish_reason"] for choice in choices(events) if choice.get("finish_reason")]
        if invented:
            raise Fails(f'finish_reason "{invented[0]}" is invented')
        if not any("error" in each.json for each in events):
            raise Fails(_silence(answer, done=any(each.data == "[DONE]" for each in events)))
        return "" if events[-1].data == "[DONE]" else "without [DONE]"


def _silence(answer: Answer, *, done: bool) -> str:
    if done:
        return "[DONE], and no error"
    return "the stream just ends" if answer.is_whole else "the HTTP body breaks off"


async def whole_answer_cut(rig: Rig) -> str:
    """A whole answer that was cut is an error, not a shorter answer."""
    play = rig.play([whole(completion("Hello"))[:-30], Act.CLOSE])
    async with rig.ask(play, patience_s=8) as answer:
        await answer.read()
        if answer.status < 400:
            raise Fails(f"{answer.status} with a broken body")
        return f"{answer.status}, model called {len(play.calls)} x"


ROWS: Final = (
    Row("F03a", reset, probe="C"),
    Row("F03b", ended_inside_a_chunk),
    Row("F03c", ended_without_finish, probe="D"),
    Row("F03d", whole_answer_cut),
)
