"""F21 to F24: what agents send and a strict Mistral model refuses. The model here is strict.py's."""

import json
from collections.abc import Sequence
from typing import Any, Final

from tests.kit.rig import Message, Rig, user
from tests.kit.row import Kind, Row
from tests.kit.strict import faults, strict
from tests.kit.verdict import Fails, NotApplicable

#: As OpenAI makes them, and so as agents keep them from another model.
_ID: Final = "call_Zb41kPq0TvHn8sLw"
_RESULT: Final = "it-is-21-degrees"
_FUNCTION: Final[Message] = {
    "name": "get_weather",
    "description": "d",
    "parameters": {"type": "object", "properties": {}},
}
_TOOL: Final[Message] = {"type": "function", "function": _FUNCTION}
_SYSTEM: Final = {"role": "system", "content": "Be brief."}


def _call(id_: str = _ID) -> Message:
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": id_, "type": "function", "function": function}]}


def _result(id_: str = _ID) -> Message:
    return {"role": "tool", "tool_call_id": id_, "content": _RESULT}


async def user_after_result(rig: Rig) -> str:
    """A user message behind a tool's result is no error, and the result is not lost."""
    turn: list[Message | str] = ["ask", _call("abcdef123"), _result("abcdef123")]
    return await _is_accepted(rig, [_SYSTEM, *turn, user("and-now")], _RESULT)


async def developer(rig: Rig) -> str:
    """The role developer is no error, and its text is not lost."""
    return await _is_accepted(rig, [{"role": "developer", "content": "be-very-brief"}, "ask"], "be-very-brief")


async def late_system(rig: Rig) -> str:
    """A system message behind an answer is no error, and its text is not lost."""
    late = {"role": "system", "content": "now-be-verbose"}
    said = {"role": "assistant", "content": "Yes?"}
    return await _is_accepted(rig, ["ask", said, late, user("go")], "now-be-verbose")


async def orphan_result(rig: Rig) -> str:
    """A tool's result whose call was cut away is no error, and the result is not lost."""
    return await _is_accepted(rig, ["ask", _result(), user("go-on")], _RESULT)


async def openai_ids(rig: Rig) -> str:
    """Ids of calls as OpenAI makes them are no error: call and result have the same nine letters or digits."""
    return await _is_accepted(rig, ["ask", _call(), _result()], _RESULT)


async def same_ids_again(rig: Rig) -> str:
    """The same conversation has the same ids each time, so that the model's cache knows it."""
    seen = []
    for _ in range(2):
        try:
            body = await _accepted(rig, ["ask", _call(), _result()])
        except Fails:
            raise NotApplicable("such ids are refused, see F22a") from None
        seen.append([call["id"] for message in body["messages"] for call in message.get("tool_calls") or ()])
    if seen[0] != seen[1]:
        raise Fails("they differ")
    return ""


async def missing_result(rig: Rig) -> str:
    """A call that was never answered is no error."""
    return await _is_accepted(rig, ["ask", _call("abcdef123"), user("never mind")])


async def foreign_keys(rig: Rig) -> str:
    """Keys of other servers' messages (reasoning_content, annotations …) are no error."""
    foreign: Message = {"reasoning_content": "Hm.", "refusal": None, "annotations": [], "audio": None}
    return await _is_accepted(rig, ["ask", {"role": "assistant", "content": "Yes?", **foreign}, user("go")])


async def foreign_tool_keys(rig: Rig) -> str:
    """Keys of other servers' tools (strict, cache_control) are no error."""
    tool = {"type": "function", "function": _FUNCTION | {"strict": True}, "cache_control": {"type": "ephemeral"}}
    return await _is_accepted(rig, ["ask"], tools=[tool])


async def empty_assistant(rig: Rig) -> str:
    """An assistant's message without content and calls is no error."""
    return await _is_accepted(rig, ["ask", {"role": "assistant", "content": ""}, user("go")])


async def _is_accepted(rig: Rig, messages: Sequence[Message | str], text: str = "", **fields: Any) -> str:
    body = await _accepted(rig, messages, **fields)
    if text not in json.dumps(body["messages"]):
        raise Fails(f"accepted, but {text!r} is lost")
    return ""


async def _accepted(rig: Rig, messages: Sequence[Message | str], **fields: Any) -> Any:
    """Send `messages`, "ask" being a question with the play's mark; return what the model accepted."""
    play = rig.play(strict)
    spoken = [user(f"Weather? {play.mark}") if message == "ask" else message for message in messages]
    answer = await rig.whole(play, messages=spoken, **({"tools": [_TOOL]} | fields))
    if not play.calls:
        raise Fails(f"{answer.status}, and nothing went upstream")
    if fault := next(faults(play.calls[-1].json), None):
        raise Fails(f"the model says: {fault[:70]}")
    if answer.status != 200:
        raise Fails(f"the client got {answer.status}")
    return play.calls[-1].json


ROWS: Final = tuple(
    Row(id_, check, kind=Kind.MISTRAL)
    for id_, check in (
        ("F21a", user_after_result),
        ("F21b", developer),
        ("F21c", late_system),
        ("F21d", orphan_result),
        ("F22a", openai_ids),
        ("F22b", same_ids_again),
        ("F22c", missing_result),
        ("F23a", foreign_keys),
        ("F23b", foreign_tool_keys),
        ("F24", empty_assistant),
    )
)
