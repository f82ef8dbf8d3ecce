"""
POST /v1/chat/completions, and what comes through another front door as a chat: one request through the core to a model
server, and its answer back.

    its turn -> body -> choose -> translate -> limits -> send -+- asked whole ----> read, translate, answer
                                                               +- asked streamed -> piece by piece (streaming.py)
                                                               +- an error -------> translated
"""

from aiohttp import web

from proxy.edge.authentication import require_model
from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.front_door import heard
from proxy.edge.heartbeat import Heartbeat
from proxy.edge.intake import checked_head
from proxy.edge.limits import FREE, Ticket, estimate_of
from proxy.edge.question import Question
from proxy.edge.record import Record
from proxy.edge.streaming import Stream
from proxy.edge.whole import answer_whole, note_request
from proxy.errors import UpstreamRejected, UpstreamUnavailable
from proxy.translate.request import UpstreamRequest
from proxy.upstream.attempts import Errand


async def chat(edge: Edge, call: Call) -> web.StreamResponse:
    """
    Answer a chat completion.

    Raises:
        ProxyError: before or after the status line went out; the boundary knows which.
    """
    priority = checked_head(call.request, edge.config, edge.admission)
    call.stopwatch.lap("admit")
    async with edge.admission.place(priority, call.record) as place:
        question = await heard(edge, call, place)
        errand, request = await question.errand()
        call.record.translate_ms = call.stopwatch.lap("translate")
        note_request(call, request)
        ticket = await admitted(edge, call, errand, request, question.body)
        try:
            return await _answered(edge, call, question, errand, request)
        except (UpstreamRejected, UpstreamUnavailable):
            ticket.settle(0, 0)  # it did not run
            raise
        finally:
            settle(ticket, call.record)


async def admitted(edge: Edge, call: Call, errand: Errand, request: UpstreamRequest, body: bytes) -> Ticket:
    """
    Return what a request may be sent with, and is to be settled with.

    Raises:
        Forbidden, RateLimited: it may not, or not now; its replica is given back.
        NotDecided: nobody can say.
    """
    try:
        require_model(call.principal, request.model)
        if edge.limiter.is_unlimited:
            return FREE
        estimate = estimate_of(body, request.expectation.max_tokens, request.expectation.choices)
        ticket = await edge.limiter.admitted(call.principal, request.model, estimate, call.record)
        call.stopwatch.lap("limits")
    except BaseException:
        edge.pool.dropped(errand.first)
        raise
    if ticket is not FREE:
        call.more_headers.update(ticket.headers())
    return ticket


def settle(ticket: Ticket, record: Record) -> None:
    """Put right what a request was charged, by what it came to, and give its place back."""
    if ticket is FREE:
        return
    if record.cache == "hit":
        ticket.settle(0, 0)
    elif record.tokens_in is not None:
        ticket.settle(record.tokens_in, record.events if record.tokens_out is None else record.tokens_out)
    else:
        ticket.settle_unknown(record.events)
    ticket.close()


async def _answered(
    edge: Edge, call: Call, question: Question, errand: Errand, request: UpstreamRequest
) -> web.StreamResponse:
    visit = edge.cache.visit(call, errand, request) if edge.cache.is_on else None
    try:
        if not request.stream:
            return await answer_whole(edge, call, errand, visit)
        async with Heartbeat(call, edge.config.keep_alive_s, edge.sweep):
            return await Stream(edge, call, question, errand, visit).answer()
    finally:
        if visit is not None:
            visit.leave()
