"""
F28: who asks whether the proxy lives or is ready has an answer, whatever the model server does, and costs it nothing.

BerriAI/litellm#12669, #9998, #35497; llm-d/llm-d-benchmark#1734.
"""

import asyncio

import pytest

from proxy.edge.routes import LIVE, READY
from tests.fakes import Do, ScriptedUpstream, completion, until, whole

PAGES = ["/health", *LIVE, *READY]
#: Only a bound for a test that would else hang.
PATIENCE_S = 10


async def statuses(proxy, pages=PAGES):
    """Return the statuses of these pages, each asked on its own connection."""
    found = set()
    for page in pages:
        async with proxy.session.get(proxy.url + page, headers={"Connection": "close"}) as response:
            found.add(response.status)
    return found


async def test_probes_are_answered_while_the_model_server_hangs_and_every_place_is_taken(start_proxy):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER]) as upstream, asyncio.timeout(PATIENCE_S):
        proxy = await start_proxy(upstream.url, max_in_flight=2, max_queue=1, max_connections=2)
        asked = [asyncio.ensure_future(proxy.chat().__aenter__()) for _ in range(3)]
        await until(lambda: (len(upstream.requests), proxy.edge.admission.queued) == (2, 1))
        async with proxy.chat() as response:
            assert response.status == 503

        assert await statuses(proxy) == {200}
        assert (len(upstream.requests), upstream.health_checks) == (2, 1)
        for task in asked:
            task.cancel()


async def test_probes_are_answered_while_the_look_at_the_model_server_hangs(start_proxy):
    """What is known goes on until the look has an end."""

    class Hanging(ScriptedUpstream):
        health = property(lambda self: [Do.WAIT_FOR_PEER] if self.health_checks > 1 else [whole({})], lambda *_: None)

    async with Hanging([whole(completion())]) as upstream, asyncio.timeout(PATIENCE_S):
        proxy = await start_proxy(upstream.url, health_interval_s=0.05)
        await until(lambda: upstream.health_checks == 2)
        assert await statuses(proxy) == {200}


async def test_probes_ask_the_model_server_nothing_and_never_let_it_generate(start_proxy):
    async with ScriptedUpstream([whole(completion())], health=None) as upstream:
        proxy = await start_proxy(upstream.url)
        for _ in range(5):
            await statuses(proxy)

        assert [request.target for request in upstream.requests] == ["/health"]
        assert upstream.requests[0].method == "GET"


async def test_without_a_model_server_it_lives_and_is_not_ready(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")

    assert await statuses(proxy, ["/health", *LIVE]) == {200}
    assert await statuses(proxy, READY) == {503}


@pytest.mark.parametrize("down", [0, 1])
async def test_one_model_server_of_two_is_enough(start_proxy, unused_port, down):
    async with ScriptedUpstream() as upstream:
        urls = [upstream.url]
        urls.insert(down, f"http://127.0.0.1:{unused_port}")
        proxy = await start_proxy(",".join(urls))

        assert await statuses(proxy) == {200}
