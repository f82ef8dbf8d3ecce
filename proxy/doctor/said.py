"""
One exchange as the proxy would have it: a request through the rules, sent, and its answer as it came and as the rules
leave it.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from proxy.doctor.asking import Server
from proxy.errors import ProxyError
from proxy.translate.answer_replay import played
from proxy.translate.completion import translate_completion
from proxy.translate.failure import translate_failure
from proxy.translate.profile import Profile
from proxy.translate.request import UpstreamRequest, translate_request
from proxy.translate.stream import StreamTranslator
from proxy.wire.completion import Message, decode_chunk, decode_completion, encode
from proxy.wire.headers import is_event_stream
from proxy.wire.sse import DONE, EventFramer

CHAT: Final = "/v1/chat/completions"
#: The header by which a proxy tells which of its rules changed something.
_REWRITES: Final = "x-proxy-rewrites"
_LARGEST_EVENT: Final = 8 * 1024 * 1024


class Said(NamedTuple):
    """What an answer says in its first choice; `calls` are (id, name, arguments)."""

    text: str = ""
    thoughts: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    finish: str = ""


class Round(NamedTuple):
    """
    One exchange. `refusal` is the server's error, "" where there is none; `fault` is what is wrong with its answer.

    `came` is the answer as the server sent it, `said` as a client of the proxy gets it. `is_streamed` is how it came.
    """

    status: int
    took_s: float
    refusal: str = ""
    fault: str = ""
    came: Said = Said()
    said: Said = Said()
    rules: tuple[str, ...] = ()
    is_streamed: bool = False


async def exchange(server: Server, profile: Profile, body: Mapping[str, Any]) -> Round:
    """
    Send a client's `body` as the proxy would, and return what came of it.

    Raises:
        NoAnswer: no answer came.
    """
    request = translate_request(encode(body), profile)
    started = time.monotonic()
    answer = await server.ask("POST", CHAT, request.body, wait_s=server.timeout_s)
    took_s = time.monotonic() - started
    if answer.status != 200:
        return Round(answer.status, took_s, refusal=translate_failure(answer.status, answer.body).message)
    is_streamed = is_event_stream(answer.headers.get("Content-Type"))
    told = tuple(name for name in answer.headers.get(_REWRITES, "").replace(",", " ").split() if name)
    try:
        came = _said(answer.body, is_streamed=is_streamed)
        out, rules = _repaired(request, answer.body, is_streamed=is_streamed)
        said = _said(out, is_streamed=request.stream)
    except ProxyError as exc:
        return Round(200, took_s, fault=exc.message, is_streamed=is_streamed)
    applied = tuple(dict.fromkeys((*told, *request.rules_applied, *rules)))
    return Round(200, took_s, came=came, said=said, rules=applied, is_streamed=is_streamed)


def _repaired(request: UpstreamRequest, body: bytes, *, is_streamed: bool) -> tuple[bytes, tuple[str, ...]]:
    """
    Return what a client of the proxy gets, and the rules that changed something in the answer.

    Raises:
        ProxyError: the answer is none.
    """
    if not is_streamed:
        whole = translate_completion(body, request.expectation)
        return (played(whole, request.expectation) if request.stream else whole.body), whole.rules_applied
    translator = StreamTranslator(request.expectation)
    out = translator.receive(body) + translator.receive_eof()
    if translator.error is not None:
        raise translator.error
    return out, translator.rules_applied


def _said(body: bytes, *, is_streamed: bool) -> Said:
    messages, finish = [], ""
    for message, reason in _streamed(body) if is_streamed else _whole(body):
        messages.append(message)
        finish = reason or finish
    text = "".join(message.content for message in messages if isinstance(message.content, str))
    thoughts = "".join(message.reasoning or message.reasoning_content or "" for message in messages)
    return Said(text, thoughts, _joined_calls(messages), finish)


def _whole(body: bytes) -> Iterator[tuple[Message, str | None]]:
    for choice in (decode_completion(body).choices or ())[:1]:
        yield choice.message, choice.finish_reason


def _streamed(body: bytes) -> Iterator[tuple[Message, str | None]]:
    framer = EventFramer(_LARGEST_EVENT)
    framer.receive_data(body)
    framer.receive_eof()
    while (event := framer.next_event()) is not None:
        if event.payload is not None and event.payload != DONE:
            for choice in decode_chunk(event.payload).choices or ():
                if choice.index == 0:
                    yield choice.delta, choice.finish_reason


def _joined_calls(messages: list[Message]) -> tuple[tuple[str, str, str], ...]:
    joined: dict[int, list[str]] = {}
    for message in messages:
        for position, call in enumerate(message.tool_calls or ()):
            parts = joined.setdefault(position if call.index is None else call.index, ["", "", ""])
            arguments = call.function.arguments if call.function else None
            parts[0] += call.id if isinstance(call.id, str) else ""
            parts[1] += (call.function.name or "") if call.function else ""
            parts[2] += arguments if isinstance(arguments, str) else ""
    return tuple((id_, name, arguments) for id_, name, arguments in joined.values())
