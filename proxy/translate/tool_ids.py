"""The ids of calls and results on the wire."""

from collections.abc import Iterator
from functools import lru_cache
from operator import is_not

from proxy.translate.chat import Chat, JsonPath, Settled, Turn
from proxy.translate.pairing import NO_ID
from proxy.wire.chat import Message, ToolCall
from proxy.wire.ids import is_nine_char_id, nine_char_digest

_OPENAI_PREFIX = "call_"


def nine_char_tool_ids(chat: Chat) -> JsonPath | None:
    """Ids are nine letters or digits, the same for a call and its result; tokenizers up to v11 demand it (Q7, Q9)."""
    if chat.settled is not None:
        return _settled_ids(chat, chat.settled)
    changed: JsonPath | None = None
    for ordinal, turn in enumerate(chat.turns):
        if _has_wire_ids(turn):
            continue
        for k, (wire, (call, answers)) in enumerate(zip(_wire_ids(turn.message, ordinal), turn.pairs(), strict=True)):
            if _set_id(chat, turn.message, call, answers, wire):
                changed = changed or ("messages", chat.index(turn.message), "tool_calls", k, "id")
    return changed


def _settled_ids(chat: Chat, settled: Settled) -> JsonPath | None:
    """Take the texts that have the wire's ids."""
    if not any(map(is_not, settled.texts, settled.texts_with_wire_ids)):
        return None
    chat.texts = settled.texts_with_wire_ids
    return ("messages",)


def _has_wire_ids(turn: Turn) -> bool:
    """Whether a turn's ids are already what they become: the common case, and the cheap one."""
    ids = [call.id for call in turn.message.calls]
    return (
        all(map(is_nine_char_id, ids))
        and len(set(ids)) == len(ids)
        and all(
            answer.tool_call_id == id_ for id_, answers in zip(ids, turn.answers, strict=True) for answer in answers
        )
    )


def tool_ids_agree(chat: Chat) -> JsonPath | None:
    """Ids stay as the client wrote them; only absent and repeated ones are made up (Q7, Q9)."""
    changed: JsonPath | None = None
    for ordinal, turn in enumerate(chat.turns):
        seen: set[str] = set()
        wires = _wire_ids(turn.message, ordinal)
        for k, (wire, (call, answers)) in enumerate(zip(wires, turn.pairs(), strict=True)):
            own = wire if call.id in NO_ID or call.id in seen else call.id
            seen.add(own)
            if _set_id(chat, turn.message, call, answers, own):
                changed = changed or ("messages", chat.index(turn.message), "tool_calls", k, "id")
    return changed


def _set_id(chat: Chat, turn: Message, call: ToolCall, answers: list[Message], wire: str) -> bool:
    changed = False
    if call.id != wire:
        call.id = wire
        chat.touch(turn)
        changed = True
    for answer in answers:
        if answer.tool_call_id != wire:
            answer.tool_call_id = wire
            chat.touch(answer)
            changed = True
    return changed


def _wire_ids(turn: Message, ordinal: int) -> Iterator[str]:
    """The wire ids of one turn's calls: digests of the client's ids, of `id#k` for its k-th repeat, of a place."""
    used: set[str] = set()
    count: dict[str, int] = {}
    for k, call in enumerate(turn.calls):
        raw = call.id
        if raw in NO_ID:
            key = f"~pos:{ordinal}:{k}:{call.function.name}"
            wire = nine_char_digest(key)
        else:
            count[raw] = count.get(raw, 0) + 1
            key = raw if count[raw] == 1 else f"{raw}#{count[raw]}"
            wire = nine_char_id(key)
        attempt = 0
        while wire in used:
            attempt += 1
            wire = nine_char_digest(f"{key}!{attempt}")
        used.add(wire)
        yield wire


def nine_char_id(raw: str) -> str:
    """
    Return the wire id for a client's id.

    The id itself if it is nine letters or digits (the form that vLLM generates, so round trips are
    identity); what follows `call_` if that is; else a digest. The same id always gives the same wire id.
    """
    if is_nine_char_id(raw):
        return raw
    rest = raw.removeprefix(_OPENAI_PREFIX)
    if is_nine_char_id(rest):
        return rest
    return _remembered_digest(raw) if len(raw) <= _REMEMBERED_LENGTH else nine_char_digest(raw)


# A history brings the same ids with every turn. 18 digests cost 45 µs, looking them up 5 (2026-11-23). A memo of a pure
# function, about 2 MiB: no id depends on what it holds.
_REMEMBERED_LENGTH = 64
_remembered_digest = lru_cache(maxsize=8192)(nine_char_digest)
