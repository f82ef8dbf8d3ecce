"""F17 to F20: usage and tool calls in answers."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.fakes import completion, text_chunk, whole
from tests.kit.answers import FIRST_PART, LAST_PART, USAGE, call, calling, part, stream
from tests.kit.model import Call, Play, Script, usual
from tests.kit.rig import Rig, choices, deltas, text_of
from tests.kit.row import Kind, Row
from tests.kit.sse import Event
from tests.kit.verdict import Fails

Delta = dict[str, Any]

_TOOLS: Final = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("get_weather", "get_time")
]
_ARGUMENTS: Final = '{"city": "Paris"}'
_LEAKED: Final = f"[TOOL_CALLS]get_weather[ARGS]{_ARGUMENTS}"


# --- F17


async def usage_as_asked(rig: Rig) -> str:
    """A client that asks for usage gets it once, at the end of the stream."""
    found = await _usages(rig, stream_options={"include_usage": True})
    if len(found) != 1 or found[0].get("completion_tokens") != USAGE["completion_tokens"]:
        raise Fails(f"it comes {len(found)} times" if len(found) != 1 else "it has other numbers")
    return ""


async def no_usage(rig: Rig) -> str:
    """A client that does not ask for usage, or says false, gets none, and no chunk without choices."""
    for fields in ({}, {"stream_options": {"include_usage": False}}):
        if await _usages(rig, **fields):
            raise Fails(f"it gets one{' that it refused' if fields else ''}")
    return ""


async def _usages(rig: Rig, **fields: Any) -> list[dict[str, Any]]:
    async with rig.ask(rig.play(usual), stream=True, **fields) as answer:
        events = await answer.events()
    if text_of(events) != "Hello":
        raise Fails(f"{answer.status}: the text does not arrive")
    chunks = [each.json for each in events if each.json]
    if not fields and any(not chunk.get("choices") for chunk in chunks):
        raise Fails("a chunk without choices comes unasked")
    return [chunk["usage"] for chunk in chunks if chunk.get("usage")]


# --- F18, F20


def _fragments(index: int, name: str, *arguments: str, repeat: bool = False) -> list[Delta]:
    """One streamed call; vLLM sends id and name once, some parsers repeat them in every delta."""
    first: Delta = {
        "index": index,
        "id": f"call{index:05d}",
        "type": "function",
        "function": {"name": name, "arguments": ""},
    }
    rest: list[Delta] = [{"index": index, "function": {"arguments": text}} for text in arguments]
    if repeat:
        rest = [first | {"function": {"name": name} | each["function"]} for each in rest]
    return [{"tool_calls": [each]} for each in (first, *rest)]


_TWO_CALLS: Final = (
    *_fragments(0, "get_weather", '{"city": ', '"Paris"}'),
    *_fragments(1, "get_time", "{", '"zone": 1}'),
)


async def streamed_calls(rig: Rig) -> str:
    """Two streamed calls arrive with their names, arguments and indexes."""
    return await _both_arrive(rig, _TWO_CALLS)


async def opened_once(rig: Rig) -> str:
    """Each streamed call has its id and name in its first delta and in no other."""
    return _once(await _streamed(rig, rig.play(_calling(_TWO_CALLS))))


async def repeated_heads(rig: Rig) -> str:
    """Ids and names that a parser repeats in every delta reach the client once."""
    parts = [*_fragments(0, "get_weather", '{"city": ', '"Paris"}', repeat=True)]
    return _once(await _streamed(rig, rig.play(_calling(parts))))


async def empty_arguments(rig: Rig) -> str:
    """A streamed call without arguments has {}, which is JSON, and not an empty text."""
    found = _assembled(await _streamed(rig, rig.play(_calling(_fragments(0, "get_time", "")))))
    if found != [(0, "get_time", "{}")]:
        raise Fails(f"it has {found[0][2]!r}" if found else "there is no call")
    return ""


async def whole_call(rig: Rig) -> str:
    """A call in a whole answer arrives as it is, without an index."""
    sent = call(0, "get_weather", _ARGUMENTS)
    found = (await rig.message(rig.play([whole(calling(sent))]), tools=_TOOLS)).get("tool_calls") or []
    if [each.get("function") for each in found] != [sent["function"]]:
        raise Fails("it is changed" if found else "it is lost")
    if "index" in found[0]:
        raise Fails("it has an index")
    return ""


async def _both_arrive(rig: Rig, parts: Sequence[Delta]) -> str:
    events = await _streamed(rig, rig.play(_calling(parts)))
    expected = [(0, "get_weather", _ARGUMENTS), (1, "get_time", '{"zone": 1}')]
    if (found := _assembled(events)) != expected:
        raise Fails(f"they are {found}" if found else "they are lost")
    finish = [choice["finish_reason"] for choice in choices(events) if choice.get("finish_reason")]
    if finish != ["tool_calls"]:
        raise Fails(f"the finish reason is {finish}")
    return ""


def _calling(parts: Sequence[Delta]) -> Callable[[Call], Script]:
    """A model that makes these calls, in a stream or, for a gateway that asks so, in a whole answer."""

    def script(asked: Call) -> Script:
        if asked.json.get("stream"):
            return [stream(FIRST_PART, *map(part, parts), part({}, finish="tool_calls"))]
        pieces = [piece for each in parts for piece in each["tool_calls"]]
        return [whole(calling(*(call(index, *rest) for index, *rest in _put_together(pieces))))]

    return script


async def _streamed(rig: Rig, play: Play) -> list[Event]:
    async with rig.ask(play, stream=True, tools=_TOOLS) as answer:
        return await answer.events()


def _pieces(events: Sequence[Event]) -> list[Delta]:
    return [piece for delta in deltas(events) for piece in delta.get("tool_calls") or ()]


def _assembled(events: Sequence[Event]) -> list[tuple[int, str, str]]:
    return _put_together(_pieces(events))


def _put_together(pieces: Sequence[Delta]) -> list[tuple[int, str, str]]:
    """Return (index, name, arguments) of each call, as clients put them together."""
    calls: dict[int, list[str]] = {}
    for piece in pieces:
        function, found = piece.get("function") or {}, calls.setdefault(piece.get("index", -1), ["", ""])
        found[0] += function.get("name") or ""
        found[1] += function.get("arguments") or ""
    return [(index, name, arguments) for index, (name, arguments) in calls.items()]


def _once(events: Sequence[Event]) -> str:
    opened: dict[int, int] = {}
    for piece in _pieces(events):
        is_head = bool(piece.get("id") or (piece.get("function") or {}).get("name"))
        opened[piece.get("index", -1)] = opened.get(piece.get("index", -1), 0) + is_head
    if not opened:
        raise Fails("there is no call")
    if any(count != 1 for count in opened.values()):
        raise Fails(f"they come {max(opened.values())} times")
    return ""


# --- F19


async def leaked_in_a_stream(rig: Rig) -> str:
    """A call that leaks into a stream's text as [TOOL_CALLS]… arrives as a call."""
    pieces = [_LEAKED[at : at + 7] for at in range(0, len(_LEAKED), 7)]

    def script(asked: Call) -> Script:
        streamed = stream(FIRST_PART, *map(text_chunk, pieces), LAST_PART)
        return [streamed if asked.json.get("stream") else whole(completion(_LEAKED))]

    events = await _streamed(rig, rig.play(script))
    if "TOOL_CALLS" in text_of(events):
        raise Fails("it arrives as text")
    return _is_paris([(name, arguments) for _, name, arguments in _assembled(events)])


