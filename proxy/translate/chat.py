"""
A chat request while the rules work on it, and what a rule is.

A rule changes one thing and returns the JSON path of the first place it changed, or None. The path
counts messages as the client sent them as long as no earlier rule moved one, which is what `strict`
mode needs: there the first rule that would change anything refuses the request instead.
"""

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import UNSET, Raw

from proxy.translate.options import Options
from proxy.wire.chat import Message, ToolCall, decode

JsonPath = tuple[str | int, ...]

#: One message that is not in canonical form yet: the client's object, as plain Python values.
Draft = dict[str, Any]

MessageRule = Callable[[Draft, Options], JsonPath | None]
Rule = Callable[["Chat"], JsonPath | None]


def path_text(path: JsonPath) -> str:
    """Write a path as OpenAI writes `param`: messages[3].tool_calls[0].id"""
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else step
    return out or "$"


class Turn:
    """An assistant message with calls, and the tool messages that answer each call, in call order."""

    __slots__ = ("_answered", "answers", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.answers: list[list[Message]] = [[] for _ in message.calls]
        self._answered = 0  # every call before this one has an answer

    def pairs(self) -> Iterator[tuple[ToolCall, list[Message]]]:
        """Each call with the results that answer it."""
        return zip(self.message.calls, self.answers, strict=True)

    def unanswered(self) -> Iterator[tuple[ToolCall, list[Message]]]:
        """The calls that nothing answers yet; linear over a turn that is answered in order."""
        while self._answered < len(self.answers) and self.answers[self._answered]:
            self._answered += 1
        for k in range(self._answered, len(self.answers)):
            if not self.answers[k]:
                yield self.message.calls[k], self.answers[k]


class Tool:
    """
    One tool definition: its JSON text as long as no rule has anything to do, else a plain `draft`.

    `name` is its name on the wire.
    """

    __slots__ = ("draft", "name", "raw")

    def __init__(self, name: str, raw: Raw, draft: Draft | None) -> None:
        self.name = name
        self.raw = raw
        self.draft = draft


class Chat:
    """
    A request under translation; owned by one call of `translate_request`.

    `members` are the body's other members, JSON text until a rule replaces one by a plain value.
    `messages` and `tools` are what the members of that name hold. `turns` and `orphans` are filled by
    `calls.match_results`; the fields from `tool_names` on are what the answer will need.
    """

    def __init__(self, members: dict[str, Any], options: Options) -> None:
        self.members = members
        self.options = options
        self.messages: list[Message] = []
        self.tools: list[Tool] = []
        self.turns: list[Turn] = []
        self.orphans: list[Message] = []
        self.tool_names: dict[str, str] = {}
        self.custom_tools: set[str] = set()
        self.legacy_functions = False
        self.echoed_prefix = ""
        self._sources: dict[int, Raw] = {}
        self._decoded: list[Message] = []  # keeps every id() in _sources taken while this object lives

    def keep_source(self, message: Message, raw: Raw) -> None:
        """Remember the bytes that `message` was decoded from, to send them on if no rule touches it."""
        self._sources[id(message)] = raw
        self._decoded.append(message)

    def touch(self, message: Message) -> None:
        """Say that `message` changed. Every rule that writes to a message calls this."""
        self._sources.pop(id(message), None)

    def wire_messages(self) -> list[Raw | Message]:
        """The messages as they go out: the client's bytes where nothing changed."""
        sources = self._sources
        return [sources.get(id(message), message) for message in self.messages]

    def read(self, name: str) -> Any:
        """The plain value of a member; UNSET when the client did not send it."""
        value = self.members.get(name, UNSET)
        return decode(value) if isinstance(value, Raw) else value

    def drop(self, *names: str) -> JsonPath | None:
        """Remove members; the path of the first that was there."""
        found = [name for name in names if self.members.pop(name, UNSET) is not UNSET]
        return (found[0],) if found else None

    def index(self, message: Message) -> int:
        """Where `message` stands now, by identity."""
        return next(i for i, other in enumerate(self.messages) if other is message)
