"""
A streamed answer to a client, over as many model servers as it takes.

    relay --+- [DONE] ------------------------------> end
       ^    +- the parser swallowed the answer -----> ask the same replica for a whole answer, and play that (R4)
       |    +- broke off in plain text --+----------> error event, [DONE]: nobody can go on
       |                                 |
       +------- another replica goes on -+

The client's status line waits for the first bytes that a stream has for it: until then an error, also one that the
model server sends as an event, gets a real status. Clients have been seen to ignore an error event inside a 200.
`await call.write()` before the next read is the backpressure: a client that reads slowly slows the model server down.
Where both sides are direct, pieces are pushed: the socket of the model server calls the translator, the translator's
bytes go into the client's transport, and no task is switched. A client that reads slowly then pauses the model
server's socket.

What the client has been told is kept only where another replica could go on from it, and where the cache wants it; an
answer that another replica went on with is not for the cache, for no model said it as a whole.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from proxy.edge.cache import Visit
from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.question import Question
from proxy.edge.record import note_error
from proxy.edge.whole import note_answer, note_request, unexpected, whole_body
from proxy.errors import ProxyError, UpstreamError, UpstreamProtocolError, UpstreamTimeout, error_event
from proxy.translate.answer_gathered import GatheredAnswer
from proxy.translate.answer_replay import played
from proxy.translate.completion import translate_completion
from proxy.translate.continuation import continued, continued_comment
from proxy.translate.profile import Profile
from proxy.translate.request import UpstreamRequest
from proxy.translate.stream import State, StreamTranslator
from proxy.translate.transcript import Transcript
from proxy.upstream.answer import Answer
from proxy.upstream.attempts import Errand, Sending
from proxy.upstream.exchange import Exchange
from proxy.upstream.replica import Replica
from proxy.upstream.shortcuts import takes
from proxy.wire import headers as wire
from proxy.wire.sse import DONE_EVENT


class Stream:
    """One streamed answer: `answer()` once."""

    _translator: StreamTranslator
    _response: web.StreamResponse

    def __init__(self, edge: Edge, call: Call, question: Question, errand: Errand, visit: Visit | None) -> None:
        self._edge = edge
        self._call = call
        self._question = question
        self._errand = errand
        self._visit = visit
        self._gathered: GatheredAnswer | None = None
        self._config = edge.config
        self._tried: list[Replica] = []
        may_continue = self._config.failover == "text" and len(edge.pool.replicas) > 1
        self._transcript = Transcript() if may_continue else None

    async def answer(self) -> web.StreamResponse:
        """
        Answer.

        Raises:
            ProxyError: there is no answer, and the client has not been sent anything.
        """
        if self._visit is not None:
            self._errand = await self._visit.enter(self._errand)
            self._call.stopwatch.lap("cache")
            if self._visit.entry is not None:
                return await self._visit.answer()
            self._gathered = self._visit.gathering()
        self._call.note_gap = self._edge.metrics.models.gaps_of(self._call.record.model)
        sent_at = self._call.record.sent_ms = self._call.stopwatch.ms()
        try:
            return await self._asked()
        finally:
            self._call.record.upstream_ms = round(self._call.stopwatch.ms() - sent_at, 3)

    async def _asked(self) -> web.StreamResponse:
        """Answer by a model server, or by as many as it takes."""
        async with Sending(self._edge.pool, self._errand) as sent:
            request = sent.request
            note_request(self._call, request)
            if not request.upstream_stream or wire.is_json(sent.answer.content_type):
                return await self._play(sent.answer, request, {})
            if not wire.is_event_stream(sent.answer.content_type):
                raise unexpected(sent.answer)
            self._translator = StreamTranslator(
                request.expectation,
                max_event_bytes=self._config.max_event_bytes,
                resumes=self._transcript is not None,
            )
            rest = await self._relay(sent)
        translator = self._translator
        while translator.state is State.BROKEN:
            self._tried.append(sent.replica)
            rest = await self._go_on(rest)
        if translator.wants_whole:
            async with Sending(self._edge.pool, self._question.asked_whole(self._errand, sent.replica)) as sent:
                if rest:
                    await self._call.write(rest)
                return await self._play(sent.answer, sent.request, translator.begun)
        if translator.error is not None:
            return await self._break(translator.error, rest)
        return self._response

    async def _play(self, answer: Answer, request: UpstreamRequest, begun: Mapping[str, Any]) -> web.StreamResponse:
        """Give a client that streams the whole answer that the model server was asked for."""
        whole = translate_completion(await whole_body(answer), request.expectation)
        note_answer(self._call, whole)
        if self._visit is not None:
            self._visit.keep(whole, request)
        await self._call.write(played(whole, request.expectation, begun))
        return await self._call.end()

    async def _break(self, error: ProxyError, rest: bytes) -> web.StreamResponse:
        """End a stream that failed: `rest` holds what came before the error, and the error as an event."""
        if not self._call.has_begun:
            raise error
        note_error(self._call.record, error)
        last, mask = error_event(error) + DONE_EVENT, self._edge.lines.mask
        if said := rest.removesuffix(last):
            await self._call.write(mask(said))
        await self._call.comment(mask(last))  # it is no token
        return await self._call.end()

    # --- one model server

    async def _relay(self, sent: Sending) -> bytes:
        """
        Relay until the translator is done: after `[DONE]`, the upstream's end, or an error.

        Returns what the client has not been sent because of an error.
        """
        call, translator, answer = self._call, self._translator, sent.answer
        try:
            if isinstance(answer, Exchange) and call.can_put and takes(self._config, "push"):
                rest = await _pushed(call, answer, translator, self._note)
            else:
                rest = await _pulled(call, answer, translator, self._note)
        except UpstreamError as exc:
            rest = translator.receive_break(exc)
        finally:
            call.record.events = translator.events
            note_answer(call, translator)
        if translator.error is None:
            if self._visit is not None and self._gathered is not None:
                self._visit.keep(self._gathered.finished(translator.usage, translator.rules_applied), sent.request)
            self._response = await call.end()
            await answer.settle()
        else:
            answer.close()
            sent.failure = translator.error if isinstance(translator.error, UpstreamError) else None
        return rest

    def _note(self, out: bytes) -> None:
        if self._transcript is not None:
            self._transcript.add(out)
        if self._gathered is not None:
            self._gathered.add(out)

    # --- another one

    async def _go_on(self, rest: bytes) -> bytes:
        """Have another replica go on; return what an error, the old one or a new one, has kept from the client."""
        translator, transcript = self._translator, self._transcript
        assert transcript is not None
        assert translator.error is not None
        self._gathered = None
        transcript.add(rest)
        seen, held, pieces = transcript.text, translator.held_space, transcript.pieces
        errand = self._errand_of(seen, held, pieces, translator.error)
        if errand is None or seen is None:
            return rest + translator.give_up()
        is_resumed = False
        try:
            async with Sending(self._edge.pool, errand) as sent:
                if not sent.request.upstream_stream or not wire.is_event_stream(sent.answer.content_type):
                    raise unexpected(sent.answer)
                translator.resume(sent.request.expectation, seen)
                is_resumed = True
                if self._call.has_begun or rest:  # else an error may still have a status
                    await self._call.write(rest + continued_comment(seen))
                rest = await self._relay(sent)
                self._tried.append(sent.replica)
        except UpstreamError:
            if is_resumed:
                raise
        self._call.record.failover = "continued" if is_resumed and translator.error is None else "failed"
        return rest if is_resumed else rest + translator.give_up()

    def _errand_of(self, seen: str | None, held: str, pieces: int, error: ProxyError) -> Errand | None:
        """Return what to ask whom, None if nobody may go on."""
        pool, errand = self._edge.pool, self._errand
        if seen is None or (not seen and isinstance(error, UpstreamTimeout)):  # it may still run: see upstream/retry.py
            return None
        lost = self._tried[-1] if isinstance(error, UpstreamProtocolError) else None
        other = pool.choose_other(errand.ask, errand.model, self._tried, lost=lost)
        if other is None or not pool.budget.take():
            if other is not None:
                pool.dropped(other)
            return None

        async def translate(profile: Profile) -> UpstreamRequest:
            request = continued(await self._question.translate(profile), seen, held, pieces=pieces)
            if request is None:
                raise UpstreamProtocolError("The answer to this request cannot be continued.")
            return request

        return msgspec.structs.replace(errand, first=other, translate=translate, avoid=tuple(self._tried))


Heard = Callable[[bytes], None]


async def _pulled(call: Call, answer: Answer, translator: StreamTranslator, note: Heard) -> bytes:
    """Relay until the end or an error; return what has not been written because of it."""
    receive, closed = translator.receive, State.CLOSED
    while translator.state is not closed:
        piece = await answer.read_some()
        out = receive(piece) if piece else translator.receive_eof()
        if translator.error is not None:
            return out
        if out:
            note(out)
            await call.write(out)
        if not piece:
            break
    return b""


async def _pushed(call: Call, answer: Exchange, translator: StreamTranslator, note: Heard) -> bytes:
    """`_pulled`, without a switch of tasks."""
    receive, closed, put = translator.receive, State.CLOSED, call.put
    last = b""

    def sink(piece: bytes) -> bool:
        nonlocal last
        out = receive(piece) if piece else translator.receive_eof()
        if translator.error is not None:
            last = out
            return False
        if out:
            note(out)
            if not put(out):
                answer.pause()
                call.when_drained(answer.resume)
        return translator.state is not closed

    await answer.pour(sink)
    return last
