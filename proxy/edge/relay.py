"""
POST /v1/chat/completions: one request through the core to a model server, and its answer back.

    its turn -> read body -> choose -> translate -> send -+- asked whole ----> read, translate, answer
                                                          +- asked streamed -> piece by piece through the translator
                                                          +- an error -------> translated

The client's status line waits for the first bytes that a stream has for it: until then an error, also one that the
model server sends as an event, gets a real status. Clients have been seen to ignore an error event inside a 200.
`await call.write()` before the next read is the backpressure: a client that reads slowly slows the model server down.
Where both sides are direct, pieces are pushed: the socket of the model server calls the translator, the translator's
bytes go into the client's transport, and no task is switched. A client that reads slowly then pauses the model
server's socket.
"""

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from proxy.config import Config
from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.heartbeat import Heartbeat
from proxy.edge.intake import read_json_body
from proxy.edge.question import Question
from proxy.edge.record import clipped, note_error
from proxy.errors import ProxyError, UpstreamError, UpstreamProtocolError
from proxy.translate.answer_replay import played
from proxy.translate.completion import CompletionAnswer, translate_completion
from proxy.translate.request import UpstreamRequest
from proxy.translate.stream import State, StreamTranslator
from proxy.upstream.answer import Answer, read_whole
from proxy.upstream.attempts import Errand, Sending
from proxy.upstream.exchange import Exchange
from proxy.upstream.shortcuts import takes
from proxy.wire import headers as wire

#: Arbitrary: far above any answer (a model's longest is some hundred kilobytes), far below a process's memory.
LONGEST_ANSWER: Final = 64 * 1024 * 1024


async def chat(edge: Edge, call: Call) -> web.StreamResponse:
    """
    Answer a chat completion.

    Raises:
        ProxyError: before or after the status line went out; the boundary knows which.
    """
    config = edge.config
    async with edge.admission.place(edge.admission.priority(call.request.headers)) as place:
        call.record.queue_ms = place.waited_ms
        body = await read_json_body(call.request, config, place)
        call.record.bytes_in = len(body)
        question = Question(edge, call, body)
        errand, request = await question.errand()
        _note_request(call, request)
        sent_at = call.stopwatch.ms()
        try:
            if request.stream:
                async with Heartbeat(call, config.keep_alive_s, edge.sweep):
                    return await _answer_streamed(edge, call, question, errand, config)
            async with Sending(edge.pool, errand) as sent:
                _note_request(call, sent.request)
                whole = await whole_body(sent.answer)
        finally:
            call.record.upstream_ms = round(call.stopwatch.ms() - sent_at, 3)
        translated = translate_completion(whole, sent.request.expectation)
        _note_answer(call, translated)
        return await call.send(translated.body)


def _note_request(call: Call, request: UpstreamRequest) -> None:
    record = call.record
    record.model = clipped(request.model)
    record.stream = request.stream
    record.rules = request.rules_applied


def _note_answer(call: Call, answer: CompletionAnswer | StreamTranslator) -> None:
    record = call.record
    record.rules = tuple(dict.fromkeys(record.rules + answer.rules_applied))
    record.finish_reason = ",".join(answer.finish_reasons) or None
    if answer.usage is not None:
        record.tokens_in, record.tokens_out = answer.usage.prompt_tokens, answer.usage.completion_tokens


async def whole_body(answer: Answer) -> bytes:
    """
    Return a JSON answer.

    Raises:
        UpstreamError: it is something else, or broke off.
    """
    # Some servers leave the header out; what the body is, its decoder will say.
    if answer.content_type is not None and not wire.is_json(answer.content_type):
        raise _unexpected(answer)
    return await read_whole(answer, LONGEST_ANSWER)


async def _answer_streamed(
    edge: Edge, call: Call, question: Question, errand: Errand, config: Config
) -> web.StreamResponse:
    async with Sending(edge.pool, errand) as sent:
        answer, request = sent.answer, sent.request
        _note_request(call, request)
        if not request.upstream_stream or wire.is_json(answer.content_type):
            return await _played(call, answer, request, {})
        if not wire.is_event_stream(answer.content_type):
            raise _unexpected(answer)
        translator = StreamTranslator(request.expectation, max_event_bytes=config.max_event_bytes)
        try:
            response = await _relayed(call, answer, translator, config)
        finally:
            sent.failure = translator.error if isinstance(translator.error, UpstreamError) else None
            call.record.events = translator.events
            _note_answer(call, translator)
    if response is None:  # the parser of the model server swallowed the answer: asked whole, it may show it (R4)
        async with Sending(edge.pool, question.asked_whole(errand, sent.replica)) as sent:
            return await _played(call, sent.answer, sent.request, translator.begun)
    return response


async def _played(call: Call, answer: Answer, request: UpstreamRequest, begun: Mapping[str, Any]) -> web.StreamResponse:
    """Give a client that streams the whole answer that the model server was asked for."""
    whole = translate_completion(await whole_body(answer), request.expectation)
    _note_answer(call, whole)
    await call.write(played(whole, request.expectation, begun))
    return await call.end()


async def _relayed(
    call: Call, answer: Answer, translator: StreamTranslator, config: Config
) -> web.StreamResponse | None:
    """
    Relay a stream until the translator is done with it: after `[DONE]`, the upstream's end, or an error.

    Returns None when nothing was said and the answer is to be asked for again.
    """
    if isinstance(answer, Exchange) and call.can_put and takes(config, "push"):
        last = await _pushed(call, answer, translator)
    else:
        last = await _pulled(call, answer, translator)
    error = translator.error
    if error is not None and not translator.wants_whole:
        return await _broken(call, answer, error, last)
    if last:
        await call.write(last)
    if error is not None:
        return None
    response = await call.end()
    await answer.settle()
    return response


async def _pulled(call: Call, answer: Answer, translator: StreamTranslator) -> bytes:
    """Relay until the end or an error; return what has not been written because of it."""
    receive, closed = translator.receive, State.CLOSED
    while translator.state is not closed:
        piece = await answer.read_some()
        out = receive(piece) if piece else translator.receive_eof()
        if translator.error is not None:
            return out
        if out:
            await call.write(out)
        if not piece:
            break
    return b""


async def _pushed(call: Call, answer: Exchange, translator: StreamTranslator) -> bytes:
    """`_pulled`, without a switch of tasks."""
    receive, closed, put = translator.receive, State.CLOSED, call.put
    last = b""

    def sink(piece: bytes) -> bool:
        nonlocal last
        out = receive(piece) if piece else translator.receive_eof()
        if translator.error is not None:
            last = out
            return False
        if out and not put(out):
            answer.pause()
            call.when_drained(answer.resume)
        return translator.state is not closed

    await answer.pour(sink)
    return last


async def _broken(call: Call, answer: Answer, error: ProxyError, out: bytes) -> web.StreamResponse:
    """End a stream that failed: `out` holds what came before the error, and the error as an event."""
    answer.close()
    if not call.has_begun:
        raise error
    note_error(call.record, error)
    await call.write(out)
    return await call.end()


def _unexpected(answer: Answer) -> UpstreamProtocolError:
    kind = clipped(wire.media_type(answer.content_type)) or "nothing"
    return UpstreamProtocolError(f"The model server answered with {kind} where it should not.")
