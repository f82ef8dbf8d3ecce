"""
POST /v1/chat/completions: one request through the core to the model server, and its answer back.

    read body -> translate -> send -> status -+- 200, asked whole ---> read, translate, answer
                                              +- 200, asked streamed -> piece by piece through the translator
                                              +- anything else ------> its error, translated

The client's status line waits for the first bytes that a stream has for it: until then an error, also one that the
model server sends as an event, gets a real status. Clients have been seen to ignore an error event inside a 200.
`await call.write()` before the next read is the backpressure: a client that reads slowly slows the model server down.
"""

from typing import Final

from aiohttp import web

from proxy.config import Config
from proxy.edge.call import Call
from proxy.edge.heartbeat import Heartbeat
from proxy.edge.intake import read_json_body
from proxy.edge.record import clipped, note_error
from proxy.errors import ProxyError, UpstreamProtocolError
from proxy.translate.completion import translate_completion
from proxy.translate.failure import translate_failure
from proxy.translate.profile import Profile
from proxy.translate.request import UpstreamRequest, translate_request
from proxy.translate.stream import State, StreamTranslator, completion_as_stream
from proxy.upstream.client import Answer, Upstream
from proxy.wire import headers as wire
from proxy.wire.completion import Usage

#: Arbitrary: far above any answer (a model's longest is some hundred kilobytes), far below a process's memory.
LONGEST_ANSWER: Final = 64 * 1024 * 1024
LONGEST_FAILURE: Final = 1024 * 1024


async def chat(call: Call, config: Config, profile: Profile, upstream: Upstream) -> web.StreamResponse:
    """
    Answer a chat completion.

    Raises:
        ProxyError: before or after the status line went out; the boundary knows which.
    """
    body = await read_json_body(call.request, config)
    call.record.bytes_in = len(body)
    request = translate_request(body, profile, strict=config.strict)
    _note_request(call, request, profile)
    traceparent = wire.traceparent(call.request.headers.get("traceparent"))
    sent_at = call.stopwatch.ms()
    try:
        if request.stream:
            async with (
                Heartbeat(call, config.keep_alive_s),
                upstream.send(request, call.record.request_id, traceparent) as answer,
            ):
                return await _streamed(call, request, answer, config)
        async with upstream.send(request, call.record.request_id, traceparent) as answer:
            whole = await _whole_body(await _accepted(answer))
    finally:
        call.record.upstream_ms = round(call.stopwatch.ms() - sent_at, 3)
    return await _send_whole(call, request, whole)


async def models(call: Call, upstream: Upstream) -> web.StreamResponse:
    """Answer with the model server's own list of models."""
    async with upstream.models(call.record.request_id) as answer:
        body = await _whole_body(await _accepted(answer))
    return await call.send(body)


def _note_request(call: Call, request: UpstreamRequest, profile: Profile) -> None:
    record = call.record
    record.model = clipped(request.model)
    record.profile = profile.name
    record.stream = request.stream
    record.rules = request.rules_applied


def _note_answer(call: Call, usage: Usage | None, finish_reasons: tuple[str, ...], rules: tuple[str, ...]) -> None:
    record = call.record
    record.rules = tuple(dict.fromkeys(record.rules + rules))
    record.finish_reason = ",".join(finish_reasons) or None
    if usage is not None:
        record.tokens_in, record.tokens_out = usage.prompt_tokens, usage.completion_tokens


async def _accepted(answer: Answer) -> Answer:
    """
    Return `answer` if the model server took the request.

    Raises:
        UpstreamError: the error that any other status than 200 stands for.
    """
    if answer.status == 200:
        return answer
    if answer.status < 400:
        raise UpstreamProtocolError(f"The model server answered with status {answer.status}, which is not followed.")
    error = translate_failure(answer.status, await answer.read_at_most(LONGEST_FAILURE))
    if answer.retry_after is not None:
        error.headers["Retry-After"] = answer.retry_after
    raise error


async def _whole_body(answer: Answer) -> bytes:
    # Some servers leave the header out; what the body is, its decoder will say.
    if answer.content_type is not None and not wire.is_json(answer.content_type):
        raise _unexpected(answer)
    return await answer.read(LONGEST_ANSWER)


async def _send_whole(call: Call, request: UpstreamRequest, body: bytes) -> web.StreamResponse:
    answer = translate_completion(body, request.expectation)
    _note_answer(call, answer.usage, answer.finish_reasons, answer.rules_applied)
    return await call.send(answer.body)


async def _streamed(call: Call, request: UpstreamRequest, answer: Answer, config: Config) -> web.StreamResponse:
    await _accepted(answer)
    if not request.upstream_stream or wire.is_json(answer.content_type):
        await call.write(completion_as_stream(await _whole_body(answer), request.expectation))
        return await call.end()
    if not wire.is_event_stream(answer.content_type):
        raise _unexpected(answer)
    translator = StreamTranslator(request.expectation, max_event_bytes=config.max_event_bytes)
    try:
        return await _relayed(call, answer, translator)
    finally:
        call.record.events = translator.events
        _note_answer(call, translator.usage, translator.finish_reasons, translator.rules_applied)


async def _relayed(call: Call, answer: Answer, translator: StreamTranslator) -> web.StreamResponse:
    """Relay a stream until the translator is done with it: after `[DONE]`, the upstream's end, or an error."""
    receive, closed = translator.receive, State.CLOSED
    while translator.state is not closed:
        piece = await answer.read_some()
        out = receive(piece) if piece else translator.receive_eof()
        if translator.error is not None:
            return await _broken(call, answer, translator.error, out)
        if out:
            await call.write(out)
        if not piece:
            break
    response = await call.end()
    await answer.settle()
    return response


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
