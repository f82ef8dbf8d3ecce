"""
One choice of an answer: fragments in, settled parts out. Streams and whole answers go the same way.

    content --> echo cut --> think tags --> leaked calls --> space held back --> Text
                                 |               |
    reasoning ---> Thought <-----+               +--> call tracker --> CallPart
                                                           ^
    tool_calls --------------------------------------------+

    SILENT --THOUGHT--> MUSED --TEXT--> SPOKE --CALL--> CALLED
      |                   |               ^               ^
      +-------TEXT--------|---------------+               |
      +-------CALL--------+-------------CALL--------------+
    END leads from SILENT to MUTE and from the others to ENDED; there nothing more may be said.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final

from proxy.errors import UpstreamProtocolError
from proxy.translate.answer_again import SaidAgain, given
from proxy.translate.answer_calls import CallTracker
from proxy.translate.answer_facts import offers_tools
from proxy.translate.answer_finish import finish_reason, require_announced_call
from proxy.translate.answer_parts import CallPart, FoundCall, Part, Text, Thought, Untouched
from proxy.translate.answer_rules import RuleLog
from proxy.translate.answer_text import EchoedPrefix, SpaceBeforeCalls, ThinkTags
from proxy.translate.expectation import Expectation
from proxy.translate.leaked import LeakedCalls
from proxy.wire.completion import Message


class Said(IntEnum):
    """What of the answer has gone to the client."""

    SILENT = 0
    MUSED = 1
    SPOKE = 2
    CALLED = 3
    ENDED = 4
    MUTE = 5


class Say(IntEnum):
    """What goes to the client next."""

    THOUGHT = 0
    TEXT = 1
    CALL = 2
    END = 3


TRANSITIONS: Final[Mapping[tuple[Said, Say], Said]] = MappingProxyType(
    {
        (Said.SILENT, Say.THOUGHT): Said.MUSED,
        (Said.SILENT, Say.TEXT): Said.SPOKE,
        (Said.SILENT, Say.CALL): Said.CALLED,
        (Said.SILENT, Say.END): Said.MUTE,
        (Said.MUSED, Say.THOUGHT): Said.MUSED,
        (Said.MUSED, Say.TEXT): Said.SPOKE,
        (Said.MUSED, Say.CALL): Said.CALLED,
        (Said.MUSED, Say.END): Said.ENDED,
        (Said.SPOKE, Say.THOUGHT): Said.SPOKE,
        (Said.SPOKE, Say.TEXT): Said.SPOKE,
        (Said.SPOKE, Say.CALL): Said.CALLED,
        (Said.SPOKE, Say.END): Said.ENDED,
        (Said.CALLED, Say.THOUGHT): Said.CALLED,
        (Said.CALLED, Say.TEXT): Said.CALLED,
        (Said.CALLED, Say.CALL): Said.CALLED,
        (Said.CALLED, Say.END): Said.ENDED,
    }
)


def next_said(said: Said, say: Say) -> Said:
    """
    Return the state after `say`.

    Raises:
        UpstreamProtocolError: the table has no such row: something was said after the end.
    """
    try:
        return TRANSITIONS[said, say]
    except KeyError:
        raise UpstreamProtocolError(
            f"The model server sent {say.name} for a choice that has {said.name}.", code="malformed_upstream_answer"
        ) from None


class ChoiceTranslator:
    """Translates one choice. Call `receive` for each delta, then `finish` once."""

    def __init__(self, expectation: Expectation, index: int, rules: RuleLog) -> None:
        options = expectation.options
        self.said = Said.SILENT
        self._expectation = expectation
        self._index = index
        self._rules = rules
        self._offers_tools = offers_tools(expectation)
        #: whether text without a bracket or space at its end goes on as it came
        self._is_idle = False
        #: whether the last delta but thoughts had calls: then no text is held that would have to go before a call
        self._is_calling = False
        self._echo: EchoedPrefix | SaidAgain = EchoedPrefix(expectation.echoed_prefix, rules)
        self._think = ThinkTags(is_on=options.extract_think, rules=rules)
        self._space = SpaceBeforeCalls(is_on=self._offers_tools, rules=rules)
        self._calls = CallTracker(expectation, index, rules)
        self._leaked = _leaked_calls(expectation, rules, at_start=True)
        self._leaked_in_thoughts = _leaked_calls(expectation, rules, at_start=False)
        # The thoughts so far, for an answer that has nothing else; None once there is.
        self._thoughts: list[str] | None = [] if options.reasoning_fallback else None

    def take_held_space(self) -> str:
        """Return the white space that is held back at the end of the text, and hold it no longer."""
        return self._space.finish(has_calls=False)

    def resumed(self, expectation: Expectation, seen: str, held: str) -> "ChoiceTranslator":
        """Return what translates the rest: `seen` is all text that the client has been given, `held` space after it."""
        rest = ChoiceTranslator(expectation, self._index, self._rules)
        rest._echo = SaidAgain(expectation.echoed_prefix, seen + held, self._rules)
        rest._space.receive(held)
        if seen:
            rest.said, rest._thoughts = next_said(rest.said, Say.TEXT), None
        if given(seen + held):  # what stands only at the start of an answer cannot come any more
            rest._think = ThinkTags(is_on=False, rules=self._rules)
            rest._leaked = _leaked_calls(expectation, self._rules, at_start=False)
        return rest

    def passes_text(self, text: str) -> bool:
        """Take a delta of nothing but `text`, not empty, if it goes on as it came; return whether it was taken."""
        if not self._is_idle and not self._becomes_idle():
            return False
        return not self._offers_tools or ("[" not in text and not text[-1].isspace())

    def _becomes_idle(self) -> bool:
        """Note whether further text can only pass, leak or be held as space; every other delta may change that."""
        self._is_idle = (
            self.said is Said.SPOKE
            and self._echo.is_settled
            and self._think.is_settled
            and (self._leaked is None or self._leaked.is_idle)
            and self._space.is_idle
        )
        return self._is_idle

    def holds_text(self, text: str) -> bool:
        """Take a delta of nothing but `text`, not empty, if all of it belongs to a leaked call; return whether."""
        return (
            self._leaked is not None and self._echo.is_settled and self._think.is_settled and self._leaked.holds(text)
        )

    def passes_thought(self, text: str) -> bool:
        """Take a delta of nothing but reasoning, not empty, if no more is said by it; return whether it was taken."""
        if self.said in (Said.SPOKE, Said.CALLED):
            return True
        if self.said is not Said.MUSED:
            return False
        if self._thoughts is not None:
            self._thoughts.append(text)
        return True

    def passes_arguments(self, call: int, piece: str) -> bool:
        """Take a further piece of arguments if `call` is the last one and goes on; return whether it was taken."""
        return self._is_calling and self.said is Said.CALLED and self._calls.passes(call, piece)

    def receive(self, delta: Message, answer_id: str) -> list[Part]:
        """
        Return the parts that `delta` settles; `answer_id` is the completion's.

        Raises:
            UpstreamProtocolError: something is said after the end, or a call has no name.
        """
        self._is_idle, self._is_calling = False, bool(delta.tool_calls)
        parts: list[Part] = self._end_of_leaks(answer_id) if delta.tool_calls else []
        if untouched := self._untouched_fields(delta):
            parts.append(Untouched(untouched))
        if thought := self._reasoning(delta):
            parts.append(Thought(thought))
        if isinstance(delta.content, str):
            parts += self._content(delta.content, answer_id)
        elif delta.content is not None:
            self._rules.add("list_content_to_text")
            for item in _texts_and_thoughts(delta.content):
                parts += [item] if isinstance(item, Thought) else self._content(item.text, answer_id)
        if delta.tool_calls:
            parts += self._held_text(answer_id)
        for position, call in enumerate(delta.tool_calls or ()):
            parts += self._calls.receive(call, position, answer_id)
        return self._settled(parts)

    def finish(self, upstream_reason: str | None, answer_id: str, *, is_at_limit: bool) -> tuple[list[Part], str]:
        """
        Return the parts that were held back, and the finish reason.

        `is_at_limit` says that the answer is known to have used up its tokens.

        Raises:
            UpstreamError: the model server says that the answer failed, or a call that it announces did not arrive.
        """
        self._is_idle = False
        is_cut = upstream_reason in ("length", "model_length")
        parts = self._end_of_text(answer_id, is_cut=is_cut)
        is_cut = is_cut or self._calls.ends_inside_a_call(is_at_limit=is_at_limit)
        parts += self._calls.finish(answer_id, is_cut=is_cut)
        parts = self._settled(parts)
        if held := self._space.finish(has_calls=self._calls.count > 0):
            parts += self._said_as([Text(held)])
        if self.said is Said.SILENT:
            require_announced_call(upstream_reason, self._expectation)
        reason = finish_reason(upstream_reason, self._expectation, has_calls=self._calls.count > 0, is_cut=is_cut)
        if reason == "stop" and self.said is Said.MUSED and self._thoughts:
            self._rules.add("reasoning_to_content")
            parts += self._said_as([Text(_response_in("".join(self._thoughts)))])
        if reason != upstream_reason:
            self._rules.add("cut_call_to_length" if reason == "length" else "finish_by_content")
        self.said = next_said(self.said, Say.END)
        return parts, reason

    def _untouched_fields(self, delta: Message) -> dict[str, object]:
        names = ["function_call", "refusal", "audio"]
        if self._expectation.options.reasoning_field == "untouched":
            names += ["reasoning", "reasoning_content"]
        elif delta.function_call is None and delta.refusal is None and delta.audio is None:
            return {}
        return {name: value for name in names if (value := getattr(delta, name)) is not None}

    def _reasoning(self, delta: Message) -> str:
        """Return the thoughts in `delta`; vLLM 0.11 to 0.13 sends the same text under both names."""
        wanted = self._expectation.options.reasoning_field
        thought = delta.reasoning_content or delta.reasoning or ""
        if not thought or wanted == "untouched":
            return ""
        if {"reasoning": delta.reasoning, "reasoning_content": delta.reasoning_content} != _spelled(wanted, thought):
            self._rules.add("reasoning_fields")
        return thought

    def _content(self, text: str, answer_id: str) -> list[Part]:
        parts: list[Part] = []
        for item in self._think.receive(self._echo.receive(text)):
            parts += self._without_leaks(item, answer_id)
        return parts

    def _without_leaks(self, item: Text | Thought, answer_id: str) -> list[Part]:
        leaked = self._leaked if isinstance(item, Text) else self._leaked_in_thoughts
        if leaked is None:
            return [item]
        return self._found(leaked.receive(item.text), type(item), answer_id)

    def _found(self, found: Iterable[Text | FoundCall], kind: type[Text] | type[Thought], answer_id: str) -> list[Part]:
        parts: list[Part] = []
        for item in found:
            parts += self._calls.add(item, answer_id) if isinstance(item, FoundCall) else [kind(item.text)]
        return parts

    def _held_text(self, answer_id: str) -> list[Part]:
        """Return what is held back as a possible echo or tag: something else follows."""
        parts: list[Part] = []
        for item in self._think.receive(self._echo.finish()) + self._think.finish():
            parts += self._without_leaks(item, answer_id)
        return parts

    def _end_of_text(self, answer_id: str, *, is_cut: bool) -> list[Part]:
        parts = self._held_text(answer_id)
        for leaked, kind in ((self._leaked_in_thoughts, Thought), (self._leaked, Text)):
            if leaked is not None:
                parts += self._found(leaked.finish(is_cut=is_cut), kind, answer_id)
        return parts

    def _end_of_leaks(self, answer_id: str) -> list[Part]:
        """The answer has calls of its own: what was held back as a possible call is text, as all that follows (R3)."""
        leaked, self._leaked = self._leaked, None
        return [] if leaked is None else self._found(leaked.finish(is_cut=False), Text, answer_id)

    def _settled(self, parts: Iterable[Part]) -> list[Part]:
        """Drop what is empty, hold back white space, and take the rest as said."""
        settled: list[Part] = []
        for part in parts:
            if isinstance(part, Text):
                if part.text and (text := self._space.receive(part.text)):
                    settled.append(Text(text))
            elif not isinstance(part, Thought):
                settled.append(part)
            elif part.text:
                settled.append(self._thought(part))
        return self._said_as(settled)

    def _thought(self, part: Thought) -> Part:
        if self._thoughts is not None:
            self._thoughts.append(part.text)
        return Text(part.text) if self._expectation.options.reasoning_field == "content" else part

    def _said_as(self, parts: list[Part]) -> list[Part]:
        for part in parts:
            self.said = next_said(self.said, _SAYS[type(part)])
        if self.said not in (Said.SILENT, Said.MUSED):
            self._thoughts = None
        return parts


_SAYS: Final[Mapping[type, Say]] = MappingProxyType(
    {Thought: Say.THOUGHT, Text: Say.TEXT, CallPart: Say.CALL, Untouched: Say.TEXT}
)


def _spelled(wanted: str, thought: str) -> dict[str, str | None]:
    return {name: thought if wanted in (name, "both") else None for name in ("reasoning", "reasoning_content")}


def _leaked_calls(expectation: Expectation, rules: RuleLog, *, at_start: bool) -> LeakedCalls | None:
    """
    Return the finder of leaked calls, None where there can be none: no tools, or switched off.

    `at_start` looks also for the forms that stand at the start of an answer, and not in thoughts.
    """
    mode = expectation.options.recover_tool_calls
    if mode == "off" or not offers_tools(expectation):
        return None
    # A required or named call comes as JSON text in HF mode (H7): text is not what was asked for, so M3 is safe.
    is_demanded = expectation.tool_choice in ("required", "named")
    return LeakedCalls(
        frozenset(expectation.tool_names),
        rules,
        json_alone=at_start and (mode == "all" or is_demanded),
        bare_names=at_start and mode == "all",
    )


def _texts_and_thoughts(content: list[Any]) -> list[Text | Thought]:
    """Return what the hosted API's parts say (mistralai 3.7.0: text, thinking, reference, ...)."""
    items: list[Text | Thought] = []
    for part in content:
        if isinstance(part, str):
            items.append(Text(part))
        elif isinstance(part, dict) and part.get("type") == "thinking":
            items.append(Thought(_plain_text(part.get("thinking"))))
        else:
            items.append(Text(_plain_text(part)))
    return items


def _plain_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_plain_text(item) for item in value)
    return value["text"] if isinstance(value, dict) and isinstance(value.get("text"), str) else ""


def _response_in(thoughts: str) -> str:
    """Return the text between `<response>` tags, where a model put its answer in its thoughts; else all of it."""
    _, opening, rest = thoughts.partition("<response>")
    return rest.partition("</response>")[0] if opening else thoughts
