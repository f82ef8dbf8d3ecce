"""F04, F05, F06: one owner of retries, 4xx never eject, a dead replica is passed over, the last one is never lost."""

import asyncio

import pytest

from proxy.config import Backend
from proxy.upstream.breaker import State
from tests.fakes import Do, ScriptedUpstream, completion, head, text_stream, until, whole


def answering(name):
    return [whole(completion(name))]


def failing(status, **headers):
    return [whole({"error": {"message": f"status {status}", "type": "x", "code": status}}, status, **headers)]


async def asked(proxy, **fields):
    """Return status, attempts, and the text or the error."""
    async with proxy.chat(**fields) as response:
        attempts = response.headers["x-proxy-attempts"]
        if fields.get("stream") and response.status == 200:
            return 200, attempts, (await response.content.read()).decode()
        body = await response.json()
        text = body["choices"][0]["message"]["content"] if response.status == 200 else body["error"]
        return response.status, attempts, text


@pytest.fixture
def in_order(monkeypatch):
    """The first replica is chosen first: what happens is then the same each time."""
    monkeypatch.setattr("proxy.upstream.pool.make_policy", lambda name: lambda loads, ask: loads[0])


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_request_that_was_not_taken_goes_to_another_replica(start_proxy, status, stream):
    good = [text_stream("b")] if stream else answering("b")
    async with ScriptedUpstream(failing(status)) as a, ScriptedUpstream(good) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        got = await asked(proxy, stream=stream)

        assert got[:2] == (200, "2")
        assert (len(a.requests), len(b.requests)) == (1, 1)
        line = await proxy.log.line()
        assert (line["attempts"], line["retried"], line["replica"]) == (2, [f"status_{status}"], b.url[7:])


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 422, 429, 500])
async def test_what_may_have_run_or_would_fail_again_is_never_sent_twice(start_proxy, status):
    async with ScriptedUpstream(failing(status)) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        got = await asked(proxy)

        assert got[:2] == (status, "1")
        assert (len(a.requests), len(b.requests)) == (1, 0)


@pytest.mark.usefixtures("in_order")
async def test_a_timeout_is_never_sent_twice(start_proxy):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER]) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(f"{a.url},{b.url}", first_byte_timeout_s=0.1)
        got = await asked(proxy)

        assert got[:2] == (504, "1")
        assert len(b.requests) == 0


@pytest.mark.usefixtures("in_order")
async def test_two_attempts_are_the_most_however_many_replicas_there_are(start_proxy):
    async with (
        ScriptedUpstream(failing(503)) as a,
        ScriptedUpstream(failing(503)) as b,
        ScriptedUpstream(answering("c")) as c,
    ):
        proxy = await start_proxy(f"{a.url},{b.url},{c.url}")
        got = await asked(proxy)

        assert got[:2] == (503, "2")
        assert [len(each.requests) for each in (a, b, c)] == [1, 1, 0]


@pytest.mark.usefixtures("in_order")
async def test_one_attempt_can_be_asked_for(start_proxy):
    async with ScriptedUpstream(failing(503)) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(f"{a.url},{b.url}", max_attempts=1)

        assert (await asked(proxy))[:2] == (503, "1")
        assert len(b.requests) == 0


async def test_the_only_replica_is_not_asked_twice(start_proxy):
    async with ScriptedUpstream(failing(503)) as a:
        proxy = await start_proxy(a.url)

        assert (await asked(proxy))[:2] == (503, "1")
        assert len(a.requests) == 1


@pytest.mark.usefixtures("in_order")
async def test_retries_end_with_the_budget(start_proxy):
    async with ScriptedUpstream(failing(502)) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(f"{a.url},{b.url}", retry_budget=0.2, eject_after=1000)
        statuses = [(await asked(proxy))[0] for _ in range(60)]

        assert statuses[:10] == [200] * 10
        assert 20 <= statuses.count(200) <= 23
        assert len(b.requests) == statuses.count(200)


# --- F05


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 422, 429])
async def test_4xx_never_eject(start_proxy, status):
    async with ScriptedUpstream(failing(status)) as a:
        proxy = await start_proxy(a.url, eject_after=2)
        for _ in range(6):
            await asked(proxy)

        assert proxy.edge.pool.replicas[0].breaker.state is State.CLOSED


@pytest.mark.usefixtures("in_order")
async def test_failures_in_a_row_eject_and_the_others_take_over(start_proxy):
    async with ScriptedUpstream(failing(500)) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(f"{a.url},{b.url}", eject_after=3)
        statuses = [(await asked(proxy))[0] for _ in range(8)]

        assert statuses == [500, 500, 500, 200, 200, 200, 200, 200]
        assert len(a.requests) == 3


async def test_the_last_replica_is_never_ejected_to_nothing(start_proxy):
    async with ScriptedUpstream(*[failing(500)] * 4, answering("a")) as a:
        proxy = await start_proxy(a.url, eject_after=2)
        statuses = [(await asked(proxy))[0] for _ in range(6)]

        assert statuses == [500, 500, 500, 500, 200, 200]
        assert proxy.edge.pool.replicas[0].breaker.state is State.CLOSED


