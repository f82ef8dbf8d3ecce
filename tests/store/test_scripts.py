"""The scripts say what gcra.py says, number by number; time is an argument here and nowhere else."""

import asyncio
from collections.abc import Iterator

import pytest
import valkey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config import Rates
from proxy.store.decision import Charge, Scope, Taken, key_of
from proxy.store.gcra import DAY_S, Bucket, terms_of
from proxy.store.memory import MemoryStore, _as_key
from proxy.store.scripts import DECIDE, LEASE_S, RENEW, SETTLE
from proxy.store.shared import arguments_of, keys_of, read, settlement
from proxy.store.table import Table
from tests.store.servers import StoreServer, executables

CLOCK = "if redis.replicate_commands then redis.replicate_commands() end\nlocal now = tonumber(ARGV[#ARGV])\n"

RATES = st.builds(
    Rates,
    requests_per_minute=st.integers(0, 60),
    burst_s=st.floats(0.5, 60),
    tokens_per_minute=st.one_of(st.just(0), st.integers(100, 2000)),
    tokens_per_day=st.sampled_from([0, 3000, 20_000]),
    max_concurrent=st.integers(0, 4),
)
#: Seconds until something is done: at once, within a minute, or on another day.
PAUSES_S = st.one_of(st.just(0.0), st.floats(0, 25), st.just(40_000.0))
#: (pause, what, how many tokens, which of the running requests)
STEPS = st.lists(
    st.tuples(
        PAUSES_S,
        st.sampled_from(["ask", "ask", "settle", "settle", "release"]),
        st.one_of(st.integers(0, 300), st.integers(0, 1500)),
        st.integers(0, 5),
    ),
    min_size=4,
    max_size=30,
)


@pytest.fixture(scope="module", params=sorted(executables().items()), ids=lambda found: found[0])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[valkey.Valkey]:
    """A client of a server of this module's own."""
    server = StoreServer(request.param[1], tmp_path_factory.mktemp("store"))
    asyncio.run(server.start())
    opened = valkey.Valkey(unix_socket_path=str(server.socket), lib_name=None, lib_version=None)
    yield opened
    opened.close()
    server.kill()


class Both:
    """The same is asked of the memory and of the scripts, at the same time."""

    def __init__(self, client: valkey.Valkey, rates: list[Rates]) -> None:
        self.client = client
        self.client.flushall()
        self.now_s = 1_000_000.5
        self.table = Table(workers=1)
        self.memory = MemoryStore(self.table, print, lambda: self.now_s, lambda: self.now_s)
        self.charges = tuple(
            Charge(scope, key_of(scope, "alice", "devstral"), terms_of(rate))
            for scope, rate in zip(Scope, rates, strict=False)
        )
        self.running: list[tuple[Taken, Taken]] = []
        self.unsettled: list[tuple[Taken, Taken]] = []
        self.number = 0

    def run(self, body: str, keys: list[bytes], arguments: list[object]) -> list[bytes]:
        return self.client.eval(CLOCK + body, len(keys), *keys, *arguments, repr(self.now_s))

    def passes(self, seconds: float) -> None:
        """Let time pass, with running requests' leases renewed as they are in a process that lives."""
        if seconds >= LEASE_S:
            while self.running:
                self.release(0, 0)
        self.now_s += seconds
        for _, taken in self.running:
            self.run(RENEW, keys_of(taken.charges)[1::2], [taken.lease] * len(taken.charges))

    def ask(self, tokens: int, _which: int = 0) -> None:
        self.number += 1
        lease = b"%d" % self.number
        reply = self.run(DECIDE, keys_of(self.charges), arguments_of(self.charges, tokens, lease))
        there, here = read(self.charges, tokens, lease, reply), self.memory.decided(self.charges, tokens)

        assert (there.requests, there.tokens) == (here.requests, here.tokens)
        assert there.refusal == here.refusal
        assert (there.taken is None) == (here.taken is None)
        if here.taken is not None:
            ends_s = [[mark.tokens_end_s for mark in taken.marks] for taken in (there.taken, here.taken)]
            assert ends_s[0] == ends_s[1]
            self.running.append((here.taken, there.taken))
            self.unsettled.append((here.taken, there.taken))

    def settle(self, used: int, which: int) -> None:
        if self.unsettled:
            here, there = self.unsettled.pop(which % len(self.unsettled))
            self.memory.settle(here, used)
            pairs = list(zip(there.charges, there.marks, strict=True))
            self.run(SETTLE, keys_of(there.charges)[::2], settlement(pairs, there.tokens, used))

    def release(self, _tokens: int, which: int) -> None:
        if self.running:
            here, there = self.running.pop(which % len(self.running))
            self.memory.release(here)
            for key in keys_of(there.charges)[1::2]:
                self.client.zrem(key, there.lease)

    def agree(self) -> None:
        """What both have written down comes to the same. An empty bucket is forgotten here, and not yet there."""
        for charge, key in zip(self.charges, keys_of(self.charges)[::2], strict=True):
            here = self.memory._bucket(self.table.find(_as_key(charge.key), self.now_s))
            names = {"r": "requests_at_s", "t": "tokens_at_s", "b": "given_back_s", "u": "day_tokens", "d": "day"}
            found = {name.decode(): float(number) for name, number in self.client.hgetall(key).items()}
            there = Bucket(**{names[name]: number for name, number in found.items()})
            today = int(self.now_s // DAY_S)

            assert there.levels(self.now_s, today, 0) == here.levels(self.now_s, today, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(rates=st.lists(RATES, min_size=1, max_size=3), steps=STEPS)
def test_the_scripts_and_the_memory_decide_alike(client: valkey.Valkey, rates: list[Rates], steps: list):
    both = Both(client, rates)
    for pause_s, what, tokens, which in steps:
        both.passes(pause_s)
        getattr(both, what)(tokens, which)
        both.agree()

    assert [key for key in client.scan_iter() if client.pttl(key) <= 0] == []


def test_both_know_what_has_flowed_off_behind_a_refund(client: valkey.Valkey):
    """Two of 30 s each, at once: with the first given back the second has flowed off after 31 s, not after 60 s."""
    both = Both(client, [Rates(tokens_per_minute=60, tokens_per_day=1000)])
    both.ask(30)
    both.ask(30)
    for pause_s, what, tokens in ((1, "settle", 0), (31, "ask", 30), (0, "settle", 0), (0, "ask", 31), (0, "ask", 30)):
        both.passes(pause_s)
        getattr(both, what)(tokens, 0)
        both.agree()

    assert len(both.unsettled) == 2


def test_a_lease_that_nobody_renews_ends(client: valkey.Valkey):
    both = Both(client, [Rates(max_concurrent=1)])
    both.ask(0)
    both.now_s += LEASE_S - 1
    refused = both.run(DECIDE, keys_of(both.charges), arguments_of(both.charges, 0, b"x"))
    both.now_s += 1
    admitted = both.run(DECIDE, keys_of(both.charges), arguments_of(both.charges, 0, b"y"))

    assert (refused[0], admitted[0]) == (0, 1)


def test_every_key_has_an_expiry_even_where_nothing_is_charged(client: valkey.Valkey):
    both = Both(client, [Rates(requests_per_minute=5, tokens_per_minute=5, tokens_per_day=5, max_concurrent=5)])
    both.ask(0)

    assert len([key for key in client.scan_iter() if client.pttl(key) > 0]) == client.dbsize() == 2
