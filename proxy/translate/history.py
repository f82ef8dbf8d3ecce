"""
What is known of a message by its bytes alone, and the histories on which no rule on the order has anything to do.

An agent sends its whole history with every turn. What the message rules make of one message depends on its bytes
alone, so it is remembered. Which message may stand where, and who answers whom, depends on its neighbours: that is
checked on every request, over the few facts that are kept of each message. A history that passes is `settled`: the
texts of its messages go out and no `Message` is made. On any other history the rules run, one by one.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec
from msgspec import UNSET, Raw

from proxy.translate import calls, pairing, tool_ids, turns
from proxy.translate.chat import Rule
from proxy.translate.pairing import NO_ID
from proxy.translate.profile import Profile
from proxy.translate.reading import RuleLog, read_message
from proxy.translate.tool_ids import nine_char_id
from proxy.translate.tools import is_legal_name
from proxy.wire.chat import Message, encode, holds_parts, is_blank, is_null

Kind = Literal["system", "user", "assistant", "call", "bare call", "result", "other"]


class KnownMessage(msgspec.Struct, frozen=True, gc=False):
    """
    What the message rules make of one message.

    `text` is its JSON text as they leave it, `text_with_wire_ids` the same with ids of nine letters or digits (the
    same object where they are). `applied` names the rules that changed something. `other` is every kind of message
    that is never part of a settled history. `call_ids` are a turn's, each given once; `answers` is the id that a
    result names.
    """

    kind: Kind
    text: Raw
    text_with_wire_ids: Raw
    applied: tuple[str, ...]
    call_ids: tuple[str, ...] = ()
    answers: str = ""


def known_message(raw: Raw, index: int, profile: Profile) -> KnownMessage:
    """
    Return what the message rules make of one message; `index` is for errors alone.

    Raises:
        InvalidRequest: it makes no sense, or gives its role or content twice.
    """
    log = RuleLog(strict=False)
    message, is_as_it_came = read_message(raw, index, profile, log)
    text = raw if is_as_it_came else Raw(encode(message))
    applied = tuple(log.names)
    if message.prefix is not UNSET:
        return KnownMessage("other", text, text, applied)
    if message.role == "tool":
        return _known_result(message, text, applied)
    if message.role != "assistant":
        return KnownMessage(message.role, text, text, applied)
    if message.tool_calls is not UNSET:
        return _known_turn(message, text, applied)
    return KnownMessage("other" if is_blank(message.content) else "assistant", text, text, applied)


def _known_result(message: Message, text: Raw, applied: tuple[str, ...]) -> KnownMessage:
    answers, name = message.tool_call_id, message.name
    if answers is UNSET or answers in NO_ID or holds_parts(message.content):
        return KnownMessage("other", text, text, applied)
    if name is not UNSET and not is_legal_name(name):
        return KnownMessage("other", text, text, applied)
    message.tool_call_id = nine_char_id(answers)
    on_wire = text if message.tool_call_id == answers else Raw(encode(message))
    return KnownMessage("result", text, on_wire, applied, (), answers)


def _known_turn(message: Message, text: Raw, applied: tuple[str, ...]) -> KnownMessage:
    ids, wire_ids = [], []
    for call in message.calls:
        if call.id in NO_ID or not is_legal_name(call.function.name):
            return KnownMessage("other", text, text, applied)
        ids.append(call.id)
        call.id = nine_char_id(call.id)
        wire_ids.append(call.id)
    # Ids that meet, now or on the wire, are told apart by their place in the turn: `tool_ids` does that.
    if len(ids) > 1 and not len(set(ids)) == len(set(wire_ids)) == len(ids):
        return KnownMessage("other", text, text, applied)
    is_bare = message.content is UNSET or is_null(message.content)
    on_wire = text if wire_ids == ids else Raw(encode(message))
    return KnownMessage("bare call" if is_bare else "call", text, on_wire, applied, tuple(ids))


#: Who may follow whom for every profile; "" is the start.
_STEPS = frozenset({
    ("", "system"), ("", "user"), ("system", "user"), ("user", "assistant"), ("assistant", "user"),
    *((before, call) for before in ("user", "result") for call in ("call", "bare call")), ("result", "assistant"),
})  # fmt: skip

#: Rules for which two messages in a row, or calls with or without text, are something to change.
_FORBIDDEN: dict[Rule, frozenset[tuple[str, str]]] = {
    turns.same_role_merged: frozenset({("user", "user"), ("system", "system")}),
    turns.leading_systems_to_one: frozenset({("system", "system")}),
    turns.bridge_tool_to_user: frozenset({("result", "user")}),
    turns.text_before_calls_moved: frozenset(step for step in _STEPS if step[1] == "call"),
    turns.calls_have_empty_content: frozenset(step for step in _STEPS if step[1] == "bare call"),
}

#: Rules that find nothing to do on a settled history. `tool_ids.nine_char_tool_ids` is not one of them.
NOTHING_TO_DO: frozenset[Rule] = frozenset({
    turns.empty_assistant_removed, calls.split_turn_to_one, pairing.match_results, calls.orphan_result_to_user_text,
    calls.orphan_result_gets_call, calls.orphan_result_dropped, calls.repeated_result_to_one,
    calls.missing_result_to_text, calls.results_follow_their_calls, tool_ids.tool_ids_agree,
    turns.images_follow_results, turns.leading_systems_to_one, turns.late_system_to_user,
    turns.misplaced_system_to_user, turns.late_system_hoisted, calls.text_before_turn_joined,
    turns.text_before_calls_moved, turns.calls_have_empty_content, turns.same_role_merged, turns.bridge_tool_to_user,
    turns.user_before_assistant, turns.user_comes_first, turns.user_beside_tools,
    turns.user_after_trailing_assistant, turns.continue_every_trailing, turns.prefix_to_continue,
    turns.continue_to_prefix, turns.stray_continuation_removed,
})  # fmt: skip


def settled_steps(rules: Iterable[Rule]) -> frozenset[tuple[str, str]]:
    """Return who may follow whom where `rules` run, for none of them to have anything to do."""
    steps = _STEPS | {("user", "user"), ("system", "system"), ("result", "user")}
    return steps.difference(*(_FORBIDDEN.get(rule, frozenset()) for rule in rules))


def is_settled(history: list[KnownMessage], steps: frozenset[tuple[str, str]]) -> bool:
    """Tell whether every call has its result right behind it, in order, and every other message may stand there."""
    before = ""
    due: tuple[str, ...] = ()
    given = 0
    for message in history:
        if given < len(due):
            if message.answers != due[given]:
                return False
            given += 1
        elif (before, message.kind) not in steps:
            return False
        elif message.call_ids:
            due, given = message.call_ids, 0
        before = message.kind
    return given == len(due) and before in ("user", "result")
