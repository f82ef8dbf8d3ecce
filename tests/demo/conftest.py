"""A running demo upstream, and requests to it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from proxy.demo import DemoUpstream

Post = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
async def demo() -> AsyncIterator[DemoUpstream]:
    upstream = DemoUpstream(chunk_delay_s=0, max_model_len=4096)
    await upstream.start()
    yield upstream
    await upstream.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def ask(demo: DemoUpstream, session: aiohttp.ClientSession) -> Post:
    """Return a function that posts one chat request and returns status and decoded answer (text for a stream)."""

    async def post(body: Any) -> tuple[int, Any]:
        async with session.post(f"{demo.url}/v1/chat/completions", json=body) as answer:
            is_json = answer.content_type == "application/json"
            return answer.status, await answer.json() if is_json else await answer.text()

    return post
