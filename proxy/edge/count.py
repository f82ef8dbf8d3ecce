"""
POST /v1/messages/count_tokens: how many tokens a request's prompt has.

    the replica's /tokenize --+- a number ----------------------> that, `x-proxy-token-count: exact`
                              +- there is no such route --------> the body's size, `x-proxy-token-count: estimate`
                              +- a refusal, no answer in time --> that error

It runs no model: no limit of tokens or requests is charged.
"""

from typing import Final

import msgspec
from aiohttp import web

from proxy.edge.authentication import require_model
from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.front_door import heard
from proxy.edge.intake import checked_head
from proxy.edge.limits import estimate_of
from proxy.edge.whole import note_request
from proxy.errors import UpstreamRejected
from proxy.translate.request import UpstreamRequest
from proxy.upstream.answer import Limits, read_whole
from proxy.upstream.attempts import Errand, Sending

#: What says whether the number is the tokenizer's.
COUNT_HEADER: Final = "x-proxy-token-count"
#: Arbitrary: far above what a tokenizer needs for any context, and short of a client's patience.
_COUNT_S: Final = 10.0
_LIMITS: Final = Limits(first_byte_s=_COUNT_S, between_bytes_s=_COUNT_S, total_s=2 * _COUNT_S)
#: The tokens are in it too, some seven bytes for each.
_LONGEST_COUNT: Final = 32 * 1024 * 1024
#: What servers answer where they have no such route.
_NO_ROUTE: Final = (404, 405, 501)


class _Counted(msgspec.Struct):
    count: int


async def count_tokens(edge: Edge, call: Call) -> web.StreamResponse:
    """
    Answer with the number of tokens.

    Raises:
        ProxyError: there is no number.
    """
    priority = checked_head(call.request, edge.config, edge.admission)
    call.stopwatch.lap("admit")
    async with edge.admission.place(priority, call.record) as place:
        errand, request = await (await heard(edge, call, place)).errand()
        call.record.translate_ms = call.stopwatch.lap("translate")
        try:
            note_request(call, request)
            require_model(call.principal, request.model)
        except BaseException:
            edge.pool.dropped(errand.first)
            raise
        sent_at = call.record.sent_ms = call.stopwatch.ms()
        try:
            count = await _counted(edge, errand)
        finally:
            call.record.upstream_ms = round(call.stopwatch.ms() - sent_at, 3)
        call.more_headers[COUNT_HEADER] = "estimate" if count is None else "exact"
        return await call.send(msgspec.json.encode(_Counted(_estimate(request) if count is None else count)))


async def _counted(edge: Edge, errand: Errand) -> int | None:
    """
    Return a replica's count; None if it has no way to count.

    Raises:
        UpstreamError: it has, and there is none.
    """
    try:
        async with Sending(edge.pool, msgspec.structs.replace(errand, limits=_LIMITS, counts=True)) as sent:
            return _number_in(await read_whole(sent.answer, _LONGEST_COUNT))
    except UpstreamRejected as exc:
        # vLLM answers 404 for a model that it does not have, too: "The model `x` does not exist."
        if exc.status not in _NO_ROUTE or "does not exist" in exc.message:
            raise
        return None


def _number_in(body: bytes) -> int | None:
    """Return what vLLM's /tokenize counted; None for another server's idea of that route."""
    try:
        return msgspec.json.decode(body, type=_Counted).count
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _estimate(request: UpstreamRequest) -> int:
    return estimate_of(request.body, 0).prompt
