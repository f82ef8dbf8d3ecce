"""Fuzz target: the translation of a request's body (proxy.translate.request), for every profile, strict and not."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from proxy.errors import ClientError
from proxy.translate import request
from proxy.translate.profile import PROFILE_NAMES, Profile, build_profile
from proxy.translate.request import UpstreamRequest, translate_request

#: The profiles as they are, and two whose options pick the rules that none of them has (tests/fuzz/test_corpus.py).
PROFILES: Mapping[str, Profile] = {
    **{name: build_profile(name) for name in PROFILE_NAMES},
    "by other options": build_profile(
        "vllm-mistral-tokenizer",
        {
            "message_name": "prefix",
            "attachments": "keep",
            "reasoning_history": "keep",
            "invalid_args": "wrap",
            "orphan_results": "synthesize_call",
            "id_mode": "keep",
            "mid_system": "hoist",
            "legacy_v3": True,
            "trailing_assistant": "continue",
            "downgrade_required": True,
            "none_strips_tools": False,
            "default_temperature": 0.15,
            "upstream_stream": "never_with_tools",
            "param_drop": ("user",),
            "param_set": {"top_k": 5},
        },
    ),
    "with thoughts": build_profile(
        "mistral-api", {"reasoning_history": "chunks", "flatten_text": False, "vision": False, "merge_same_role": True}
    ),
}
_LONGEST_NUMBER = 4300
#: From so many brackets on, a body may be nested so deeply that how deep its reader's caller is decides what it takes.
_MOST_BRACKETS = 900
_NINE = re.compile(r"[A-Za-z0-9]{9}")
#: What every version of vLLM and the hosted API take.
_ROLES = frozenset({"system", "user", "assistant", "tool"})
_RESULT_ROLES = ("tool", "function", "tool_results")


class Outcome(NamedTuple):
    """What became of a body: a request, or the words in which it was refused."""

    request: UpstreamRequest | None
    refusal: tuple[str, str | None, str | int | None]

    @property
    def rules(self) -> tuple[str, ...]:
        return self.request.rules_applied if self.request is not None else ()


def check(data: bytes) -> str:
    """Assert what holds for every body under every profile; return whether one of them translated it."""
    words = {_check(data, name, profile) for name, profile in PROFILES.items()}
    return "translated" if "translated" in words else "refused"


def _check(data: bytes, name: str, profile: Profile) -> str:
    first, from_memory = outcome(data, profile), outcome(data, profile)
    plainly, strictly = _plain_outcome(data, profile), outcome(data, profile, strict=True)
    if data.count(b"[") + data.count(b"{") > _MOST_BRACKETS:
        return "refused" if first.request is None else "translated"
    assert from_memory == first, f"{name}: from memory, another outcome"
    assert plainly == first, f"{name}: the plain way, another outcome"
    if first.request is None:
        assert strictly.request is None, f"{name}: only strict mode takes it"
        return "refused"
    _check_strict(name, first, strictly)
    wire = read(first.request.body)
    if not profile.rules:
        assert first.request.body == data, f"{name}: not the bytes that came"
        return "translated"
    again = outcome(first.request.body, profile)
    assert again.request is not None, f"{name}: its own output is refused: {again.refusal}"
    assert again.rules == (), f"{name}: rules found something to do on their own output: {again.rules}"
    # What a message has to be decoded for (`prefix` at api.mistral.ai) may write an escaped character as it is.
    is_same = again.request.body == first.request.body or read(again.request.body) == wire
    assert is_same, f"{name}: its own output is changed"
    _check_messages(wire["messages"], profile)
    _check_nothing_lost(_loads(data), wire)
    return "translated"


def outcome(data: bytes, profile: Profile, *, strict: bool = False) -> Outcome:
    """Translate; nothing but a ClientError may be raised."""
    try:
        return Outcome(translate_request(data, profile, strict=strict), ("", None, None))
    except ClientError as error:
        error.message.encode()  # it goes out as JSON
        return Outcome(None, (error.message, error.param, error.code))


def _plain_outcome(data: bytes, profile: Profile) -> Outcome:
    """The outcome without the hot path's shortcuts."""
    most, request.MOST_MESSAGES = request.MOST_MESSAGES, 0
    try:
        return outcome(data, profile)
    finally:
        request.MOST_MESSAGES = most


def read(body: bytes) -> dict[str, Any]:
    """Return what a body of the wire says: one object, in UTF-8, without NaN."""
    value = _loads(body)
    assert isinstance(value, dict)
    return value


def is_json(text: bytes) -> bool:
    """Whether a text is JSON as Python's parser reads it."""
    try:
        _loads(text)
    except (ValueError, AssertionError, RecursionError):
        return False
    return True


def _loads(body: bytes) -> Any:
    return json.loads(body.decode(), parse_int=_number, parse_constant=_no_constant)


def _number(text: str) -> float:
    """Python converts no number of more than 4,300 digits."""
    return int(text) if len(text) <= _LONGEST_NUMBER else math.inf


def _no_constant(text: str) -> None:
    raise AssertionError(f"{text} is on the wire")


def _check_strict(name: str, first: Outcome, strictly: Outcome) -> None:
    """Strict mode gives the same bytes, or it refuses what rules would change."""
    assert first.request is not None
    if strictly.request is None:
        assert first.rules, f"{name}: strict mode refuses what no rule changes: {strictly.refusal}"
    else:
        assert strictly.request == first.request, f"{name}: strict mode gives other bytes"


def _check_messages(messages: list[dict[str, Any]], profile: Profile) -> None:
    """Known roles; every call has one result behind it, in call order; ids as the option says."""
    due: list[str] = []
    for message in messages:
        assert message["role"] in _ROLES
        if message["role"] == "tool":
            assert due, "a result without a call"
            assert message["tool_call_id"] == due.pop(0), "a result out of order"
            continue
        assert not due, "a call without a result"
        due = [call["id"] for call in message.get("tool_calls", ())]
        assert len(set(due)) == len(due), "an id twice in a turn"
        if profile.options.id_mode == "hash9":
            assert all(map(_NINE.fullmatch, due)), "an id that is not nine letters or digits"
        for call in message.get("tool_calls", ()):
            assert isinstance(json.loads(call["function"]["arguments"]), dict), "arguments that are no object"
    assert not due, "a call without a result"


def _check_nothing_lost(sent: dict[str, Any], wire: dict[str, Any]) -> None:
    """
    Every text of a user is on the wire, in the order in which it was said.

    White space says nothing: what is only that may go where messages are joined. The texts of others are there too,
    but where a rule moves results to their calls, or system messages to the front, their order is not the client's.
    A result's list may be data that is no text: its JSON text is sent, which is not looked for here.
    """
    on_wire = "\n".join(text for message in wire["messages"] for text in _texts(message))
    at = 0
    for message in sent["messages"]:
        is_list = isinstance(message.get("content"), list)
        for text in filter(str.strip, _texts(message)):
            if message["role"] == "user":
                found = on_wire.find(text, at)
                assert found >= 0, "a text of a user is lost, or out of order"
                at = found + len(text)
            elif not (is_list and message["role"] in _RESULT_ROLES):
                assert text in on_wire, f"a text of {message['role']} is lost"


def _texts(message: dict[str, Any]) -> Iterator[str]:
    """Yield what a message says: a string content, and the text parts of a list."""
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from filter(None, map(_text_of, content))


def _text_of(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, dict) and part.get("type") in ("text", "input_text", None) else None
    return text if isinstance(text, str) else None
