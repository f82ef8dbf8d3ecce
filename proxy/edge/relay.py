"""
POST /v1/chat/completions: one request through the core to a model server, and its answer back.

    its turn -> read body -> choose -> translate -> send -+- asked whole ----> read, translate, answer
                                                          +- asked streamed -> piece by piece through the translator
                                                          +- an error -------> translated
"""

from aiohttp import web

from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.heartbeat import Heartbeat
from proxy.edge.intake import checked_head, read_json_body
from proxy.edge.question import Question
from proxy.edge.streaming import Stream
from proxy.edge.whole import note_answer, note_request, whole_body
from proxy.translate.completion import translate_completion
from proxy.upstream.attempts import Sending


async def chat(edge: Edge, call: Call) -> web.StreamResponse:
    """
    Answer a chat completion.

    Raises:
        ProxyError: before or after the status line went out; the boundary knows which.
    """
    config = edge.config
    priority = checked_head(call.request, config, edge.admission)
    async with edge.admission.place(priority) as place:
        call.record.queue_ms = place.waited_ms
        body = await read_json_body(call.request, config, place)
        call.record.bytes_in = len(body)
        question = Question(edge, call, body)
        errand, request = await question.errand()
        note_request(call, request)
        sent_at = call.stopwatch.ms()
        try:
            if request.stream:
                async with Heartbeat(call, config.keep_alive_s, edge.sweep):
                    return await Stream(edge, call, question, errand).answer()
            async with Sending(edge.pool, errand) as sent:
                note_request(call, sent.request)
                whole = await whole_body(sent.answer)
        finally:
            call.record.upstream_ms = round(call.stopwatch.ms() - sent_at, 3)
        translated = translate_completion(whole, sent.request.expectation)
        note_answer(call, translated)
        return await call.send(translated.body)