async def test_when_all_are_ejected_the_least_bad_serves(start_proxy, unused_port):
    async with ScriptedUpstream(*[failing(500)] * 3, answering("a")) as a:
        proxy = await start_proxy(f"http://127.0.0.1:{unused_port},{a.url}", eject_after=1)
        gone, bad = proxy.edge.pool.replicas
        gone.breaker.unhealthy(0)
        await asked(proxy)
        assert [each.breaker.state for each in (gone, bad)] == [State.OPEN, State.OPEN]

        assert [(await asked(proxy))[0] for _ in range(3)] == [500, 500, 200]


async def test_when_all_are_ejected_one_that_is_back_is_found_by_the_next_request(start_proxy, unused_port):
    """Its breaker may wait for a minute; the retry of a request that another one refused need not."""
    backends = (
        Backend(url=f"http://127.0.0.1:{unused_port}", name="back"),
        Backend(url="http://127.0.0.1:1", name="gone"),
    )
    proxy = await start_proxy("", backends=backends, eject_s=3600)
    back, gone = proxy.edge.pool.replicas
    assert [each.breaker.state for each in (back, gone)] == [State.OPEN, State.OPEN]
    back.breaker.unhealthy(0)  # so that the other one is the less bad
    async with ScriptedUpstream(answering("back"), port=unused_port):
        assert await asked(proxy) == (200, "2", "back")


# --- F06


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_connection_goes_to_another_replica_and_ejects_at_once(start_proxy, stream):
    good = [text_stream("b")] if stream else answering("b")
    a = ScriptedUpstream(answering("a"))
    async with ScriptedUpstream(good) as b:
        async with a:
            proxy = await start_proxy(f"{a.url},{b.url}")
        replica = proxy.edge.pool.replicas[0]
        assert replica.breaker.state is State.CLOSED
        assert (await asked(proxy, stream=stream))[:2] == (200, "2")
        assert replica.breaker.state is State.OPEN
        assert (await asked(proxy, stream=stream))[:2] == (200, "1")


@pytest.mark.usefixtures("in_order")
async def test_a_connection_that_does_not_come_about_goes_to_another_replica(start_proxy):
    """A listener whose queue is full drops SYNs, as an address does that nobody has any more."""
    import socket

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        await asyncio.sleep(0.1)
        async with ScriptedUpstream(answering("b")) as b:
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            proxy = await start_proxy(f"{url},{b.url}", connect_timeout_s=0.2)
            replica = proxy.edge.pool.replicas[0]
            proxy.edge.pool.healthy(replica)
            proxy.edge.pool.succeeded(replica)
            assert replica.breaker.state is State.CLOSED

            assert (await asked(proxy))[:2] == (200, "2")
            assert replica.breaker.state is State.OPEN
        for filler in fillers:
            filler.close()


@pytest.mark.usefixtures("in_order")
async def test_a_stale_connection_is_retried_on_another_replica_and_is_nobodys_failure(start_proxy):
    stale = [whole(completion("a"))], [Do.CLOSE]
    async with ScriptedUpstream(*stale) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        await asked(proxy)
        assert await asked(proxy) == (200, "2", "b")
        assert proxy.edge.pool.replicas[0].breaker.badness == (0, 0)


# --- Retry-After


@pytest.mark.usefixtures("in_order")
async def test_a_replica_that_asks_for_a_pause_gets_one_while_others_can_serve(start_proxy):
    async with ScriptedUpstream(failing(503, retry_after="30")) as a, ScriptedUpstream(answering("b")) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        answers = [await asked(proxy) for _ in range(3)]

        assert [each[:2] for each in answers] == [(200, "2"), (200, "1"), (200, "1")]
        assert len(a.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_reaches_the_client(start_proxy, status):
    async with ScriptedUpstream(failing(status, retry_after="7")) as a:
        proxy = await start_proxy(a.url)
        for _ in range(2):  # the only replica is asked although it wants a pause
            async with proxy.chat() as response:
                assert (response.status, response.headers["Retry-After"]) == (status, "7")


# --- counters


async def test_counters_are_back_at_zero_after_every_kind_of_end(start_proxy, unused_port):
    scripts = [failing(500), [Do.RESET], [head(200, content_type="text/html", content_length="0")], answering("a")]
    async with ScriptedUpstream(*scripts, [Do.WAIT_FOR_PEER]) as a:
        proxy = await start_proxy(f"{a.url},http://127.0.0.1:{unused_port}", eject_after=1000)
        for _ in range(3):  # the reset connection was stale, and its request was sent once more
            await asked(proxy)
        leaving = asyncio.ensure_future(asked(proxy))
        await until(lambda: proxy.edge.pool.replicas[0].in_flight)
        leaving.cancel()
        await until(lambda: not any(replica.in_flight for replica in proxy.edge.pool.replicas))
        async with proxy.session.get(f"{proxy.url}/metrics") as response:
            lines = [line for line in (await response.text()).splitlines() if "replica_in_flight{" in line]
    assert len(lines) == 2
    assert all(line.endswith(" 0.0") for line in lines)