async def leaked_in_a_whole_answer(rig: Rig) -> str:
    """A call that leaks into a whole answer's text arrives as a call."""
    message = await rig.message(rig.play([whole(completion(_LEAKED))]), tools=_TOOLS)
    if "TOOL_CALLS" in (message.get("content") or ""):
        raise Fails("it arrives as text")
    functions = [each["function"] for each in message.get("tool_calls") or ()]
    return _is_paris([(function["name"], function["arguments"]) for function in functions])


def _is_paris(calls: list[tuple[str, str]]) -> str:
    try:
        found = [(name, json.loads(arguments)) for name, arguments in calls]
    except ValueError:
        raise Fails("its arguments are not JSON") from None
    if found != [("get_weather", {"city": "Paris"})]:
        raise Fails(f"it is {found}" if found else "it is lost")
    return ""


ROWS: Final = (
    Row("F17a", usage_as_asked),
    Row("F17b", no_usage),
    Row("F18a", streamed_calls),
    Row("F20a", opened_once),
    Row("F20b", whole_call),
)
MISTRAL_ROWS: Final = (
    Row("F18b", empty_arguments, kind=Kind.MISTRAL),
    Row("F19a", leaked_in_a_stream, kind=Kind.MISTRAL),
    Row("F19b", leaked_in_a_whole_answer, kind=Kind.MISTRAL),
    Row("F20c", repeated_heads, kind=Kind.MISTRAL),
)
