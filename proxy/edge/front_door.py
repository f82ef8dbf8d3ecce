"""A request through another front door (proxy/fronts): its body is made a chat's, and its answer is made its own."""

import asyncio
from functools import partial

from proxy.edge.edge import Edge
from proxy.edge.question import LARGE_BODY
from proxy.fronts.front import Front


async def in_chat_form(edge: Edge, front: Front, body: bytes) -> bytes:
    """
    Return the chat completion that `body` asks for; a large one is made in a thread, as `Question.translate` does.

    Raises:
        InvalidRequest: it cannot be translated.
    """
    work = partial(front.request, body, strict=edge.config.strict)
    if len(body) < LARGE_BODY:
        return work()
    return await asyncio.get_running_loop().run_in_executor(edge.translator, work)
