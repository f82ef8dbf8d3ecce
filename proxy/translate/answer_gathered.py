"""
The events of a streamed answer, put together to the whole answer that they say: what a cache keeps of a stream.

    add(events)   collected as bytes, some 32 KB of them
                     | full, or the end
                     v
                  decoded together, and each delta's text written behind what its field has said so far
                     |
                     +-- a field that cannot be joined, an error, too much --> nothing is kept any more
    finished()    the whole answer, if it is one that may be given to somebody else (`is_keepable`)

`answer_replay.played` is the way back. An event costs 0.3 us of CPU when it is added and 2.4 us when it is decoded,
where one of a transcript took 1.6 us in all (2026-11-26, CPython 3.11.7, two cores with other work on them).
"""

from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec import Raw

from proxy.errors import UpstreamProtocolError
from proxy.translate.completion import CompletionAnswer
from proxy.wire.completion import Usage, decode_completion, decode_usage, encode
from proxy.wire.sse import DATA, DONE, EVENT_END

#: Arbitrary, as for a transcript: over a hundred events, so that decoding them costs little for each.
_MOST_COLLECTED: Final = 32 * 1024
#: What a choice or a call is reckoned to take beside its texts.
_OVERHEAD: Final = 512

#: The reasons of answers that came to their own end. A filter's answer is cut too, wherever the filter stood.
KEPT_REASONS: Final = frozenset({"stop", "tool_calls", "function_call"})


def is_keepable(answer: CompletionAnswer) -> bool:
    """Whether a translated answer may be given to others: each choice came to its own end, and says something."""
    if not answer.finish_reasons or not KEPT_REASONS.issuperset(answer.finish_reasons):
        return False
    try:
        choices = decode_completion(answer.body).choices
    except UpstreamProtocolError:
        return False
    messages = [choice.message for choice in choices or ()]
    return bool(messages) and all(
        m.content or m.tool_calls or m.function_call or m.refusal or m.reasoning or m.reasoning_content
        for m in messages
    )


# --- the client's events, as far as they can be joined. What is not listed here, or is listed as None and is not null,
# --- makes an answer one that is not kept; other members of a chunk carry nothing (`p` and `obfuscation` are padding).


class _Strict(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    pass


class _Function(_Strict):
    name: str | None = None
    arguments: str | None = None


class _Custom(_Strict):
    name: str | None = None
    input: str | None = None


class _Fragment(_Strict):
    index: int
    id: str | None = None
    type: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None


class _Delta(_Strict):
    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_Fragment] | None = None
    function_call: _Function | None = None
    audio: None = None
    annotations: None = None


class _Choice(_Strict):
    delta: _Delta
    index: int = 0
    logprobs: dict[str, list[Raw] | None] | None = None
    finish_reason: str | None = None
    stop_reason: None = None
    token_ids: None = None
    routed_experts: None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice]
    id: str | None = None
    created: int | float | None = None
    model: str | None = None
    system_fingerprint: str | None = None
    service_tier: str | None = None
    usage: dict[str, Any] | None = None
    prompt_token_ids: None = None
    prompt_text: None = None
    prompt_logprobs: None = None
    prompt_routed_experts: None = None
    kv_transfer_params: None = None
    metrics: None = None


_decode_chunks: Final = msgspec.json.Decoder(list[_Chunk]).decode


class _State(IntEnum):
    """OPEN --`[DONE]`--> ENDED, and from both to SPOILED, from which nothing leads."""

    OPEN = 0
    ENDED = 1
    SPOILED = 2


