"""Two real vLLMs, one of which is killed while it streams: the other goes on, and the client has one whole answer."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.chaos.outcome import Kind, Told
from tests.chaos.plans import GREETING, repeated
from tests.chaos.stage import Actor, Proxy, proxy_before
from tests.live.servers import free_port, install, vllm_server

pytestmark = pytest.mark.live

MAX_TOKENS = 600
#: So many bytes of events are some tens of tokens.
SEEN_BEFORE_THE_KILL = 10_000
BODY = {
    "model": "devstral",
    "messages": [{"role": "user", "content": "A long answer, please."}],
    "stream": True,
    "temperature": 0,
    "max_tokens": MAX_TOKENS,
}


@pytest_asyncio.fixture
async def replicas() -> AsyncIterator[list[Actor]]:
    install("v13")
    actors = [Actor(vllm_server("v13", free_port())) for _ in range(2)]
    try:
        await asyncio.gather(*(actor.start() for actor in actors))
        yield actors
    finally:
        for actor in actors:
            await actor.end()


@pytest_asyncio.fixture
async def proxy(replicas: list[Actor], tmp_path: Path) -> AsyncIterator[Proxy]:
    settings = {"WORKERS": "1", "PROXY_PROFILE": "auto"}
    proxy = Proxy(proxy_before([replica.url for replica in replicas], tmp_path, settings))
    try:
        await proxy.start()
        yield proxy
    finally:
        await proxy.end()


async def serving(proxy: Proxy, replicas: list[Actor]) -> Actor:
    """Return the replica on which the only request runs."""
    metrics = await proxy.metrics()
    (address,) = [
        re.findall(r'"(.*)"', name)[0]
        for name, value in metrics.items()
        if name.startswith("replica_in_flight") and value
    ]
    return next(replica for replica in replicas if replica.url.endswith(address))


async def test_a_stream_whose_vllm_is_killed_is_one_whole_answer(replicas: list[Actor], proxy: Proxy) -> None:
    received = bytearray()
    killed: Actor | None = None
    url = f"{proxy.url}/v1/chat/completions"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        async with session.post(url, json=BODY) as response:
            async for piece in response.content.iter_any():
                received += piece
                if killed is None and len(received) > SEEN_BEFORE_THE_KILL:
                    killed = await serving(proxy, replicas)
                    killed.send(signal.SIGKILL)
        async with session.post(url, json={**BODY, "stream": False, "max_tokens": 9}) as response:
            afterwards = await response.json()

    assert killed is not None
    told = Told(bytes(received))
    assert (told.problem, told.error, told.finishes, told.is_done) == ("", None, ["length"], True)
    assert repeated(MAX_TOKENS).stream(bytes(received), is_ended=True).kind is Kind.RIGHT
    (characters,) = re.findall(rb": continued on another replica after (\d+) characters\n\n", received)
    assert 0 < int(characters) < len(told.text)
    assert received.count(b'"role":"assistant"') == 1
    assert received.count(b"data: [DONE]") == 1
    assert len({json.loads(event[6:])["id"] for event in received.split(b"\n\n") if event.startswith(b"data: {")}) == 1
    assert afterwards["choices"][0]["message"]["content"] == GREETING
    assert (await proxy.metrics())['failovers_total{result="continued"}'] == 1
