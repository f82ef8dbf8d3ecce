"""A whole answer of a model server, and what is written down of any answer."""

from typing import Final

from aiohttp import web

from proxy.edge.cache import Visit
from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.record import clipped
from proxy.errors import UpstreamError, UpstreamProtocolError
from proxy.translate.completion import CompletionAnswer, translate_completion
from proxy.translate.request import UpstreamRequest
from proxy.translate.stream import StreamTranslator
from proxy.upstream.answer import Answer, read_whole
from proxy.upstream.attempts import Errand, Sending
from proxy.upstream.error_kind import error_kind
from proxy.wire import headers as wire

#: Arbitrary: far above any answer (a model's longest is some hundred kilobytes), far below a process's memory.
LONGEST_ANSWER: Final = 64 * 1024 * 1024
# What a proxy or a wrong server in between answers with. Another's words are not repeated: they may be anything.
_TYPES: Final = frozenset(
    {"application/json", "application/octet-stream", "application/xml", "text/event-stream", "text/html", "text/plain"}
)


async def answer_whole(edge: Edge, call: Call, errand: Errand, visit: Visit | None) -> web.StreamResponse:
    """
    Answer a request that was asked whole, from the cache if its `visit` finds an answer there.

    Raises:
        ProxyError: there is no answer.
    """
    if visit is not None:
        errand = await visit.enter(errand)
        call.stopwatch.lap("cache")
        if visit.entry is not None:
            return await visit.answer()
    sent_at = call.record.sent_ms = call.stopwatch.ms()
    try:
        async with Sending(edge.pool, errand) as sent:
            note_request(call, sent.request)
            whole = await whole_body(sent.answer)
    finally:
        call.record.upstream_ms = round(call.stopwatch.ms() - sent_at, 3)
    try:
        translated = translate_completion(whole, sent.request.expectation)
    except UpstreamError as exc:
        call.record.upstream_errors += (error_kind(exc, has_begun=True),)
        raise
    note_answer(call, translated)
    if visit is not None:
        visit.keep(translated, sent.request)
    return await call.send(translated.body)


async def whole_body(answer: Answer) -> bytes:
    """
    Return a JSON answer.

    Raises:
        UpstreamError: it is something else, or broke off.
    """
    # Some servers leave the header out; what the body is, its decoder will say.
    if answer.content_type is not None and not wire.is_json(answer.content_type):
        raise unexpected(answer)
    return await read_whole(answer, LONGEST_ANSWER)


def unexpected(answer: Answer) -> UpstreamProtocolError:
    """Return the error of an answer whose type is not the one that was asked for."""
    kind = wire.media_type(answer.content_type)
    named = kind if kind in _TYPES else "no type" if not kind else "another type"
    return UpstreamProtocolError(f"The model server answered with {named} where it should not.")


def note_request(call: Call, request: UpstreamRequest) -> None:
    """Write down what is asked."""
    record = call.record
    record.model = clipped(request.model)
    record.stream = request.stream
    record.rules = request.rules_applied if call.front is None else call.front.rules + request.rules_applied


def note_answer(call: Call, answer: CompletionAnswer | StreamTranslator) -> None:
    """Write down what was answered."""
    record = call.record
    record.rules = tuple(dict.fromkeys(record.rules + answer.rules_applied))
    record.calls_recovered, record.calls_malformed = answer.calls_recovered, answer.calls_malformed
    record.finish_reason = ",".join(answer.finish_reasons) or None
    if answer.usage is not None:
        record.tokens_in = _tokens(answer.usage.prompt_tokens)
        record.tokens_out = _tokens(answer.usage.completion_tokens)


#: Arbitrary: far above what a model reads or writes, and far below what would hold a principal up for ever.
_MOST_TOKENS: Final = 2**31


def _tokens(counted: int | None) -> int | None:
    """Return what a model server counted; None where that cannot be."""
    return counted if counted is not None and 0 <= counted <= _MOST_TOKENS else None
