"""Fuzz target: the translator of streams (proxy.translate.stream), under several requests and profiles."""

import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from proxy.errors import ProxyError, error_event
from proxy.translate.expectation import Expectation
from proxy.translate.profile import build_profile
from proxy.translate.stream import State, StreamTranslator
from proxy.wire.sse import DONE, DONE_EVENT
from tests.fuzz.reference import BOM, payloads, pieces

#: Arbitrary: over every event of the corpus, and near enough to be reached by a mutation.
MAX_EVENT_BYTES = 8 * 1024
PASSTHROUGH = "passthrough"
TOOLS = {"get_weather": "get weather", "get_time": "get_time"}


def _expect(profile: str, options: Mapping[str, Any], **facts: Any) -> Expectation:
    return Expectation(options=build_profile(profile, options).options, model="devstral", stream=True, **facts)


#: What the request of the answer was: each input is read as the answer to each of these.
EXPECTATIONS: Mapping[str, Expectation] = {
    "tools": _expect("vllm-mistral-tokenizer", {}, tool_names=TOOLS, usage_wanted=True),
    "no tools": _expect("vllm-mistral-tokenizer", {}),
    "whole calls": _expect(
        "vllm-mistral-tokenizer",
        {"tool_stream": "whole", "bad_args": "repair", "trailing_text": "drop", "client_ids": "call_prefix"},
        tool_names=TOOLS,
        usage_wanted=True,
    ),
    "asked again": _expect("vllm-mistral-tokenizer", {"retry_swallowed": "non_stream"}, tool_names=TOOLS),
    "template": _expect("vllm-hf-template", {}, tool_names=TOOLS, tool_choice="required", usage_wanted=True),
    "hosted": _expect("mistral-api", {"reasoning_field": "content"}, tool_names=TOOLS, echoed_prefix="Hello"),
    "old clients": _expect(
        "vllm-hf-template",
        {"reasoning_field": "reasoning_content", "named_finish": "stop"},
        tool_names=TOOLS,
        custom_tools=frozenset({"get_time"}),
        legacy_functions=True,
        tool_choice="named",
    ),
    PASSTHROUGH: _expect(PASSTHROUGH, {}, tool_names=TOOLS, usage_wanted=True),
}


class Played(NamedTuple):
    """What came out of one stream, and what is known of it afterwards."""

    out: bytes
    state: State
    error: ProxyError | None
    wants_whole: bool
    facts: tuple[Any, ...]


def check(data: bytes) -> None:
    """Assert what holds for every stream of bytes."""
    for name, expectation in EXPECTATIONS.items():
        at_once = played([data], expectation)
        assert _same(played(pieces(data, 1), expectation), at_once), f"{name}: byte by byte, another answer"
        cut = pieces(data, 2 + zlib.crc32(data) % 61)
        assert _same(played(cut, expectation), at_once), f"{name}: in pieces, another answer"
        _check_end(data, at_once)
        if name == PASSTHROUGH:
            _check_forwarded(data, at_once)
        else:
            _check_events(data, at_once)


def played(cuts: list[bytes], expectation: Expectation) -> Played:
    """Translate a stream cut like this, to its end. Nothing but a ProxyError, in `error`, may go wrong."""
    translator = StreamTranslator(expectation, max_event_bytes=MAX_EVENT_BYTES)
    out = []
    for cut in cuts:
        is_over = translator.state >= State.CLOSED
        out.append(translator.receive(cut))
        assert not (is_over and out[-1]), "something came after the end or after an error"
        assert not out[-1] or out[-1].endswith((b"\n", b"\r")), "an event was given out in part"
    out.append(translator.receive_eof())
    assert not translator.receive(b'data: {"choices":[]}\n\n') + translator.receive_eof(), "something came after EOF"
    facts = (translator.usage, translator.finish_reasons, translator.rules_applied, translator.events)
    return Played(b"".join(out), translator.state, translator.error, translator.wants_whole, facts)


def _same(one: Played, other: Played) -> bool:
    errors = [error and (type(error), error.message, error.code) for error in (one.error, other.error)]
    return one._replace(error=None) == other._replace(error=None) and errors[0] == errors[1]


def _check_end(data: bytes, found: Played) -> None:
    """It ends clean, or in an error that the client sees; and clean only if the upstream said so."""
    assert found.state is (State.CLOSED if found.error is None else State.FAILED)
    if found.error is not None:
        assert isinstance(found.error, ProxyError)
        end = b"" if found.wants_whole else error_event(found.error) + DONE_EVENT
        assert found.out.endswith(end), "the client is not told"
    if found.error is None and BOM not in data[1:]:
        assert DONE in payloads(data), "an end was invented"


def _check_forwarded(data: bytes, found: Played) -> None:
    out = found.out if found.error is None else found.out.removesuffix(error_event(found.error) + DONE_EVENT)
    assert (data + b"\n" if data.endswith(b"\r") else data).startswith(out), "not the bytes that came"


def _check_events(data: bytes, found: Played) -> None:
    """Whole events; `[DONE]` once and last; each choice has one role, first, and one finish reason, last."""
    *blocks, rest = found.out.split(b"\n\n")
    assert rest == b"", "an event was given out in part"
    events = [block.removeprefix(b"data: ") for block in blocks if not _is_comment(block)]
    if not found.wants_whole:
        assert events.pop() == DONE
    assert DONE not in events
    chunks = [json.loads(event.decode()) for event in events]
    if found.error is not None and not found.wants_whole:
        assert "error" in chunks.pop()
    finished = _finished([choice for chunk in chunks for choice in chunk["choices"]])
    if BOM not in data[1:]:
        assert finished <= _finished_upstream(data), "a finish reason was invented"


def _is_comment(block: bytes) -> bool:
    return block.startswith(b":") and all(line.startswith(b":") for line in block.split(b"\n"))


def _finished(choices: list[dict[str, Any]]) -> set[int]:
    """Return which choices have their finish reason, read by a client that takes missing fields for their default."""
    begun: set[int] = set()
    finished: set[int] = set()
    for choice in choices:
        index, delta = choice.get("index", 0), choice.get("delta", {})
        assert ("role" in delta) is (index not in begun), "one role, first"
        assert index not in finished, "something came after the finish reason"
        begun.add(index)
        if choice.get("finish_reason"):
            finished.add(index)
    return finished


def _finished_upstream(data: bytes) -> set[int]:
    """Return the choices to which the upstream itself gave a finish reason, in any event that can be read."""
    found: set[int] = set()
    for payload in payloads(data):
        try:
            chunk = json.loads(payload.decode(errors="replace"), strict=False, parse_int=float)
        except (ValueError, RecursionError):
            continue
        choices = chunk.get("choices") if isinstance(chunk, dict) else None
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("finish_reason"):
                found.add(choice.get("index", 0))
    return found
