"""The rule by which zones share requests: for any replicas, then in a pool with real servers."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import Backend
from proxy.upstream.breaker import State
from proxy.upstream.choice import POLICIES, Ask, digest, make_policy
from proxy.upstream.zones import Zones, by_zone, with_room
from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, completion, event, text_chunk, text_stream, until, whole

#: derandomize: a run of the suite draws what the last one drew. No deadline: a machine's load is no failure.
many = settings(max_examples=300, derandomize=True, deadline=None)
ORDER = ("home", "near")


@dataclass(eq=False)
class Replica:
    zone: str
    weight: float = 1.0
    in_flight: int = 0
    key: int = 0


def fill(replicas, requests, spill, *, policy="least_in_flight"):
    """Place requests that do not end; return how many went to each zone."""
    choose, placed = make_policy(policy), {}
    for number in range(requests):
        replica = choose(with_room(by_zone(replicas, ORDER, spill)), Ask(number, b"%d" % number, (), number + 1))
        replica.in_flight += 1
        placed[replica.zone] = placed.get(replica.zone, 0) + 1
    return placed


def of(zone, *weights, running=0):
    return [Replica(zone, weight, running, digest(b"%b %d" % (zone.encode(), i))) for i, weight in enumerate(weights)]


replicas = st.lists(
    st.builds(
        Replica,
        zone=st.sampled_from(["home", "near", "far", ""]),
        weight=st.floats(0.05, 10),
        in_flight=st.integers(0, 30),
        key=st.integers(1, 2**64 - 1),
    ),
    min_size=1,
    max_size=12,
)
spills = st.integers(0, 20)
asks = st.builds(Ask, number=st.integers(0, 2**20), session=st.binary(max_size=4), root=st.integers(0, 2**64 - 1))


def running(found):
    return sum(replica.in_flight for replica in found)


def room(found, spill):
    return spill * sum(replica.weight for replica in found) if spill else float("inf")


# --- the rule, for any replicas


@pytest.mark.parametrize("policy", POLICIES)
@many
@given(replicas, spills, asks)
def test_a_well_replica_is_always_found(policy, replicas, spill, ask):
    found = with_room(by_zone(replicas, ORDER, spill))

    assert make_policy(policy)(found, ask) in replicas


@many
@given(replicas, spills)
def test_no_other_zone_is_asked_while_an_earlier_one_has_room(replicas, spill):
    found = with_room(by_zone(replicas, ORDER, spill))

    earlier = []
    for name in (*ORDER, None):
        there = [each for each in replicas if (each.zone if each.zone in ORDER else None) == name]
        if there and (running(there) < room(there, spill) * (1 - 1e-9)):
            assert set(found) <= set(there) | set(earlier)
            return
        earlier += there
    assert set(found) <= set(replicas)


@many
@given(replicas, spills)
def test_when_all_are_full_all_of_them_share(replicas, spill):
    zones = by_zone(replicas, ORDER, spill)
    is_full = all(running(zone.replicas) >= zone.room for zone in zones)

    if is_full and len(zones) > 1:
        assert set(with_room(zones)) == set(replicas)


@many
@given(replicas, spills)
def test_without_zones_all_replicas_are_one(replicas, spill):
    assert set(with_room(by_zone(replicas, (), spill))) == set(replicas)


@many
@given(replicas, st.integers(1, 20), st.integers(0, 60))
def test_more_requests_never_send_fewer_elsewhere(replicas, spill, requests):
    """The rule is a level: what spills is what does not fit, so it grows by at most the one request that came."""
    before, after = (
        fill([Replica(each.zone, each.weight, 0, each.key) for each in replicas], number, spill)
        for number in (requests, requests + 1)
    )

    assert all(0 <= after.get(zone, 0) - before.get(zone, 0) <= 1 for zone in after)


# --- the cases that it is for


def test_a_saturated_zone_keeps_what_it_can_run_and_the_rest_goes_to_the_next_one():
    assert fill(of("home", 1, 1) + of("near", 1, 1) + of("far", 1), 30, spill=8) == {"home": 16, "near": 14}


def test_the_third_zone_is_asked_when_the_second_is_full_too():
    assert fill(of("home", 1) + of("far", 1) + of("near", 1), 20, spill=8) == {"home": 8, "near": 8, "far": 4}


def test_what_no_zone_has_room_for_is_shared_by_all():
    assert fill(of("home", 1) + of("near", 1) + of("far", 1), 48, spill=8) == {"home": 16, "near": 16, "far": 16}


def test_a_lost_zone_leaves_all_to_the_next_and_half_a_zone_has_half_the_room():
    assert fill(of("near", 1, 1), 12, spill=8) == {"near": 12}
    assert fill(of("home", 1) + of("near", 1, 1), 12, spill=8) == {"home": 8, "near": 4}


def test_a_zone_that_returns_gets_what_its_weights_in_effect_have_room_for():
    shares = [fill(of("home", *(weight,) * 4) + of("near", 1, 1, 1, 1), 32, spill=8) for weight in (0.1, 0.5, 1.0)]

    assert [share["home"] for share in shares] == [4, 16, 32]  # 3.2 is not full with 3


def test_spill_0_never_leaves_a_zone_that_is_well():
    assert fill(of("home", 1) + of("near", 1), 1000, spill=0) == {"home": 1000}


def test_the_log_says_how_many_requests_went_elsewhere_and_not_more_often_than_each_minute():
    lines = []
    zones = Zones(lambda event, **fields: lines.append((event, fields)))
    zones.use(" home , near ,", 1)
    home, near = of("home", 1), of("near", 1)
    for now in range(120):
        zones.refresh([*home, *near], float(now))
        for replica in (home[0], near[0]):
            zones.sent(replica)

    assert lines == [
        ("zone_spilled", {"zone": "home", "requests": 1}),
        ("zone_spilled", {"zone": "home", "requests": 60}),
    ]


def test_what_went_elsewhere_is_forgotten_with_the_zones():
    lines = []
    zones = Zones(lambda event, **fields: lines.append((event, fields)))
    zones.use("home", 1)
    [near] = of("near", 1)
    zones.sent(near)
    zones.use("", 1)
    zones.refresh([near], 0.0)

    assert lines == []
    assert zones.open_to(None) == [near]


# --- in a pool


def answering(name):
    return [whole(completion(name))]


async def text_of(proxy, **fields):
    async with proxy.chat(**fields) as response:
        assert response.status == 200
        return (await response.json())["choices"][0]["message"]["content"]


async def test_requests_that_do_not_fit_go_to_the_next_zone_and_come_back(start_proxy):
    release = asyncio.Event()
    waits = [release, *answering("home")]
    async with ScriptedUpstream(waits) as home, ScriptedUpstream([release, *answering("near")]) as near:
        backends = (
            Backend(url=near.url, name="near", zone="eu-1b"),
            Backend(url=home.url, name="home", zone="eu-1a"),
        )
        proxy = await start_proxy("", backends=backends, zone="eu-1a,eu-1b", zone_spill=4)
        asked = [asyncio.ensure_future(text_of(proxy)) for _ in range(6)]
        await until(lambda: len(home.requests) + len(near.requests) == 6)
        assert (len(home.requests), len(near.requests)) == (4, 2)

        release.set()
        await asyncio.gather(*asked)
        assert {await text_of(proxy) for _ in range(5)} == {"home"}


async def test_a_request_that_was_never_sent_did_not_go_elsewhere(start_proxy):
    async with ScriptedUpstream(answering("near")) as near:
        proxy = await start_proxy("", backends=(Backend(url=near.url, name="near", zone="b"),), zone="a")
        async with proxy.chat(messages=[]) as refused:
            assert refused.status == 400
        assert await text_of(proxy) == "near"
        proxy.edge.pool.refresh()

        assert [line["requests"] for line in proxy.log.lines("zone_spilled")] == [1]


async def test_a_request_that_failed_at_home_is_sent_again_at_home_while_there_is_another_replica(start_proxy):
    async with (
        ScriptedUpstream([whole({}, 503)]) as bad,
        ScriptedUpstream(answering("home")) as good,
        ScriptedUpstream(answering("near")) as near,
    ):
        backends = (
            Backend(url=near.url, name="near", zone="b"),
            Backend(url=bad.url, name="bad", zone="a"),
            Backend(url=good.url, name="good", zone="a"),
        )
        proxy = await start_proxy("", backends=backends, zone="a", balance="round_robin")

        assert {await text_of(proxy) for _ in range(4)} == {"home"}
        assert bad.requests
        assert not near.requests


async def test_a_request_for_which_nothing_listens_at_home_is_sent_again_elsewhere(start_proxy):
    """A zone that is lost is lost as a whole, and a request has two attempts: not one of them fails."""
    async with ScriptedUpstream(answering("near")) as near:
        gone = [ScriptedUpstream(answering("home")) for _ in range(4)]
        for each in gone:
            await each.__aenter__()
        backends = (
            Backend(url=near.url, name="near", zone="b"),
            *(Backend(url=each.url, name=f"home-{i}", zone="a") for i, each in enumerate(gone)),
        )
        proxy = await start_proxy("", backends=backends, zone="a")
        for each in gone:
            await each.__aexit__()

        assert [await text_of(proxy) for _ in range(8)] == ["near"] * 8
        assert [replica.breaker.state for replica in proxy.edge.pool.replicas[1:]] == [State.OPEN] * 4


async def test_a_stream_whose_connection_breaks_at_home_is_continued_elsewhere(start_proxy):
    breaks = [STREAM_HEAD, event(text_chunk("Hel")), Do.RESET]
    async with (
        ScriptedUpstream(breaks) as first,
        ScriptedUpstream(breaks) as second,
        ScriptedUpstream([text_stream("lo")]) as near,
    ):
        backends = (
            Backend(url=near.url, name="near", zone="b"),
            Backend(url=first.url, name="first", zone="a"),
            Backend(url=second.url, name="second", zone="a"),
        )
        proxy = await start_proxy("", backends=backends, zone="a")
        async with proxy.chat(stream=True) as response:
            whole_answer = await response.read()

        assert whole_answer.endswith(b"data: [DONE]\n\n")
        assert b'"error"' not in whole_answer
        assert (len(first.requests) + len(second.requests), len(near.requests)) == (1, 1)


async def test_a_zone_that_asks_for_a_pause_gets_one_and_its_requests_go_on_elsewhere(start_proxy):
    """429 with Retry-After: the first client is told so, the next ones are served by the next zone."""
    full = [whole({}, 429, retry_after="60")]
    async with ScriptedUpstream(full) as home, ScriptedUpstream(answering("near")) as near:
        backends = (Backend(url=near.url, name="near", zone="b"), Backend(url=home.url, name="home", zone="a"))
        proxy = await start_proxy("", backends=backends, zone="a")
        async with proxy.chat() as response:
            assert response.status == 429

        assert {await text_of(proxy) for _ in range(3)} == {"near"}
        assert len(home.requests) == 1


async def test_a_zone_of_another_model_has_no_room_for_it(start_proxy):
    release = asyncio.Event()
    async with (
        ScriptedUpstream([release, *answering("other")]) as other,
        ScriptedUpstream([release, *answering("home")]) as home,
        ScriptedUpstream(answering("near")) as near,
    ):
        backends = (
            Backend(url=near.url, name="near", zone="b", models=("large",)),
            Backend(url=home.url, name="home", zone="a", models=("large",)),
            Backend(url=other.url, name="other", zone="a", models=("small",)),
        )
        proxy = await start_proxy("", backends=backends, zone="a", zone_spill=2)
        first = [asyncio.ensure_future(text_of(proxy, model="large")) for _ in range(2)]
        await until(lambda: len(home.requests) == 2)

        assert await text_of(proxy, model="large") == "near"
        release.set()
        assert await asyncio.gather(*first) == ["home", "home"]


async def test_a_zone_that_returns_is_not_flooded(start_proxy):
    """After a loss its replica's weight is a tenth: of eight requests at once one is more than that has room for."""
    release = asyncio.Event()
    home = ScriptedUpstream(answering("home"))
    async with ScriptedUpstream([release, *answering("near")]) as near:
        async with home:
            port = int(home.url.rpartition(":")[2])
            backends = (Backend(url=near.url, name="near", zone="b"), Backend(url=home.url, name="home", zone="a"))
            settings = {"health_interval_s": 0.05, "eject_s": 0.05, "slow_start_s": 3600, "zone_spill": 8}
            proxy = await start_proxy("", backends=backends, zone="a", **settings)
        replica = proxy.edge.pool.replicas[1]
        await until(lambda: replica.breaker.state is State.OPEN)
        back = ScriptedUpstream(answering("home"), [Do.WAIT_FOR_PEER], port=port)
        async with back:
            await until(lambda: replica.breaker.state is State.HALF_OPEN)
            assert await text_of(proxy) == "home"
            assert replica.breaker.state is State.CLOSED
            asked = [asyncio.ensure_future(text_of(proxy)) for _ in range(8)]
            await until(lambda: len(back.requests) + len(near.requests) == 9)

            assert len(back.requests) == 2  # the trial, and one of the eight
            release.set()
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
