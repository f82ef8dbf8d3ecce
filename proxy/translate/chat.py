"""
A chat request while the rules work on it, and what a rule is.

A rule changes one thing and returns the JSON path of the first place it changed, or None. The path
counts messages as the client sent them as long as no earlier rule moved one, which is what `strict`
mode needs: there the first rule that would change anything refuses the request instead.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET, Raw

from proxy.errors import InvalidRequest
from proxy.translate.options import Options
from proxy.wire.chat import Message, ToolCall, decode, decode_message

JsonPath = tuple[str | int, ...]

#: One message that is not in canonical form yet: the client's object, as plain Python values.
Draft = dict[str, Any]

MessageRule = Callable[[Draft, Options], JsonPath | None]
Rule = Callable[["Chat"], JsonPath | None]


#: The members without which a rule has nothing to do, those counted that earlier rules rename or make others of.
NEEDED: dict[Rule, frozenset[str]] = {}


def only_with(*names: str) -> Callable[[Rule], Rule]:
    """Say of a rule that it changes and refuses nothing in a request that has none of these members."""

    def declare(rule: Rule) -> Rule:
        NEEDED[rule] = frozenset(names)
        return rule

    return declare


def path_text(path: JsonPath) -> str:
    """Write a path as OpenAI writes `param`: messages[3].tool_calls[0].id"""
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else step
    return out or "$"


def read_json(raw: Raw, path: JsonPath) -> Any:
    """
    Return the plain value of JSON text that stands at `path`.

    Raises:
        InvalidRequest: it holds a number that is out of range, such as 1e999.
    """
    try:
        return decode(raw)
    except msgspec.DecodeError:
        raise InvalidRequest("A number is out of range.", param=path_text(path)) from None


class Turn:
    """An assistant message with calls, and the tool messages that answer each call, in call order."""

    __slots__ = ("answers", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.answers: list[list[Message]] = [[] for _ in message.calls]

    def pairs(self) -> Iterator[tuple[ToolCall, list[Message]]]:
        """Each call with the results that answer it."""
        return zip(self.message.calls, self.answers, strict=True)


class Tool:
    """
    One tool definition: its JSON text, and a plain `draft` if it is not in canonical form.

    `name` is its name on the wire. The text goes out unless a rule wrote to the draft.
    """

    __slots__ = ("draft", "is_touched", "name", "raw")

    def __init__(self, name: str, raw: Raw, draft: Draft | None) -> None:
        self.name = name
        self.raw = raw
        self.draft = draft
        self.is_touched = False

    def become(self, draft: Draft) -> None:
        """Be this definition from now on. Every rule that changes a definition calls this."""
        self.draft = draft
        self.is_touched = True


class Offer(NamedTuple):
    """
    Tools that have been through their rules: what is remembered of a request's definitions.

    `changed` has the rules that changed something, and where. `names` and `custom` are what
    `Expectation.tool_names` and `Chat.custom_tools` become.
    """

    tools: list[Tool]
    text: Raw
    changed: Mapping[Rule, JsonPath]
    names: Mapping[str, str]
    custom: set[str]


class Settled(NamedTuple):
    """The JSON texts of a history on which no rule on the order has work: with the client's ids, and the wire's."""

    texts: list[Raw]
    texts_with_wire_ids: list[Raw]


class Chat:
    """
    A request under translation; owned by one call of `translate_request`.

    `members` are the body's other members, JSON text until a rule replaces one by a plain value.
    `messages` and `tools` are what the members of that name hold; `ended_with` is the role of the client's
    last message. `turns` and `orphans` are filled by `pairing.match_results`; the fields from `tool_names`
    on are what the answer will need.

    Messages can be given as JSON texts in canonical form: they become objects when a rule asks for `messages`, and
    go out as they are if none does. `settled` and `offer` are set while what is remembered stands for the rules.
    """

    def __init__(self, members: dict[str, Any], options: Options) -> None:
        self.members = members
        self.options = options
        self._messages: list[Message] = []
        self.texts: list[Raw] = []
        self.settled: Settled | None = None
        self.offer: Offer | None = None
        self.ended_with = ""
        self.tools: list[Tool] = []
        self.turns: list[Turn] = []
        self.orphans: list[Message] = []
        self.tool_names: dict[str, str] = {}
        self.custom_tools: set[str] = set()
        self.legacy_functions = False
        self.echoed_prefix = ""
        self._sources: dict[int, Raw] = {}
        self._decoded: list[Message] = []  # keeps every id() in _sources taken while this object lives

    @property
    def messages(self) -> list[Message]:
        """The messages, as objects from now on."""
        if self.texts:
            texts, self.texts, self.settled = self.texts, [], None
            for text in texts:
                message = decode_message(text)
                self.keep_source(message, text)
                self._messages.append(message)
        return self._messages

    @messages.setter
    def messages(self, messages: list[Message]) -> None:
        self._messages = messages

    def keep_source(self, message: Message, raw: Raw) -> None:
        """Remember the bytes that `message` was decoded from, to send them on if no rule touches it."""
        self._sources[id(message)] = raw
        self._decoded.append(message)

    def touch(self, message: Message) -> None:
        """Say that `message` changed. Every rule that writes to a message calls this."""
        self._sources.pop(id(message), None)

    def wire_messages(self) -> Sequence[Raw | Message]:
        """The messages as they go out: the client's bytes where nothing changed."""
        if self.texts:
            return self.texts
        sources = self._sources
        return [sources.get(id(message), message) for message in self.messages]

    def read(self, name: str) -> Any:
        """
        The plain value of a member; UNSET when the client did not send it.

        Raises:
            InvalidRequest: it cannot be read.
        """
        value = self.members.get(name, UNSET)
        return read_json(value, (name,)) if isinstance(value, Raw) else value

    def drop(self, *names: str) -> JsonPath | None:
        """Remove members; the path of the first that was there."""
        found = [name for name in names if self.members.pop(name, UNSET) is not UNSET]
        return (found[0],) if found else None

    def index(self, message: Message) -> int:
        """Where `message` stands now, by identity."""
        return next(i for i, other in enumerate(self.messages) if other is message)
