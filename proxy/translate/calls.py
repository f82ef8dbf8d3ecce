"""Calls and their results: one turn each, every call with one result, in call order."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from operator import is_

from msgspec import UNSET

from proxy.translate.chat import Chat, JsonPath, Turn
from proxy.translate.pairing import NO_ID
from proxy.wire.chat import (
    FunctionCall,
    Message,
    ToolCall,
    holds_parts,
    joined_contents,
    parts_content,
    parts_of,
    text_content,
    text_of,
)


def split_turn_to_one(chat: Chat) -> JsonPath | None:
    """Assistant messages in a row, one of them with calls, are one turn: Codex sends a call per message (H1)."""
    return join_turns(chat)


def text_before_turn_joined(chat: Chat) -> JsonPath | None:
    """Assistant text that stands before a turn since what was between them moved is part of that turn (Q11, Q12)."""
    return join_turns(chat)


def join_turns(chat: Chat) -> JsonPath | None:
    """Make one message of assistant messages in a row where one of them has calls."""
    return merge_runs(chat, _both_speak, needs_calls=True)


def _both_speak(first: Message, second: Message) -> bool:
    return first.role == second.role == "assistant"


def merge_runs(chat: Chat, belong: Callable[[Message, Message], bool], *, needs_calls: bool = False) -> JsonPath | None:
    """Make one message of each run of neighbours that belong together; the path of the first that was joined."""
    if not any(belong(first, second) for first, second in pairwise(chat.messages)):
        return None
    kept: list[Message] = []
    changed: JsonPath | None = None
    for start, run in _runs(chat.messages, belong):
        if len(run) == 1 or (needs_calls and not any(message.calls for message in run)):
            kept += run
        else:
            kept.append(merged(chat, run))
            changed = changed or ("messages", start + 1)
    chat.messages = kept
    return changed


def _runs(messages: list[Message], belong: Callable[[Message, Message], bool]) -> Iterator[tuple[int, list[Message]]]:
    """Cut `messages` into runs of neighbours that belong together; yield where each starts, and the run."""
    start = 0
    for i in range(1, len(messages) + 1):
        if i == len(messages) or not belong(messages[i - 1], messages[i]):
            yield start, messages[start:i]
            start = i


def merged(chat: Chat, run: list[Message]) -> Message:
    """Return the messages as one: contents, calls and thoughts in order, and the last word on `prefix`."""
    # The one with calls, where only one has them: its turn is known by that object.
    whole = next((message for message in run if message.calls), run[0])
    whole.content = joined_contents([message.content for message in run])
    whole.tool_calls = [call for message in run for call in message.calls] or UNSET
    thoughts = [message.reasoning for message in run if isinstance(message.reasoning, str)]
    whole.reasoning = "\n\n".join(thoughts) if thoughts else UNSET
    whole.prefix = run[-1].prefix
    chat.touch(whole)
    return whole


def orphan_result_to_user_text(chat: Chat) -> JsonPath | None:
    """A result that answers no call is shown as a user message: `Unexpected role 'tool' after role 'user'` (Q8)."""
    return _replace_orphans(chat, lambda orphan: [_as_user_text(orphan)])


def orphan_result_gets_call(chat: Chat) -> JsonPath | None:
    """A result that answers no call gets one, with its name and no arguments (Q8)."""
    turns = {id(orphan): _turn_for(chat, orphan) for orphan in chat.orphans}
    changed = _replace_orphans(chat, lambda orphan: [turns[id(orphan)].message, orphan])
    if changed:
        known = {id(turn.message): turn for turn in (*chat.turns, *turns.values())}
        chat.turns = [known[id(message)] for message in chat.messages if message.calls]
    return changed


def _turn_for(chat: Chat, orphan: Message) -> Turn:
    name = orphan.name if isinstance(orphan.name, str) and orphan.name else "unknown_tool"
    if not isinstance(orphan.tool_call_id, str) or orphan.tool_call_id in NO_ID:
        orphan.tool_call_id = f"~orphan:{name}"
        chat.touch(orphan)
    call = ToolCall(orphan.tool_call_id, "function", FunctionCall(name, "{}"))
    turn = Turn(Message("assistant", tool_calls=[call]))
    turn.answers[0].append(orphan)
    return turn


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


def repeated_result_to_one(chat: Chat) -> JsonPath | None:
    """Several results for one call are one result: `Duplicate tool call id X in tool results` (Q9)."""
    changed: JsonPath | None = None
    for turn in chat.turns:
        for answers in turn.answers:
            if len(answers) > 1:
                answers[0].content = joined_contents([answer.content for answer in answers])
                chat.touch(answers[0])
                changed = changed or ("messages", chat.index(answers[1]))
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
    if len(ordered) == len(chat.messages) and all(map(is_, ordered, chat.messages)):
        return None
    before, chat.messages = chat.messages, ordered
    # Results that another rule added or joined are that rule's change: only a move counts here.
    kept = {id(message) for message in ordered}
    place = {id(message): i for i, message in enumerate(before) if id(message) in kept}
    places = [place[id(message)] for message in ordered if id(message) in place]
    return next((("messages", b) for a, b in pairwise(places) if b < a), None)
