"""What is the same in every chunk of a stream, and the chunks that are built here (R1, R14)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from proxy.translate.answer_rules import RuleLog
from proxy.translate.expectation import Expectation
from proxy.wire.completion import CHUNK_OBJECT, VENDOR_KEYS, Chunk, ChunkChoice, Message, encode
from proxy.wire.ids import nine_char_digest
from proxy.wire.sse import data_event

# Every chunk of vLLM 0.32 has `token_ids`, first and last chunks have others. Inside a JSON string a quote is escaped,
# so these bytes are always a key.
_NULL_KEYS: Final = re.compile(rb',"(?:%s)":null' % "|".join(sorted(VENDOR_KEYS)).encode())

#: Keys of a chunk that are built here; what else it has is passed on.
ENVELOPE_KEYS: Final = ("id", "object", "created", "model", "choices", "usage")


class Envelope:
    """Learns id, model and created from the first chunk; `learn` must be called before anything else."""

    def __init__(self, expectation: Expectation, rules: RuleLog) -> None:
        self.id = ""
        self._expectation = expectation
        self._strips = expectation.options.strip_vendor_fields
        self._rules = rules
        self.constant: dict[str, Any] = {}
        self._fits: tuple[Any, ...] = ()
        #: what the upstream's chunks have, () before the first; the same as `_fits` until another upstream goes on
        self._theirs: tuple[Any, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether a chunk of the upstream has been seen."""
        return bool(self._theirs)

    @property
    def is_foreign(self) -> bool:
        """Whether the upstream's chunks have other constant fields than what the client gets."""
        return self._theirs != self._fits

    def resume(self) -> None:
        """Another upstream goes on. The constant fields stay, and the next chunk is to be learned again."""
        self._theirs = ()

    def learn(self, chunk: Chunk, payload: bytes) -> None:
        """Take the constant fields from the first chunk; what it lacks is made up from it."""
        if self.constant:
            self._theirs = (chunk.id, chunk.object, chunk.created, chunk.model)
            if self.is_foreign:
                self._rules.add("constant_envelope")
            return
        self.id = chunk.id or "chatcmpl-" + nine_char_digest(payload.decode("utf-8", "replace"))
        created = 0 if chunk.created is None else chunk.created
        model = chunk.model or self._expectation.model
        self.constant = {"id": self.id, "object": CHUNK_OBJECT, "created": created, "model": model}
        self._fits = self._theirs = (self.id, CHUNK_OBJECT, created, model)

    def fits(self, chunk: Chunk) -> bool:
        """Whether `chunk` has the constant fields, and nothing that is to be stripped but null keys."""
        if (chunk.id, chunk.object, chunk.created, chunk.model) != self._fits:
            self._rules.add("constant_envelope")
            return False
        return self.suits(chunk)

    def suits(self, chunk: Chunk) -> bool:
        """As `fits` for the constant fields that the upstream has, but notes no rule."""
        if (chunk.id, chunk.object, chunk.created, chunk.model) != self._theirs or chunk.usage is not None:
            return False
        return not (self._strips and any(map(_has_vendor_values, chunk.choices or ())))

    def forwarded(self, payload: bytes) -> bytes:
        """Return `payload` as an event, without the null keys that only vLLM has."""
        stripped = self.without_null_keys(payload)
        if len(stripped) < len(payload):
            self.note_stripped()
        return data_event(stripped)

    def note_stripped(self) -> None:
        """Note that keys which only vLLM has were removed."""
        self._rules.add("strip_vendor_fields")

    def without_null_keys(self, payload: bytes) -> bytes:
        """Return `payload`, or a part of it that is cut at a quote of its own, without these keys; notes no rule."""
        return _NULL_KEYS.sub(b"", payload) if self._strips else payload

    def event(
        self, choice: int, delta: Message, reason: str | None, rest: Mapping[str, Any], extras: Mapping[str, Any]
    ) -> bytes:
        """
        Return a chunk of one choice as an event.

        `rest` are other fields of the event it stands for, `extras` of its choice; vendor keys are left out of both.
        """
        body = {"index": choice, "delta": delta, "logprobs": None, **self._stripped(extras), "finish_reason": reason}
        return data_event(encode({**self.constant, "choices": [body], **self._stripped(rest)}))

    def usage_event(self, usage: Mapping[str, Any], rest: Mapping[str, Any]) -> bytes:
        """Return the last chunk of a stream: no choices, only usage."""
        return data_event(encode({**self.constant, "choices": [], "usage": usage, **self._stripped(rest)}))

    def kept(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `fields` without the keys that only vLLM has; notes no rule."""
        return without(fields, VENDOR_KEYS) if self._strips else fields

    def _stripped(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        kept = self.kept(fields)
        if len(kept) < len(fields):
            self.note_stripped()
        return kept


def _has_vendor_values(choice: ChunkChoice) -> bool:
    return choice.token_ids is not None or choice.stop_reason is not None or choice.routed_experts is not None


def without(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return `fields` without those in `names`."""
    return {key: value for key, value in fields.items() if key not in names}
