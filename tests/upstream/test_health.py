"""The keeper of the replicas, over real sockets: which looks count, and what is asked of one that returns."""

import asyncio
from itertools import pairwise

import pytest

from proxy.upstream.answer import Limits
from proxy.upstream.breaker import State
from proxy.upstream.discovery import addresses_of
from proxy.upstream.replica import Sight
from tests.fakes import HEALTHY, Do, ScriptedUpstream, completion, head, until, whole

BAD = head(500, content_length="0")
#: Seconds between two looks, and a time that does not pass here.
LOOK_S, LONG = 0.02, 3600


class LookedAt(ScriptedUpstream):
    """Answers the n-th look with the n-th of `looks`; the last one is for all that follow."""

    def __init__(self, *looks, **options):
        self.looks = looks
        super().__init__([whole(completion())], **options)

    @property
    def health(self):
        return [self.looks[min(max(self.health_checks, 1), len(self.looks)) - 1]]

    @health.setter
    def health(self, _):
        """The looks are what counts."""


def moves(proxy):
    return [(line["state"], line["reason"]) for line in proxy.log.lines("replica_state")]


async def test_three_looks_in_a_row_that_fail_are_what_counts(start_proxy):
    async with LookedAt(HEALTHY, BAD, BAD, HEALTHY, BAD, BAD, BAD) as upstream:
        proxy = await start_proxy(upstream.url, health_interval_s=LOOK_S, eject_s=LONG)
        [replica] = proxy.edge.pool.replicas
        await until(lambda: moves(proxy))

        assert upstream.health_checks == 7
        assert moves(proxy) == [("open", "/health answers with a server error")]
        assert (replica.breaker.state, replica.sight, replica.misses) == (State.OPEN, Sight.UNHEALTHY, 3)
        assert not proxy.edge.pool.is_ready


async def test_one_is_enough_for_a_replica_that_was_never_seen_well(start_proxy):
    async with LookedAt(BAD) as upstream:
        proxy = await start_proxy(upstream.url, health_interval_s=LOOK_S, eject_s=LONG)
        await until(lambda: moves(proxy))

        assert upstream.health_checks == 1


async def test_a_look_without_an_answer_is_one_that_failed(start_proxy, monkeypatch):
    wait_s = 0.3  # long enough for the look that has an answer
    limits = Limits(first_byte_s=wait_s, between_bytes_s=wait_s, total_s=wait_s)
    async with LookedAt(HEALTHY, Do.WAIT_FOR_PEER) as upstream:
        proxy = await start_proxy(upstream.url, health_interval_s=LOOK_S, eject_s=LONG)
        monkeypatch.setattr("proxy.upstream.client._PROBE", limits)
        await until(lambda: moves(proxy))

        assert upstream.health_checks == 4
        [(state, reason)] = moves(proxy)
        assert (state, "timeout_s" in reason) == ("open", True)


async def test_a_replica_that_refuses_the_connection_is_out_at_once(start_proxy):
    async with LookedAt(HEALTHY) as upstream:
        proxy = await start_proxy(upstream.url, health_interval_s=LOOK_S, eject_s=LONG)
        [replica] = proxy.edge.pool.replicas
    await until(lambda: moves(proxy))

    assert (replica.breaker.state, replica.misses) == (State.OPEN, 1)


async def test_one_that_is_out_is_left_alone_for_a_while(start_proxy):
    async with LookedAt(HEALTHY, BAD, BAD, BAD, HEALTHY) as upstream:
        proxy = await start_proxy(upstream.url, health_interval_s=LOOK_S, eject_s=LONG)
        [replica] = proxy.edge.pool.replicas
        await until(lambda: moves(proxy))
        await asyncio.sleep(5 * LOOK_S)
        assert (upstream.health_checks, replica.breaker.state) == (4, State.OPEN)

        replica.breaker.looks_at = 0
        await until(lambda: replica.breaker.state is State.HALF_OPEN)
        assert (replica.sight, replica.misses) == (Sight.HEALTHY, 0)
        # what went wrong is seen with log_level=warning and by `tail --errors`
        levels = [(line["state"], line["level"]) for line in proxy.log.lines("replica_state")]
        assert levels == [("open", "warning"), ("half_open", "info")]


