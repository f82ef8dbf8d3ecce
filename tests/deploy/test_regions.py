"""Two zones of real processes: what becomes of requests when the proxy's own zone is killed and started again."""

import asyncio
import contextlib
import json
import os
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.clients import Clients, Question
from tests.chaos.model import Asked
from tests.chaos.outcome import Kind, exactly
from tests.chaos.stage import Actor, Proxy, proxy_before, scripted_replica

#: Generous: the machine may do something else.
DEADLINE_S = 60
SETTINGS = {
    "PROXY_PROFILE": "vllm-mistral-tokenizer",
    "HEALTH_INTERVAL": "0.2",
    "EJECT_TIME": "0.2",
    "SLOW_START": "1",
    "CONNECT_TIMEOUT": "5",
    "RETRY_BUDGET": "1",
    "ZONE": "home,near",
    "ZONE_SPILL": "8",
}

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="processes end with their parent on Linux")


def streamed(rng: random.Random, number: int) -> Question:
    """A stream of plain text, which another replica can continue."""
    asked = Asked(number, rng.randint(3, 15), 0.005)
    return Question({"messages": [{"role": "user", "content": asked.prompt}], "stream": True}, exactly(asked.text))


@contextlib.asynccontextmanager
async def two_zones(logs: Path, workers: int) -> AsyncIterator[tuple[Proxy, dict[str, list[Actor]]]]:
    zones = {zone: [Actor(scripted_replica(logs)) for _ in range(2)] for zone in ("home", "near")}
    actors = [actor for zone in zones.values() for actor in zone]
    backends = [
        {"url": actor.url, "name": f"{zone}-{i}", "zone": zone}
        for zone, there in zones.items()
        for i, actor in enumerate(there)
    ]
    settings = {"PROXY_BACKENDS": json.dumps(backends), "WORKERS": str(workers), **SETTINGS}
    server = proxy_before([], logs, settings)
    server.command[4:6] = []  # no --vllm-base
    proxy = Proxy(server)
    try:
        for actor in [*actors, proxy]:
            await actor.start()
        yield proxy, zones
    finally:
        for actor in [proxy, *actors]:
            await actor.end()


async def requests_of(proxy: Proxy, zone: str) -> float:
    metrics = await proxy.metrics()
    return sum(value for name, value in metrics.items() if re.match(rf'replica_requests_total{{replica="{zone}-', name))


async def until_more(proxy: Proxy, zone: str, more: int) -> None:
    """Return when `zone` has had so many more requests."""
    before = await requests_of(proxy, zone)
    async with asyncio.timeout(DEADLINE_S):
        while await requests_of(proxy, zone) < before + more:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_request_fails_when_the_own_zone_is_killed_and_it_is_used_again_when_it_is_back(tmp_path, workers):
    async with two_zones(tmp_path, workers) as (proxy, zones):
        clients = Clients(proxy.url, streamed, seed=1, width=4, pause_s=0.01)
        async with clients:
            ended = asyncio.Event()
            asking = asyncio.create_task(clients.ask_until(ended))
            try:
                await until_more(proxy, "home", 30)
                assert await requests_of(proxy, "near") == 0

                await asyncio.gather(*(actor.kill() for actor in zones["home"]))
                await until_more(proxy, "near", 60)
                for actor in zones["home"]:
                    await actor.start()
                await until_more(proxy, "home", 60)
            finally:
                ended.set()
                await asking
            counts = clients.counts

            # When the slow start is over, nothing goes elsewhere any more.
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    before = await requests_of(proxy, "near")
                    await clients.ask_so_often(20)
                    if await requests_of(proxy, "near") == before:
                        break

    assert counts.bad == []
    assert set(counts.outcomes) == {Kind.RIGHT.value}, counts.details
