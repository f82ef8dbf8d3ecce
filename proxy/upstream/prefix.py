"""
What a request says about where it should go: its model, its session, and hashes of its prompt.

    tools  system  user | assistant  tool | assistant  tool  tool  user |
    '------ opening ----'                 |                             |
    '------ root ------------------'      |                             |
    '------ chain[0], the turn before ----'                             |
    '------ chain[1], this prompt --------------------------------------'

An agent sends the whole conversation with every turn, the earlier messages byte by byte as before. So what stood before
the last answer was the prompt of the turn before, and the replica that ran it has it in its cache.

The root is the same for all turns of a conversation after its first. It reaches through the first answer, because
openings are often alike (the same task for several agents, or an agent that starts with what it knows of the
repository) and answers hardly ever are: ids of calls are random.

A body that cannot be read says nothing; translation refuses it later, and says why.
"""

import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from proxy.upstream.choice import Ask, digest
from proxy.wire.body import MOST_VALUES, has_too_many_values

#: Arbitrary; reading so many takes up to 4 ms, in which nothing else is served. Longer conversations have no hashes.
_MOST_MESSAGES: Final = 4_000


class Aim(NamedTuple):
    """What the choice of a replica depends on; `model` is "" if none is named, `ask.number` is not set."""

    model: str
    ask: Ask


class _Body(msgspec.Struct, gc=False):
    messages: list[Raw] = []
    tools: Raw = Raw(b"")
    model: str | None = None
    user: str | None = None


class _Message(msgspec.Struct, gc=False):
    role: str = ""


_body_decoder: Final = msgspec.json.Decoder(_Body)
_message_decoder: Final = msgspec.json.Decoder(_Message)


def aim_of(body: bytes, session: str | None) -> Aim:
    """Read a chat request's body; `session` is the session header's value, instead of which `user` counts."""
    try:
        read = _Body() if has_too_many_values(body, MOST_VALUES) else _body_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        read = _Body()
    chain, root = _hashes(read)
    owner = session or read.user or ""
    # A header's bytes that are not UTF-8 arrive as lone surrogates.
    return Aim(read.model or "", Ask(session=owner.encode("utf-8", "surrogateescape"), chain=chain, root=root))


def _hashes(body: _Body) -> tuple[tuple[int, ...], int]:
    """
    Return the prompt's chain and root.

    CRC-32 is enough: what two prompts with one hash lose is a hit in a cache, and a process that remembers 65,536
    prompts takes a new one for a known one once in 65,536 times. Of the 63 KB of benchmarks/bodies.py it takes
    15 µs, BLAKE2b 91 µs; all of `aim_of` takes 68 µs, of which msgspec's decoding takes 34 µs (2026-11-26).
    """
    messages = body.messages
    if not 0 < len(messages) <= _MOST_MESSAGES:
        return (), 0
    root_ends, before_ends = _end_of_root(messages), _end_of_turn_before(messages)
    root = before = state = zlib.crc32(body.tools)
    for end, message in enumerate(messages, 1):
        state = zlib.crc32(message, state)
        if end == root_ends:
            root = state
        if end == before_ends:
            before = state
    return (before, state) if before_ends else (state,), digest(root.to_bytes(4, "big"))


def _end_of_root(messages: Sequence[Raw]) -> int:
    """Return where the first answer ends, or the messages do; an assistant that greets a user answers nothing."""
    is_asked = False
    for end, message in enumerate(messages, 1):
        role = _role(message)
        if is_asked and role == "assistant":
            return end
        is_asked = is_asked or role not in ("system", "developer", "assistant")
    return len(messages)


def _end_of_turn_before(messages: Sequence[Raw]) -> int:
    """Return where the last answer begins; 0 if there is none. Some clients send an answer in several messages."""
    end = len(messages)
    while end and _role(messages[end - 1]) != "assistant":
        end -= 1
    while end and _role(messages[end - 1]) == "assistant":
        end -= 1
    return end


def _role(message: Raw) -> str:
    try:
        return _message_decoder.decode(message).role
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