async def test_each_look_in_vain_makes_the_next_one_twice_as_late(start_proxy):
    async with LookedAt(BAD) as upstream:
        proxy = await start_proxy(upstream.url, health_interval_s=LOOK_S / 4, eject_s=LOOK_S)
        [replica] = proxy.edge.pool.replicas
        found = []

        def has_four():
            if replica.breaker.looks_at not in (0, *found):
                found.append(replica.breaker.looks_at)
            return len(found) == 4

        await until(has_four)

    waits = [after - before for before, after in pairwise(found)]
    assert all(wait >= LOOK_S * 2**number for number, wait in enumerate(waits, 1))


class Counted(LookedAt):
    """Counts how often the profile `auto` begins to ask; the first `cuts` times it is cut off."""

    def __init__(self, *looks, cuts=0, **options):
        super().__init__(*looks, **options)
        self.versions, self.cuts = 0, cuts

    def next_script(self):
        request = self.requests.pop()
        if request.target == "/version":
            self.versions += 1
            return [Do.CLOSE] if self.versions <= self.cuts else [whole({"version": "0.32.0"})]
        return [whole({"detail": "Not Found"}, 404)]


async def test_a_replica_that_returns_is_asked_anew_what_it_tolerates(start_proxy):
    """It may have returned as another version."""
    upstream = Counted(HEALTHY)
    async with upstream:
        proxy = await start_proxy(upstream.url, profile="auto", health_interval_s=LOOK_S, eject_s=LOOK_S)
        [replica] = proxy.edge.pool.replicas
        await until(lambda: not replica.wants_probe)
        looks = upstream.health_checks
        await until(lambda: upstream.health_checks > looks + 3)
        assert upstream.versions == 1  # once is enough while it stays well
    await until(lambda: replica.breaker.state is State.OPEN)
    async with Counted(HEALTHY, port=int(upstream.url.rpartition(":")[2])) as returned:
        await until(lambda: replica.breaker.state is not State.OPEN)
        await until(lambda: not replica.wants_probe)
        assert returned.versions == 1


async def test_a_replica_that_breaks_off_when_it_is_asked_is_asked_again(start_proxy):
    async with Counted(HEALTHY, cuts=2) as upstream:
        proxy = await start_proxy(upstream.url, profile="auto", health_interval_s=LOOK_S)
        await until(lambda: not proxy.edge.pool.replicas[0].wants_probe)

        assert upstream.versions == 3


# --- DNS


async def test_a_name_has_each_address_once_and_in_order():
    found = await addresses_of("http://localhost:8000", 5)

    assert "127.0.0.1" in found or "::1" in found
    assert list(found) == sorted(set(found))


async def test_an_address_stands_for_itself():
    assert await addresses_of("http://127.0.0.1:8000", 5) == ("127.0.0.1",)


async def test_a_lookup_that_takes_too_long_is_an_oserror():
    with pytest.raises(OSError):
        await addresses_of("http://localhost:8000", 0)


async def test_a_task_that_fails_is_logged_and_begins_again(start_proxy, monkeypatch):
    monkeypatch.setattr("proxy.upstream.health._TICK_S", LOOK_S)
    monkeypatch.setattr("proxy.upstream.health._REST_S", LOOK_S)
    async with LookedAt(HEALTHY) as upstream:
        proxy = await start_proxy(upstream.url, health_interval_s=LONG)
        pool, calls = proxy.edge.pool, []

        async def bury_retired():
            calls.append(None)
            if len(calls) == 1:
                raise IndexError

        monkeypatch.setattr(pool, "bury_retired", bury_retired)
        await until(lambda: len(calls) >= 3)

    [line] = proxy.log.lines("keeper_failed")
    assert (line["level"], line["task"]) == ("error", "tend")
    assert "IndexError" in line["exception"]


async def test_a_request_is_over_even_if_nothing_can_be_made_of_its_failure(start_proxy, monkeypatch):
    async with LookedAt(HEALTHY) as upstream:
        proxy = await start_proxy(upstream.url, health_interval_s=LONG)
        [replica] = proxy.edge.pool.replicas
        await until(lambda: replica.sight is Sight.HEALTHY)
        upstream._scripts = ([whole({}, 500)],)
        monkeypatch.setattr("proxy.upstream.attempts.error_kind", lambda *_, **__: 1 // 0)
        async with proxy.chat() as response:
            assert response.status == 500

        assert replica.in_flight == 0
