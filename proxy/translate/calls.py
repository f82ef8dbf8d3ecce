"""Calls and their results: who answers whom, in which order, under which id."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice, pairwise

from msgspec import UNSET, Raw, UnsetType

from proxy.translate.chat import Chat, JsonPath, Turn
from proxy.wire.chat import (
    FunctionCall,
    Message,
    ToolCall,
    holds_parts,
    is_blank,
    parts_content,
    parts_of,
    text_content,
    text_of,
)

#: Ids that say nothing: absent, empty, and what Mistral's SDK writes for "none".
NO_ID = ("", "null")

# How far a result without a usable id is looked back for. Arbitrary: it keeps a hostile history linear.
_LOOK_BACK = 64


def split_turn_to_one(chat: Chat) -> JsonPath | None:
    """Assistant messages in a row, one of them with calls, are one turn: Codex sends a call per message (H1)."""
    kept: list[Message] = []
    changed: JsonPath | None = None
    for i, message in enumerate(chat.messages):
        last = kept[-1] if kept else None
        if last is None or message.role != "assistant" or last.role != "assistant" or not (last.calls or message.calls):
            kept.append(message)
            continue
        _append_turn(last, message)
        chat.touch(last)
        changed = changed or ("messages", i)
    chat.messages = kept
    return changed


def _append_turn(turn: Message, more: Message) -> None:
    """Join `more` to `turn`: texts in order, calls in order, and the last word on `prefix`."""
    turn.content = joined_content(turn, more)
    turn.tool_calls = [*turn.calls, *more.calls] or UNSET
    thoughts = [m.reasoning for m in (turn, more) if isinstance(m.reasoning, str)]
    turn.reasoning = "\n\n".join(thoughts) if thoughts else UNSET
    turn.prefix = more.prefix


def joined_content(first: Message, second: Message) -> Raw | UnsetType:
    """Return the contents of two messages as one: texts with a blank line between, parts one after the other."""
    if is_blank(second.content):
        return first.content
    if is_blank(first.content):
        return second.content
    if holds_parts(first.content) or holds_parts(second.content):
        return parts_content([*parts_of(first.content), *parts_of(second.content)])
    return text_content(f"{text_of(first.content)}\n\n{text_of(second.content)}")


def match_results(chat: Chat) -> JsonPath | None:
    """
    Find the call that each tool message answers; changes nothing.

    By id first, anywhere later until the id is used again; the k-th result of a repeated id answers the
    k-th such call of the turn (H1, H2). What is left is matched by name and order (Q8). Fills
    `chat.turns` and `chat.orphans` for the rules that follow.
    """
    chat.turns = []
    strays = list(_match_by_id(chat))
    chat.orphans = [message for turn, message in strays if not _match_by_order(chat, turn, message)]
    return None


def _match_by_id(chat: Chat) -> Iterator[tuple[int, Message]]:
    """Match by id; yield each result that no id claims, with the number of turns before it."""
    open_calls: dict[str, deque[list[Message]]] = {}
    for message in chat.messages:
        if message.calls:
            turn = Turn(message)
            chat.turns.append(turn)
            fresh: dict[str, deque[list[Message]]] = {}
            for call, answers in turn.pairs():
                if call.id not in NO_ID:
                    fresh.setdefault(call.id, deque()).append(answers)
            open_calls |= fresh
        elif message.role == "tool":
            slots = open_calls.get(message.tool_call_id) if isinstance(message.tool_call_id, str) else None
            if slots:  # the last slot stays, and takes every further result of that id
                (slots.popleft() if len(slots) > 1 else slots[0]).append(message)
            else:
                yield len(chat.turns), message


def _match_by_order(chat: Chat, turns_before: int, result: Message) -> bool:
    """
    Give a result without a known id to the call it must mean.

    Without any id: the first unanswered call of that name, in the nearest turn that has one. With an id
    that no call has: the current turn's only unanswered call, unless the names differ.
    """
    nameless = result.name is UNSET
    has_id = isinstance(result.tool_call_id, str) and result.tool_call_id not in NO_ID
    oldest = turns_before - (1 if nameless or has_id else _LOOK_BACK)
    for turn in reversed(chat.turns[max(0, oldest) : turns_before]):
        unanswered = list(islice(turn.unanswered(), _LOOK_BACK))
        if has_id and len(unanswered) != 1:
            return False
        for call, answers in unanswered:
            if nameless or call.function.name == result.name:
                answers.append(result)
                return True
    return False


def orphan_result_to_user_text(chat: Chat) -> JsonPath | None:
    """A result that answers no call is shown as a user message: `Unexpected role 'tool' after role 'user'` (Q8)."""
    return _replace_orphans(chat, lambda orphan: [_as_user_text(orphan)])


def orphan_result_gets_call(chat: Chat) -> JsonPath | None:
    """A result that answers no call gets one, with its name and no arguments (Q8)."""
    changed = _replace_orphans(chat, lambda orphan: [_call_for(orphan), orphan])
    if changed:
        match_results(chat)
    return changed


def orphan_result_dropped(chat: Chat) -> JsonPath | None:
    """A result that answers no call is left out, for operators who ask for it (Q8)."""
    return _replace_orphans(chat, lambda orphan: [])


def _replace_orphans(chat: Chat, replacement: Callable[[Message], list[Message]]) -> JsonPath | None:
    orphans = {id(orphan) for orphan in chat.orphans}
    if not orphans:
        return None
    changed = next(i for i, message in enumerate(chat.messages) if id(message) in orphans)
    chat.messages = [
        m for message in chat.messages for m in (replacement(message) if id(message) in orphans else [message])
    ]
    chat.orphans = []
    return ("messages", changed)


def _as_user_text(orphan: Message) -> Message:
    about = [f"{key}={value}" for key, value in (("id", orphan.tool_call_id), ("name", orphan.name)) if value]
    head = ", ".join(["[tool result without a matching call", *about]) + "]"
    if holds_parts(orphan.content):
        return Message("user", parts_content([{"type": "text", "text": head}, *parts_of(orphan.content)]))
    return Message("user", text_content(f"{head}\n{text_of(orphan.content)}"))


def _call_for(orphan: Message) -> Message:
    name = orphan.name if isinstance(orphan.name, str) and orphan.name else "unknown_tool"
    if not isinstance(orphan.tool_call_id, str) or orphan.tool_call_id in NO_ID:
        orphan.tool_call_id = f"~orphan:{name}"
    return Message("assistant", tool_calls=[ToolCall(orphan.tool_call_id, "function", FunctionCall(name, "{}"))])


def repeated_result_to_one(chat: Chat) -> JsonPath | None:
    """Several results for one call are one result: `Duplicate tool call id X in tool results` (Q9)."""
    changed: JsonPath | None = None
    for turn in chat.turns:
        for answers in turn.answers:
            for more in answers[1:]:
                answers[0].content = joined_content(answers[0], more)
                chat.touch(answers[0])
                changed = changed or ("messages", chat.index(more))
            del answers[1:]
    return changed


def missing_result_to_text(chat: Chat) -> JsonPath | None:
    """A call without a result gets a line that says so: `Not the same number of function calls…` (Q11)."""
    changed: JsonPath | None = None
    for turn in chat.turns:
        for k, (call, answers) in enumerate(turn.pairs()):
            if not answers:
                answers.append(
                    Message(role="tool", content=text_content(chat.options.missing_result_text), tool_call_id=call.id)
                )
                changed = changed or ("messages", chat.index(turn.message), "tool_calls", k)
    return changed


def results_follow_their_calls(chat: Chat) -> JsonPath | None:
    """Results stand right behind their turn, in call order; what stood between moves behind them (Q11)."""
    if not chat.turns:
        return None
    turns = iter(chat.turns)
    ordered: list[Message] = []
    for message in chat.messages:
        if message.role == "tool":
            continue
        ordered.append(message)
        if message.calls:
            ordered += [answer for answers in next(turns).answers for answer in answers]
    before, chat.messages = chat.messages, ordered
    # Results that another rule added or joined are that rule's change: only a move counts here.
    kept = {id(message) for message in ordered}
    place = {id(message): i for i, message in enumerate(before) if id(message) in kept}
    places = [place[id(message)] for message in ordered if id(message) in place]
    return next((("messages", b) for a, b in pairwise(places) if b < a), None)
