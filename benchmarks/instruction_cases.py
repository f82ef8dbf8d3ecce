"""
The cases whose instructions are counted, and their inputs.

A warm request is the same body every time. In a cold one every text, id, name and argument differs from those of the
runs before, so nothing that was remembered helps: what memos save is the difference between the two. Answers and
streams differ from run to run in their id, as in life, and in nothing else.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from benchmarks.answers import STREAMS, whole_answer
from benchmarks.bodies import all_bodies, encode
from benchmarks.counted import Work
from proxy.config import Config

PIECES: Final = 200
#: The most that is read from a socket at once, in bytes.
READ_SIZE: Final = 64 * 1024
#: How many runs are counted. As many come before: by then the interpreter has specialized its bytecode.
REQUEST_RUNS: Final[Mapping[str, int]] = MappingProxyType({"short": 40, "agentic-clean": 8, "agentic": 6, "huge": 2})
ANSWER_RUNS: Final = 40
STREAM_RUNS: Final = 4

#: The strings of a body that a cold request has anew. The others (roles, types, words of a schema) recur in life too.
_TEXTS: Final = frozenset({"content", "text", "description"})
_IDS: Final = frozenset({"id", "tool_call_id"})


class Case(NamedTuple):
    """What is counted; `per` is the unit of its figure, and one run is `units` of them."""

    per: str
    units: int
    make_work: Callable[[], Work]


def variant(value: Any, number: int) -> Any:
    """
    Return the decoded body as of another conversation: no text, id, name or argument is that of another `number`.

    Texts and ids stay as long as they are. What is equal stays equal, so results belong to the same calls.
    `number` is below 1000.
    """
    if isinstance(value, list):
        return [variant(item, number) for item in value]
    if isinstance(value, dict):
        return {key: _member(key, item, number) for key, item in value.items()}
    return value


def _member(key: str, value: Any, number: int) -> Any:
    if not isinstance(value, str):
        return variant(value, number)
    if key in _TEXTS:
        return f"{number:03d} {value[4:]}"
    if key in _IDS:
        return f"{value[:-3]}{number:03d}"
    if key == "name":
        return f"{value}_{number:03d}"
    if key == "arguments":
        return f'{{"turn": "{number:03d}", {value[1:]}'
    return value


def warm_request(name: str) -> Work:
    return _work("request", "short", [[_bodies()[name]]] * 2 * REQUEST_RUNS[name])


def cold_request(name: str) -> Work:
    body = json.loads(_bodies()[name])
    return _work("request", "short", [[encode(variant(body, i))] for i in range(2 * REQUEST_RUNS[name])])


def whole() -> Work:
    return _work("answer", "short", [_with_id([whole_answer()], i) for i in range(2 * ANSWER_RUNS)])


def stream_by_event(kind: str) -> Work:
    """Each event arrives by itself."""
    return _work("stream", "call-burst", _streams(kind))


def stream_by_read(kind: str) -> Work:
    """Events arrive together, as many as one read takes."""
    return _work("stream", "call-burst", [_in_reads(b"".join(events)) for events in _streams(kind)])


def _in_reads(stream: bytes) -> list[bytes]:
    return [stream[at : at + READ_SIZE] for at in range(0, len(stream), READ_SIZE)]


def _streams(kind: str) -> list[list[bytes]]:
    events = STREAMS[kind](PIECES)
    return [_with_id(events, i) for i in range(2 * STREAM_RUNS)]


def _with_id(pieces: list[bytes], number: int) -> list[bytes]:
    return [piece.replace(b'"id":"chatcmpl-4f1', b'"id":"chatcmpl-%03d' % number) for piece in pieces]


def _work(does: str, request: str, runs: list[list[bytes]]) -> Work:
    """Half of the runs are the warm-up."""
    return {
        "does": does,
        "profile": Config().profile,
        "request": _bodies()[request],
        "warm_up": runs[: len(runs) // 2],
        "counted": runs[len(runs) // 2 :],
    }


@cache
def _bodies() -> dict[str, bytes]:
    return all_bodies()


def _all_cases() -> Iterable[tuple[str, Case]]:
    for name in REQUEST_RUNS:
        yield f"request-{name}-warm", Case("request", 1, partial(warm_request, name))
        yield f"request-{name}-cold", Case("request", 1, partial(cold_request, name))
    yield "whole-answer", Case("answer", 1, whole)
    for kind, make in STREAMS.items():
        short, events = kind.replace(" ", "-"), len(make(PIECES))
        yield f"stream-{short}-by-event", Case("event", events, partial(stream_by_event, kind))
        yield f"stream-{short}-by-read", Case("event", events, partial(stream_by_read, kind))


CASES: Final[Mapping[str, Case]] = MappingProxyType(dict(_all_cases()))
