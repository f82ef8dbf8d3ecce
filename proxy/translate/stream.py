"""
A streamed answer, translated while it passes. How it goes is in stream_state.py.

A stream that breaks off can go on at another upstream (`resumes`): the client then has seen a part of the answer, and
the translator gives it the rest, with one role, one finish reason and the same constant fields.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from proxy.errors import ProxyError, UpstreamError, UpstreamProtocolError, error_event
from proxy.translate.answer_choice import ChoiceTranslator, Said
from proxy.translate.answer_envelope import ENVELOPE_KEYS, Envelope, without
from proxy.translate.answer_facts import is_at_limit, is_passthrough
from proxy.translate.answer_finish import SwallowedToolCall, require_not_swallowed
from proxy.translate.answer_forms import MessageForms
from proxy.translate.answer_plain import PlainEvents, learned
from proxy.translate.answer_rules import RuleLog
from proxy.translate.expectation import Expectation
from proxy.translate.failure import error_in_answer
from proxy.translate.stream_state import TRANSITIONS, Input, State, is_break, next_state
from proxy.wire.completion import Chunk, ChunkChoice, Message, Usage, decode_chunk, decode_object, decode_usage
from proxy.wire.sse import DONE, DONE_EVENT, Event, EventFramer, parse_event

__all__ = ["TRANSITIONS", "Input", "State", "StreamTranslator", "next_state"]

# An upstream whose events differ in more than a string, by a counter or a time, has nothing to learn from: a lesson
# costs as much as two events. Four kinds of events are a choice's text, thoughts and calls, or those of two choices.
_EVENTS_PER_LESSON: Final = 8
_MOST_PLAIN: Final = 4

# Arbitrary: less than this, some four events, has no run that is worth a look; and where a run was looked for in vain,
# the next events are taken one by one, so that looking costs little also in text that has few.
_SHORTEST_BURST: Final = 1024
_SINGLY_AFTER_NO_RUN: Final = 16

#: Where thoughts are dropped or go on as text, one of these has been applied if there were any.
_OF_THOUGHTS: Final = frozenset({"reasoning_fields", "think_tags_to_reasoning", "list_content_to_text"})

#: What one choice of a chunk becomes: messages for the client, and its finish reason.
Outcome = tuple[list[Message], str | None]


class StreamTranslator:
    """
    Translates one stream. Give it every piece in order, send what it returns, and call `receive_eof` at the end.

    After an error (`error` is set, `state` is FAILED) nothing more comes out. `rules_applied`, `usage` and
    `finish_reasons` are what is known so far.

    With `resumes`, an error that another upstream may make good leads to BROKEN, and the error has not come out. Then
    call `resume` and give it the other upstream's stream, or `give_up` and send what that returns.
    """

    def __init__(
        self, expectation: Expectation, *, max_event_bytes: int = 16 * 1024 * 1024, resumes: bool = False
    ) -> None:
        self.state = State.WAITING
        self.error: ProxyError | None = None
        #: in BROKEN: white space that follows the text the client has seen, and that it has not been given
        self.held_space = ""
        self.usage: Usage | None = None
        self.events = 0
        self._expectation = expectation
        self._rules = RuleLog()
        self._framer = EventFramer(max_event_bytes)
        self._envelope = Envelope(expectation, self._rules)
        self._choices: dict[int, tuple[ChoiceTranslator, MessageForms]] = {}
        self._finish_reasons: dict[int, str] = {}
        self._silent_ends: list[bytes] = []
        self._usage_event = b""
        self._max_event_bytes = max_event_bytes
        #: what plain events look like, the newest first, and those that the next piece is expected to be one of
        self._plain: list[PlainEvents] = []
        self._expected: PlainEvents | None = None
        self._lessons = 0
        is_relayed = is_passthrough(expectation.options)
        self._handle = self._relay if is_relayed else self._translate
        self._resumes = resumes and not is_relayed  # what is not read cannot be continued

    @property
    def rules_applied(self) -> tuple[str, ...]:
        """The rules that changed something."""
        return self._rules.names()

    @property
    def calls_recovered(self) -> int:
        """How many calls had leaked into the text."""
        return self._rules.recovered

    @property
    def calls_malformed(self) -> tuple[str, ...]:
        """What was wrong with calls, once for each that had it."""
        return self._rules.malformed

    @property
    def wants_whole(self) -> bool:
        """Whether the stream failed because nothing of it arrived, and the profile wants it asked again whole (R4)."""
        return isinstance(self.error, SwallowedToolCall) and self._expectation.options.retry_swallowed == "non_stream"

    @property
    def begun(self) -> Mapping[str, Any]:
        """The constant fields of the chunks that came so far; empty before the first."""
        return self._envelope.constant

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """The finish reason of each choice that has one, in the order of the choices."""
        return tuple(reason for _, reason in sorted(self._finish_reasons.items()))

    def receive(self, piece: bytes) -> bytes:
        """Take the next piece of the stream, cut anywhere; return what the client gets now."""
        # Mostly a piece is one plain event: 0.7 us of CPU instead of 3.6 (2026-11-23, CPython 3.11.7).
        plain = self._expected
        if plain is not None and len(piece) <= self._max_event_bytes and (out := plain.taken(piece)) is not None:
            self.events += 1
            return out
        if self.state >= State.CLOSED:
            return b""
        self._framer.receive_data(piece)
        return self._play()

    def receive_eof(self) -> bytes:
        """The upstream has no more data: return nothing after a clean end, an error event after any other."""
        self._framer.receive_eof()
        out = self._play()
        try:
            self.state = next_state(self.state, Input.EOF)
        except UpstreamProtocolError as error:
            out += self._fail(error)
        return out

    def receive_break(self, error: UpstreamError) -> bytes:
        """The upstream's data ended in `error` instead of its end: return what `receive_eof` does."""
        self._expected = None
        return self._fail(error) if self.state < State.CLOSED else b""

    def resume(self, expectation: Expectation, seen: str) -> None:
        """
        Be ready for the stream of another upstream, which goes on from `seen` and `held_space`; only in BROKEN.

        `expectation` is that of the request it was sent (`continuation.continued`), `seen` all text that the client has
        been given. What was held back of the first stream is dropped, but for white space.
        """
        self.state = next_state(self.state, Input.RESUME)
        self.error = self.usage = None
        self._expectation = expectation
        self._framer = EventFramer(self._max_event_bytes)
        self._envelope.resume()
        for index, (translator, _) in self._choices.items():
            rest = translator.resumed(expectation, seen, self.held_space)
            self._choices[index] = rest, MessageForms(expectation, self._rules)
        self.held_space = ""
        self._usage_event = b""
        self._plain.clear()

    def give_up(self) -> bytes:
        """Return the error that led to BROKEN as an event, and `[DONE]`: nobody goes on."""
        self.state = next_state(self.state, Input.FAULT)
        return b"" if self.error is None else error_event(self.error) + DONE_EVENT

    def _play(self) -> bytes:
        out: list[bytes] = []
        plain, self._expected = self._expected, None
        singly = 0
        try:
            while self.state < State.CLOSED:
                if singly:
                    singly -= 1
                elif plain is not None and not self._take_run(plain, out):
                    singly = _SINGLY_AFTER_NO_RUN
                if (raw := self._framer.next_raw()) is None:
                    break
                if plain is not None and (taken := plain.taken(raw)) is not None:
                    self.events += 1
                    out.append(taken)
                else:
                    out.append(self._handle(raw))
                    plain = self._plain[0] if self._plain and self.state is State.ANSWERING else None
        except ProxyError as error:
            out.append(self._fail(error))
        else:
            if self._framer.is_empty:
                self._expected = plain
        return out[0] if len(out) == 1 else b"".join(out)

    def _take_run(self, plain: PlainEvents, out: list[bytes]) -> bool:
        """Take many plain events at once, if many are here; return whether there were."""
        piece, at = self._framer.rest
        if len(piece) - at < _SHORTEST_BURST or (run := plain.run_in(piece, at)) is None:
            return False
        out.append(run.out)
        self.events += run.events
        self._framer.skip_to(run.end)
        return True

    def _fail(self, error: ProxyError) -> bytes:
        self.error = error
        if self._may_resume(error):
            self.state = next_state(self.state, Input.BREAK)
            if 0 in self._choices:
                self.held_space = self._choices[0][0].take_held_space()
            return b""
        self.state = next_state(self.state, Input.FAULT)
        return b"" if self.wants_whole else error_event(error) + DONE_EVENT

    def _may_resume(self, error: ProxyError) -> bool:
        """Whether another upstream may go on: no finish reason is out, and the client has seen all that was thought."""
        if not self._resumes or self._finish_reasons or (self.state, Input.BREAK) not in TRANSITIONS:
            return False
        hides = self._expectation.options.reasoning_field in ("content", "drop")
        return is_break(error) and not (hides and not _OF_THOUGHTS.isdisjoint(self.rules_applied))

    def _translate(self, raw: bytes) -> bytes:
        if self.state is State.ANSWERING:
            for plain in self._plain:
                if (out := plain.taken(raw)) is not None:
                    self.events += 1
                    return out
                if (text := plain.string_in(raw)) and plain.choice not in self._finish_reasons:
                    return self._plain_event(plain, raw, text)
        event = parse_event(raw)
        if event.payload is None:
            return event.comment
        if event.payload == DONE:
            return self._done()
        self.events += 1
        chunk = decode_chunk(event.payload)
        if chunk.choices is None:
            raise error_in_answer(event.payload)
        if not self._envelope.is_known:
            self._envelope.learn(chunk, event.payload)
        if chunk.usage is not None:
            self._take_usage(chunk, event.payload)
        if not chunk.choices:
            self.state = next_state(self.state, Input.EXTRA)
            return b""
        return self._ruled(chunk, event)

    def _plain_event(self, plain: PlainEvents, raw: bytes, text: str) -> bytes:
        """Translate an event of which all is known but its string."""
        self.events += 1
        if plain is not self._plain[0]:
            self._plain.remove(plain)
            self._plain.insert(0, plain)
        choice = plain.choice_with(text)
        messages, _ = self._choice(choice)
        if messages == [choice.delta]:
            return plain.as_came(raw)
        if len(messages) == 1 and (made := plain.made(messages[0])) is not None:
            return made
        return b"".join(self._events(plain.choice, messages, None, *plain.other_fields())) if messages else b""

    def _ruled(self, chunk: Chunk, event: Event) -> bytes:
        """Put every choice of a chunk through the rules; forward the chunk if that changed nothing."""
        choices, payload = chunk.choices or [], event.payload or b""
        outcome = [self._choice(choice) for choice in choices]
        is_finished = len(self._finish_reasons) == len(self._choices)
        self.state = next_state(self.state, Input.FINISH if is_finished else Input.CHUNK)
        is_same = all(_is_same(choice, *new) for choice, new in zip(choices, outcome, strict=True))
        if is_same and self._envelope.fits(chunk):
            out = self._envelope.forwarded(payload)
        else:
            out = self._rebuilt(choices, outcome, payload)
        if all(self._said_nothing(choice.index) for choice in choices):
            self._silent_ends.append(out)
            return b""
        if len(choices) == 1 and (self._lessons - _MOST_PLAIN) * _EVENTS_PER_LESSON < self.events:
            self._learn(chunk, event, outcome[0][0])
        return out

    def _learn(self, chunk: Chunk, event: Event, messages: list[Message]) -> None:
        """Learn what an event looks like that was a choice's string and became `messages`."""
        translator, _ = self._choices[(chunk.choices or [])[0].index]
        plain = learned(chunk, event, messages, self._envelope, translator)
        if plain is not None:
            self._lessons += 1
            self._plain = [plain, *self._plain][:_MOST_PLAIN]

    def _choice(self, choice: ChunkChoice) -> Outcome:
        messages: list[Message] = []
        if (choice.delta.role is None) is (choice.index not in self._choices):
            self._rules.add("one_role_first")
        if choice.delta.role not in (None, "assistant"):
            self._rules.add("role_is_assistant")
        if choice.index not in self._choices:
            translator = ChoiceTranslator(self._expectation, choice.index, self._rules)
            self._choices[choice.index] = translator, MessageForms(self._expectation, self._rules)
            messages.append(_role_message(choice.delta))
        translator, forms = self._choices[choice.index]
        parts = translator.receive(choice.delta, self._envelope.id)
        if not choice.finish_reason:  # some servers send "" until the end
            return messages + forms.messages(parts), None
        at_limit = is_at_limit(self.usage, self._expectation)
        more, reason = translator.finish(choice.finish_reason, self._envelope.id, is_at_limit=at_limit)
        self._finish_reasons[choice.index] = reason
        return messages + forms.messages(parts + more), reason

    def _said_nothing(self, index: int) -> bool:
        """Whether a choice has ended without a word and without a reason to."""
        return self._choices[index][0].said is Said.MUTE and self._finish_reasons[index] == "stop"

    def _rebuilt(self, choices: list[ChunkChoice], outcome: list[Outcome], payload: bytes) -> bytes:
        original = decode_object(payload)
        rest = without(original, ENVELOPE_KEYS)
        out = []
        for choice, (messages, reason), fields in zip(choices, outcome, original["choices"], strict=True):
            if not messages and reason is None and choice.delta == Message():
                self._rules.add("drop_empty_deltas")
            extras = without(fields, ("index", "delta", "finish_reason"))
            out += self._events(choice.index, messages, reason, rest, extras)
        return b"".join(out)

    def _events(
        self, choice: int, messages: list[Message], reason: str | None, rest: dict[str, Any], extras: dict[str, Any]
    ) -> list[bytes]:
        """One event for each message, and one for the finish reason; what else the choice had goes with the first."""
        deltas: list[tuple[Message, str | None]] = [(message, None) for message in messages]
        if reason is not None:
            deltas.append((Message(), reason))
        elif not deltas and extras.get("logprobs") is not None and choice not in self._finish_reasons:
            deltas.append((Message(), None))
        return [
            self._envelope.event(choice, delta, end, rest, {} if position else extras)
            for position, (delta, end) in enumerate(deltas)
        ]

    def _take_usage(self, chunk: Chunk, payload: bytes) -> None:
        """Remember the usage, and the event that will show it if the client asked for it (R12)."""
        usage = dict(chunk.usage or {})
        self.usage = decode_usage(usage)
        if self.usage.total_tokens is not None:
            usage["total_tokens"] = self.usage.total_tokens
        if chunk.choices or not self._expectation.usage_wanted:
            self._rules.add("usage_as_asked")
        if self._expectation.usage_wanted:
            rest = without(decode_object(payload), ENVELOPE_KEYS)
            self._usage_event = self._envelope.usage_event(usage, rest)

    def _done(self) -> bytes:
        """End the answer: what was held back, then usage, then `[DONE]`."""
        closed = next_state(self.state, Input.DONE)
        if all(map(self._said_nothing, self._choices)):
            require_not_swallowed(self.usage, self._expectation)
        self.state = closed
        return b"".join([*self._silent_ends, self._usage_event, DONE_EVENT])

    def _relay(self, raw: bytes) -> bytes:
        """Pass an event on as it came; only how the stream ends is looked at."""
        payload = parse_event(raw).payload
        if payload is None:
            return raw
        if payload == DONE:
            self.state = State.CLOSED
            return raw
        self.events += 1
        with suppress(UpstreamProtocolError):
            self._look_at(decode_chunk(payload))
        return raw

    def _look_at(self, chunk: Chunk) -> None:
        self.state = State.ANSWERING
        for choice in chunk.choices or ():
            if choice.finish_reason is not None:
                self._finish_reasons[choice.index] = choice.finish_reason
        if chunk.usage is not None:
            self.usage = decode_usage(chunk.usage)


def _role_message(delta: Message) -> Message:
    """The first message of a choice; null content stays null, so that a first chunk of that form passes as it came."""
    return Message(role="assistant", content=None if delta.role and delta.content is None else "")


def _is_same(choice: ChunkChoice, messages: list[Message], reason: str | None) -> bool:
    """Whether the rules left a choice as it came."""
    as_came = [choice.delta] if choice.delta != Message() else []
    return reason == choice.finish_reason and messages == as_came and bool(as_came or reason)
