"""
The events that streams are made of: one more piece of text, of a thought, of a call's arguments.

All such events of a choice are the same bytes but for one string, so what stands around it is learned from one that
was decoded, and holds until the stream ends. Another event with the same surroundings is not decoded as a whole:

    the string passes every rule:    it goes on in the surroundings that were learned
    it does not:                     it goes through the rules, and what comes of it goes on in such surroundings

What comes out is the same, byte for byte, as without: where `learned` returns nothing, every event is decoded.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from proxy.translate.answer_choice import ChoiceTranslator
from proxy.translate.answer_envelope import ENVELOPE_KEYS, Envelope, without
from proxy.wire.completion import Call, Chunk, ChunkChoice, Function, Message, decode_chunk, decode_object, encode
from proxy.wire.sse import DATA, EVENT_END, Event

_decode_string: Final = msgspec.json.Decoder(str).decode

#: The messages that may be plain, by the key of their string: made of a call's index and the string.
_FORMS: Final[Mapping[str, Callable[[int, str], Message]]] = MappingProxyType(
    {
        "content": lambda _, text: Message(content=text),
        "reasoning": lambda _, text: Message(reasoning=text),
        "reasoning_content": lambda _, text: Message(reasoning_content=text),
        "arguments": lambda call, text: Message(tool_calls=[Call(call, function=Function(arguments=text))]),
    }
)
_TEXTS: Final = ("content", "reasoning", "reasoning_content")

# Stands for the string while an event is built around it. Where an upstream sends it too, nothing is built that way.
_ANY: Final = "\x00any\x00"

# Strings as they are written in ASCII, each with a line end behind it, which none can have inside. In the first form no
# rule on text can want one, whatever stands around it: no bracket, no space at its end, and nothing that may be one.
_ESCAPED: Final = rb'\\["\\bfnrt]'
_RUN_OF_TEXTS: Final = re.compile(rb'(?:(?:[^"\\\x00-\x1f\x7f-\xff\[]++|%s)++(?<! )(?<!\\[fnrt])\n)*+' % _ESCAPED)
_RUN_OF_STRINGS: Final = re.compile(rb'(?:(?:[^"\\\x00-\x1f\x7f-\xff]++|%s)++\n)*+' % _ESCAPED)
# A run is looked for in so many bytes at a time, so that events which end it early cost no more than others.
_LONGEST_RUN: Final = 8192
_SHORTEST_RUN: Final = 3


class Run(NamedTuple):
    """Plain events one after the other: what goes on of them, how many there are, and where they end."""

    out: bytes
    events: int
    end: int


class PlainEvents:
    """
    Events of one choice that differ in one string only.

    `string_in` finds the string. `taken` does all for one that passes; for another, `choice_with` is what the rules
    get, and `as_came` or `made` is what they leave of it.
    """

    def __init__(self, choice: int, key: str, call: int, around: tuple[bytes, bytes], envelope: Envelope) -> None:
        before, after = around
        self.choice = choice
        self.key = key
        self.call = call
        self._start = DATA + before + b'"'
        self._end = b'"' + after + EVENT_END
        # Both quotes are a part of the surroundings, and of the string.
        self._from, self._to = len(self._start) - 1, 1 - len(self._end)
        self._envelope = envelope
        kept = envelope.without_null_keys(before), envelope.without_null_keys(after)
        self._as_came = None if kept == around else [DATA + kept[0], kept[1] + EVENT_END]
        # What takes strings that pass and strings that are held; what such events become, None if they stay the same.
        self._passes: Callable[[str], bool] = _never
        self._is_held: Callable[[str], bool] = _never
        self._passed_parts = self._as_came
        #: whether strings that pass are written anew, and whether the rule that strips keys has been noted
        self._is_written = self._is_noted = False
        #: whether keys that only vLLM has are left out of an event that is built
        self._is_stripped = False
        self._payload = before + b'""' + after
        self._parts: dict[tuple[str, ...], list[bytes]] = {}

    def become_foreign(self) -> bool:
        """Let no event go on as it came, but in the client's envelope; return whether that can be done."""
        if self.key not in _TEXTS or not (parts := self._parts_around((self.key,))):
            return False
        self._as_came = self._passed_parts = parts
        self._is_written = True
        return True

    def let_pass(self, translator: ChoiceTranslator, messages: list[Message]) -> None:
        """Let strings pass that `translator` takes, if `messages`, what became of one of them, is one of its kind."""
        self._is_noted = bool(messages)
        names = _texts_of(messages[0]) if len(messages) == 1 else ()
        if self.key == "content":
            self._passes, self._is_held = translator.passes_text, translator.holds_text
        elif self.key == "arguments":
            if len(messages) == 1 and messages[0].tool_calls:
                self._passes = partial(translator.passes_arguments, self.call)
        elif names == (self.key,):
            self._passes = translator.passes_thought
        elif names and "content" not in names and (parts := self._parts_around(names)):
            self._passes, self._passed_parts, self._is_written = translator.passes_thought, parts, True

    def string_in(self, event: bytes) -> str | None:
        """Return the string in `event`, or None if the event must be decoded."""
        if not (event.startswith(self._start) and event.endswith(self._end)):
            return None
        try:
            return _decode_string(event[self._from : self._to])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def taken(self, event: bytes) -> bytes | None:
        """Return what goes on of `event`, if it is one of these and no rule changes what its string says."""
        if not (event.startswith(self._start) and event.endswith(self._end)):
            return None
        string = event[self._from : self._to]
        try:
            text = _decode_string(string)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        if not text or not self._passes(text):
            return b"" if text and self._is_held(text) else None
        parts = self._passed_parts
        if parts is None:
            return event
        if not self._is_noted:
            self._note_stripped()
        return (encode(text) if self._is_written else string).join(parts)

    def run_in(self, piece: bytes, at: int) -> Run | None:
        """
        Take a run of these events that begins at `at` in `piece`, as `taken` takes each; None if there is none.

        An event costs 0.6 us of CPU instead of 1.4 (2026-11-23, CPython 3.11.7). What is no run may still be taken.
        """
        start, end = self._start, self._end
        around = len(start), len(EVENT_END) - len(end)
        # What is last may be cut. Slicing blindly and comparing once is cheaper than looking at each.
        strings = [event[around[0] : around[1]] for event in piece[at : at + _LONGEST_RUN].split(EVENT_END)[:-1]]
        if not piece.startswith(b"%b%b%b" % (start, (end + start).join(strings), end), at):
            return None
        lines = b"\n".join([*strings, b""])
        run = (_RUN_OF_TEXTS if self.key == "content" else _RUN_OF_STRINGS).match(lines)
        length = run.end() if run else 0
        if length < len(lines):
            del strings[lines.count(b"\n", 0, length) :]
        if len(strings) < _SHORTEST_RUN:
            return None
        text = _decode_string(b'"%b"' % b"".join(strings))
        stop = at + length + len(strings) * (len(start) + len(end) - 1)
        if not self._passes(text):
            return Run(b"", len(strings), stop) if self._is_held(text) else None
        parts = self._passed_parts
        if parts is None:
            return Run(piece[at:stop], len(strings), stop)
        if not self._is_noted:
            self._note_stripped()
        if len(parts) > 2:  # the string stands in several places
            return Run(b"".join([(b'"%b"' % string).join(parts) for string in strings]), len(strings), stop)
        before, after = parts[0] + b'"', b'"' + parts[1]
        return Run(b"%b%b%b" % (before, (after + before).join(strings), after), len(strings), stop)

    def _note_stripped(self) -> None:
        self._is_noted = True
        if self._is_stripped or not self._envelope.is_foreign:  # what is not foreign has parts for no other reason
            self._envelope.note_stripped()

    def choice_with(self, text: str) -> ChunkChoice:
        """Return the choice of an event whose string is `text`."""
        return ChunkChoice(self.choice, _FORMS[self.key](self.call, text))

    def as_came(self, event: bytes) -> bytes:
        """Return `event`, without the null keys that only vLLM has."""
        if self._as_came is None:
            return event
        self._note_stripped()
        string = event[self._from : self._to]
        return (encode(_decode_string(string)) if self._envelope.is_foreign else string).join(self._as_came)

    def made(self, message: Message) -> bytes | None:
        """Return `message` as an event that stands for one of these, None if it is more than a text."""
        names = _texts_of(message)
        parts = self._parts_around(names) if names else []
        if not parts:
            return None
        if self._is_stripped:
            self._envelope.note_stripped()
        return encode(getattr(message, names[0])).join(parts)

    def _parts_around(self, names: tuple[str, ...]) -> list[bytes]:
        """Return the pieces of an event that stand around the string, which it has once under each of `names`."""
        if names not in self._parts:
            fields = self.other_fields()
            # Nothing goes on yet, so no rule is noted yet.
            rest, extras = map(self._envelope.kept, fields)
            self._is_stripped = fields != (rest, extras)
            delta = Message(**dict.fromkeys(names, _ANY))  # type: ignore[arg-type]  # every one of them is text
            parts = self._envelope.event(self.choice, delta, None, rest, extras).split(encode(_ANY))
            self._parts[names] = parts if len(parts) == len(names) + 1 else []
        return self._parts[names]

    def other_fields(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the fields of these events that no rule reads, and those of their choice."""
        original = decode_object(self._payload)
        return without(original, ENVELOPE_KEYS), without(original["choices"][0], ("index", "delta", "finish_reason"))


def learned(
    chunk: Chunk, event: Event, messages: list[Message], envelope: Envelope, translator: ChoiceTranslator
) -> PlainEvents | None:
    """Return the events that are like this one, a chunk of one choice that became `messages`, or None."""
    choice, payload = (chunk.choices or [])[0], event.payload or b""
    key, call, text = _string_of(choice.delta)
    if not text or choice != ChunkChoice(choice.index, _FORMS[key](call, text)) or not envelope.suits(chunk):
        return None
    before, mark, rest = payload.partition(b'"%s":' % key.encode())
    written = encode(text)
    if event.raw != DATA + payload + EVENT_END or not rest.startswith(written):
        return None  # it is written in another way than it would be here
    around = before + mark, rest[len(written) :]
    plain = PlainEvents(choice.index, key, call, around, envelope)
    # That key may stand at several places. Only another string there shows whether it is the one that is read.
    other = text + "."
    expected = msgspec.structs.replace(chunk, choices=[plain.choice_with(other)])
    if decode_chunk(encode(other).join(around)) != expected:
        return None
    if envelope.is_foreign and not plain.become_foreign():
        return None
    plain.let_pass(translator, messages)
    return plain


def _string_of(delta: Message) -> tuple[str, int, str]:
    """Return the key, the call's index and the text of the string that a message may be plain in; no text if none."""
    for name in _TEXTS:
        text = getattr(delta, name)
        if isinstance(text, str) and text:
            return name, 0, text
    call = delta.tool_calls[0] if delta.tool_calls else Call()
    arguments = call.function.arguments if call.function is not None else None
    return "arguments", call.index or 0, arguments if isinstance(arguments, str) else ""


def _texts_of(message: Message) -> tuple[str, ...]:
    """Return the names under which a message has one and the same text, none if it has other things too."""
    names = tuple(name for name in _TEXTS if getattr(message, name) is not None)
    if names and message == Message(**dict.fromkeys(names, getattr(message, names[0]))):
        return names
    return ()


def _never(_: str) -> bool:
    return False
