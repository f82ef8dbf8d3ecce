"""
A chat, or what another front door (proxy/fronts) makes one of, from the moment that it has its place: its body is
read, and made a chat's if it is none.
"""

import asyncio
from functools import partial

from proxy.edge.admission import Place
from proxy.edge.call import Call
from proxy.edge.edge import Edge
from proxy.edge.intake import read_json_body
from proxy.edge.question import LARGE_BODY, Question
from proxy.fronts.front import Front


async def heard(edge: Edge, call: Call, place: Place) -> Question:
    """
    Return what is asked, and note how long the body took.

    Raises:
        ClientError: the body is not whole, too large, or cannot be translated.
    """
    lap = call.stopwatch.lap
    lap("queue")
    body = await read_json_body(call.request, edge.config, place)
    call.record.bytes_in = len(body)
    call.record.read_ms = lap("read")
    if call.front is not None:
        body = await _in_chat_form(edge, call.front, body)
    return Question(edge, call, body)


async def _in_chat_form(edge: Edge, front: Front, body: bytes) -> bytes:
    """
    Return the chat completion that `body` asks for; a large one is made in a thread, as `Question.translate` does.

    Raises:
        InvalidRequest: it cannot be translated.
    """
    work = partial(front.request, body, strict=edge.config.strict)
    if len(body) < LARGE_BODY:
        return work()
    return await asyncio.get_running_loop().run_in_executor(edge.translator, work)
