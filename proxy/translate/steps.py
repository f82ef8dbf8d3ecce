"""
A translation that is watched: what a body is before and after each rule that changes it, for people who want to see.

    client's body --message rules--> one message at a time --chat rules--> the whole body --transport--> upstream's body

Nothing here is on the way of a request that is served; `request.translate_step_by_step` is the only caller.
"""

import json
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Final, NamedTuple

from msgspec import Raw

from proxy.translate.chat import Chat, Draft, JsonPath, MessageRule, Rule, path_text
from proxy.translate.options import Options
from proxy.translate.profile import Profile
from proxy.translate.reading import RuleLog, reason_of, ruled_message
from proxy.wire.body import refuse_repeated_keys
from proxy.wire.chat import Message, canonical_message, encode

#: What sets `stream` and `stream_options` last of all. It is no rule: it asks for what this proxy needs to know.
TRANSPORT: Final = "transport"
_TRANSPORT_REASON: Final = "How the answer is to travel: whether as a stream, and whether with usage (Q24, Q28)."


class Step(NamedTuple):
    """
    One change. `before` and `after` are the JSON texts of what stands at `at`: one message, or the whole body for ().

    `path` is the first place that the rule changed, in OpenAI's spelling; what is no rule names none and has "".
    """

    rule: str
    reason: str
    path: str
    at: JsonPath
    before: bytes
    after: bytes


Watch = Callable[[Step], None]


def watched_message(raw: Raw, index: int, profile: Profile, log: RuleLog, watch: Watch) -> tuple[Message, bool]:
    """Return what `reading.read_message` does; every rule runs by itself, and is watched."""
    here: JsonPath = ("messages", index)
    message = canonical_message(raw)
    refuse_repeated_keys(bytes(raw), path_text(here))
    if message is not None:
        return message, True
    rules = tuple(_watched(rule, here, watch) for rule in profile.message_rules)
    return ruled_message(raw, here, profile._replace(message_rules=rules), log), False


def _watched(rule: MessageRule, here: JsonPath, watch: Watch) -> MessageRule:
    @wraps(rule)
    def run(draft: Draft, options: Options) -> JsonPath | None:
        before = encode(draft)
        path = rule(draft, options)
        if path is not None:
            watch(Step(rule.__name__, reason_of(rule), path_text((*here, *path)), here, before, encode(draft)))
        return path

    return run


class WatchedChat:
    """The chat rules of one request, each watched. Made when the messages have been read, before the first rule."""

    def __init__(self, chat: Chat, watch: Watch) -> None:
        self._chat = chat
        self._watch = watch
        self._had_tools = False
        self._state = self._snapshot()

    def run(self, rule: Rule) -> JsonPath | None:
        """Run `rule`; return what it returns."""
        path = rule(self._chat)
        self._had_tools = self._had_tools or bool(self._chat.tools)
        before, self._state = self._state, self._snapshot()
        if path is not None:
            self._watch(Step(rule.__name__, reason_of(rule), path_text(path), (), before, self._state))
        return path

    def end(self, body: bytes) -> None:
        """Say that `body` goes upstream."""
        if _differ(self._state, body):
            self._watch(Step(TRANSPORT, _TRANSPORT_REASON, "", (), self._state, body))

    def _snapshot(self) -> bytes:
        """Return the body as it would go out if no other rule came."""
        chat = self._chat
        sent = {id(message): out for message, out in zip(chat.messages, chat.wire_messages(), strict=True)}
        members = {**chat.members, "messages": [sent.get(id(message), message) for message in self._placed()]}
        if chat.tools or (self._had_tools and "tools" in members):
            members["tools"] = [tool.draft if tool.is_touched else tool.raw for tool in chat.tools]
        return encode(members)

    def _placed(self) -> list[Message]:
        """
        The messages with the results that rules have added to turns, and without those that they have joined.

        Those rules write to `chat.turns`, and `results_follow_their_calls` brings that into the list.
        """
        chat = self._chat
        answers = {id(answer) for turn in chat.turns for answer in _answers(turn.answers)}
        unanswered = {id(orphan) for orphan in chat.orphans}
        standing = {id(message) for message in chat.messages}
        added: dict[int, list[Message]] = {}
        for turn in chat.turns:
            anchor = turn.message
            for answer in _answers(turn.answers):
                if id(answer) in standing:
                    anchor = answer
                else:
                    added.setdefault(id(anchor), []).append(answer)
        is_paired = bool(chat.turns or chat.orphans)
        placed: list[Message] = []
        for message in chat.messages:
            if message.role != "tool" or not is_paired or id(message) in answers or id(message) in unanswered:
                placed += [message, *added.get(id(message), ())]
        return placed


def _differ(before: bytes, after: bytes) -> bool:
    """Whether two JSON texts say something different: white space and the order of keys say nothing."""
    return before != after and _plain(before) != _plain(after)


def _plain(text: bytes) -> Any:
    # Numbers as they were written: one of 5,000 digits is no int. In a tuple, they equal no string.
    return json.loads(text, parse_int=_as_written, parse_float=_as_written)


def _as_written(number: str) -> tuple[str]:
    return (number,)


def _answers(given: list[list[Message]]) -> Iterator[Message]:
    for answers in given:
        yield from answers
