"""
Ask one model server what it is and what it tolerates, at the start and after it was away (Q29).

Nothing here generates: /version, /v1/models, and /tokenize some twenty times, one after the other. A vLLM 0.32 on two
cores took 41 to 100 ms for all of it (2026-11-26). What the answers mean is `translate.capabilities`.
"""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from proxy.errors import UpstreamError
from proxy.translate.capabilities import PROBES, Findings, Reply, findings_of, may_ask

T = TypeVar("T")

#: Method, path and body; status and body. It owns deadlines and the bound on what is read.
Ask = Callable[[str, str, bytes | None], Awaitable[Reply]]

#: Arbitrary: no name in an answer of a model server needs more.
_LONGEST_NAME: Final = 256


class _Version(msgspec.Struct):
    version: str


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def probe(ask: Ask) -> Findings:
    """
    Return what `ask` gets to know. No status and no body raises; an `UpstreamError` ends it with what is known so far.

    A server without /tokenize, or with a key that is not ours, is asked three times in all.
    """
    version = model = None
    is_complete = False
    replies: dict[str, Reply] = {}
    with contextlib.suppress(UpstreamError):
        version = _version(await ask("GET", "/version", None))
        model = _first_model(await ask("GET", "/v1/models", None))
        for question in PROBES:
            if may_ask(question, replies):
                replies[question.name] = await ask("POST", "/tokenize", question.body(model))
        is_complete = True
    return findings_of(version, model, replies, is_complete=is_complete)


def _version(reply: Reply) -> str | None:
    found = _decoded(reply, _Version)
    return found.version[:_LONGEST_NAME] if found else None


def _first_model(reply: Reply) -> str | None:
    """Return the first model's name: the base model, before its adapters."""
    found = _decoded(reply, _Models)
    return next((model.id for model in found.data if 0 < len(model.id) <= _LONGEST_NAME), None) if found else None


def _decoded(reply: Reply, kind: type[T]) -> T | None:
    """Return the body of a 200 as `kind`; None for everything else: an error, a page of HTML, other JSON."""
    try:
        return msgspec.json.decode(reply[1], type=kind) if reply[0] == 200 else None
    except (msgspec.DecodeError, UnicodeError):
        return None