class GatheredAnswer:
    """Give it all events of one translated stream, whole events at a time, as `StreamTranslator` returns them."""

    __slots__ = ("_choices", "_collected", "_collected_bytes", "_head", "_kept", "_max_bytes", "_state", "_usage")

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` bounds the whole answer, and what is held of it meanwhile, beside some 32 KB of events."""
        self._max_bytes = max_bytes
        self._state = _State.OPEN
        self._collected: list[bytes] = []
        self._collected_bytes = 0
        self._kept = 0
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self._choices: dict[int, _Said] = {}

    def add(self, events: bytes) -> None:
        """Take what goes to the client."""
        if self._state is _State.SPOILED:
            return
        self._collected.append(events)
        self._collected_bytes += len(events)
        if self._collected_bytes >= _MOST_COLLECTED:
            self._read()

    def finished(self, usage: Usage | None, rules: tuple[str, ...] = ()) -> CompletionAnswer | None:
        """
        Return the whole answer; None if it may not be kept. Nothing can be added after that.

        `usage` is what the translator knows: a client that did not ask for it has not been sent it. Without any usage
        nothing is kept, for a whole answer has one. `rules` are the rules that were applied to the stream.
        """
        self._read()
        if self._state is not _State.ENDED:
            return None
        shown = self._usage or (None if usage is None else msgspec.structs.asdict(usage))
        if shown is None:
            return None
        choices = [said.choice(index) for index, said in sorted(self._choices.items())]
        body = encode({**self._head, "choices": choices, "usage": shown})
        reasons = tuple(str(choice["finish_reason"]) for choice in choices)
        answer = CompletionAnswer(body, rules, decode_usage(shown) if usage is None else usage, reasons)
        return answer if len(body) <= self._max_bytes and is_keepable(answer) else None

    def _spoil(self) -> None:
        self._state = _State.SPOILED
        self._choices.clear()

    def _read(self) -> None:
        """Decode what was collected, and keep what it says."""
        collected = b"".join(self._collected)
        self._collected.clear()
        self._collected_bytes = 0
        blocks = [block for block in collected.split(EVENT_END) if block and not block.startswith(b":")]
        if not blocks or self._state is _State.SPOILED:
            return
        if self._state is _State.ENDED or not all(block.startswith(DATA) for block in blocks):
            self._spoil()
            return
        payloads = [block[len(DATA) :] for block in blocks]
        if payloads[-1] == DONE:
            self._state = _State.ENDED
            del payloads[-1]
        try:
            # One list is decoded in half the time that its items take one by one. Errors do not fit.
            chunks = _decode_chunks(b"[%b]" % b",".join(payloads))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._spoil()
            return
        self._take(chunks)

    def _take(self, chunks: list[_Chunk]) -> None:
        for chunk in chunks:
            self._note_head(chunk)
            if chunk.usage is not None:
                self._usage = chunk.usage
            for choice in chunk.choices:
                said = self._choices.get(choice.index)
                if said is None:
                    said = self._choices[choice.index] = _Said()
                    self._kept += _OVERHEAD
                self._kept += said.take(choice)
        if self._kept > self._max_bytes:
            self._spoil()

    def _note_head(self, chunk: _Chunk) -> None:
        if not self._head:
            self._head = {"id": chunk.id, "object": "chat.completion", "created": chunk.created, "model": chunk.model}
        if chunk.system_fingerprint is not None:  # vLLM 0.32 has it in the last event
            self._head["system_fingerprint"] = chunk.system_fingerprint
        if chunk.service_tier is not None:
            self._head["service_tier"] = chunk.service_tier


class _Said:
    """
    What one choice has said so far.

    A text is kept in UTF-8: 189 KB of it took 0.2 MB, as a list of its 20,000 pieces 1.3 MB (2026-11-26).
    """

    __slots__ = ("_calls", "_function_call", "_logprobs", "_reason", "_texts")

    def __init__(self) -> None:
        self._texts: dict[str, bytearray] = {}
        self._calls: dict[int, _Call] = {}
        self._function_call: _Call | None = None
        self._logprobs: dict[str, bytearray] = {}
        self._reason: str | None = None

    def take(self, choice: _Choice) -> int:
        """Add an event's part; return how much more is kept."""
        delta, more = choice.delta, 0
        for name in ("content", "reasoning", "reasoning_content", "refusal"):
            if text := getattr(delta, name):
                more += _written(self._texts, name, text)
        for fragment in delta.tool_calls or ():
            if fragment.index not in self._calls:
                self._calls[fragment.index] = _Call()
                more += _OVERHEAD
            more += self._calls[fragment.index].take(fragment)
        if delta.function_call is not None:
            if self._function_call is None:
                self._function_call = _Call()
            more += self._function_call.take(_Fragment(0, function=delta.function_call))
        for name, items in (choice.logprobs or {}).items():
            more += self._add_logprobs(name, items)
        if choice.finish_reason is not None:
            self._reason = choice.finish_reason
        return more

    def _add_logprobs(self, name: str, items: list[Raw] | None) -> int:
        described = self._logprobs.setdefault(name, bytearray())
        before = len(described)
        for item in items or ():
            described += b"," if described else b""
            described += bytes(item)
        return len(described) - before

    def choice(self, index: int) -> dict[str, Any]:
        """Return the choice of a whole answer."""
        texts = {name: text.decode() for name, text in self._texts.items()}
        calls = [call.whole() for _, call in sorted(self._calls.items())]
        says_otherwise = calls or self._function_call is not None or "refusal" in texts
        message: dict[str, Any] = {
            "role": "assistant",
            "content": texts.pop("content", None if says_otherwise else ""),
            "refusal": texts.pop("refusal", None),
            **texts,
        }
        if calls:
            message["tool_calls"] = calls
        if self._function_call is not None:
            message["function_call"] = self._function_call.called
        logprobs = {name: Raw(b"[%b]" % bytes(items)) if items else None for name, items in self._logprobs.items()}
        return {"index": index, "message": message, "logprobs": logprobs or None, "finish_reason": self._reason}


class _Call:
    """One call: what comes once, and its arguments or input, which come in pieces."""

    __slots__ = ("_once", "_texts")

    def __init__(self) -> None:
        self._once: dict[str, str] = {"type": "function"}
        self._texts: dict[str, bytearray] = {}

    def take(self, fragment: _Fragment) -> int:
        """Add a fragment; return how much more is kept."""
        more = self._note("id", fragment.id) + self._note("type", fragment.type)
        if (function := fragment.function) is not None:
            more += self._note("name", function.name) + _written(self._texts, "arguments", function.arguments or "")
        if (custom := fragment.custom) is not None:
            more += self._note("name", custom.name) + _written(self._texts, "input", custom.input or "")
        return more

    def _note(self, name: str, value: str | None) -> int:
        if value is None:
            return 0
        self._once[name] = value
        return len(value)

    @property
    def called(self) -> dict[str, Any]:
        """What is called, and with what."""
        return {"name": self._once.get("name"), **{name: text.decode() for name, text in self._texts.items()}}

    def whole(self) -> dict[str, Any]:
        """Return the call as it stands in a whole answer."""
        kind = self._once["type"]
        return {"id": self._once.get("id"), "type": kind, kind: self.called}


def _written(texts: dict[str, bytearray], name: str, text: str) -> int:
    """Write `text` behind what is there; return its length in UTF-8."""
    data = text.encode()
    if name in texts:
        texts[name] += data
    else:
        texts[name] = bytearray(data)
    return len(data)
