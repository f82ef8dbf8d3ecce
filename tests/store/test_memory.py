"""The accounts of one instance: exact over its workers, all or nothing, and forgotten in time."""

import mmap
import signal
import time

import pytest

from proxy.store.decision import Scope
from proxy.store.gcra import Limit
from proxy.store.memory import MemoryStore
from proxy.store.table import Table
from tests.store.charges import charge
from tests.store.forks import fork, kill, wait


class Clock:
    def __init__(self):
        self.now_s = 5000.0
        self.wall_s = 10 * 86_400 + 3600.0

    def now(self):
        return self.now_s

    def wall(self):
        return self.wall_s

    def passes(self, seconds):
        self.now_s += seconds
        self.wall_s += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def counts():
    return []


@pytest.fixture
def store(clock, counts):
    return MemoryStore(Table(workers=1), counts.append, clock.now, clock.wall)


def test_eight_workers_and_one_key_never_admit_more_than_the_limit(patient):
    rate, burst_s, seconds, workers = 6_000, 2.0, 1.5, 8
    table = Table(workers)
    admitted = memoryview(mmap.mmap(-1, workers * 8)).cast("Q")
    charges = (charge(requests_per_minute=rate, burst_s=burst_s),)
    began_s = time.monotonic()

    def ask(worker):
        table.use(worker)
        store = MemoryStore(table, print)
        while time.monotonic() < began_s + seconds:
            admitted[worker] += store.decided(charges, 0).taken is not None

    wait([fork(lambda worker=worker: ask(worker)) for worker in range(workers)])
    elapsed_s = time.monotonic() - began_s

    assert sum(admitted) <= (rate * burst_s / 60 + rate / 60 * elapsed_s) * 1.01
    assert sum(admitted) >= rate * burst_s / 60 + rate / 60 * seconds * 0.5


def test_concurrent_requests_are_counted_over_all_workers(patient):
    table, most, workers = Table(workers=4), 10, 4
    admitted = memoryview(mmap.mmap(-1, workers * 8)).cast("Q")
    charges = (charge(max_concurrent=most),)

    def ask(worker):
        table.use(worker)
        store = MemoryStore(table, print)
        for _ in range(200):
            admitted[worker] += store.decided(charges, 0).taken is not None

    wait([fork(lambda worker=worker: ask(worker)) for worker in range(workers)])

    assert sum(admitted) == most


def test_the_leases_of_a_killed_worker_are_free_when_it_is_forgotten():
    table = Table(workers=2)
    ready = mmap.mmap(-1, 1)
    charges = (charge(max_concurrent=60),)

    def hold():
        table.use(1)
        store = MemoryStore(table, print)
        assert all(store.decided(charges, 0).taken for _ in range(50))
        ready[0] = 1
        signal.pause()

    pid = fork(hold)
    while not ready[0]:
        time.sleep(0.001)
    kill(pid)
    store = MemoryStore(table, print)
    mine = [store.decided(charges, 0).taken for _ in range(20)]

    assert sum(taken is not None for taken in mine) == 10

    table.forget(1)

    assert sum(store.decided(charges, 0).taken is not None for _ in range(60)) == 50


@pytest.mark.parametrize("order", [1, -1], ids=["refused by the last", "refused by the first"])
def test_a_request_is_charged_to_all_accounts_or_to_none(store, order):
    wide, narrow = charge("wide", requests_per_minute=60), charge("narrow", max_concurrent=1)
    store.decided((narrow,), 0)

    for _ in range(30):
        refused = store.decided((wide, narrow)[::order], 0)

    assert refused.refusal.limit is Limit.CONCURRENT
    assert store.decided((wide,), 0).requests.remaining == 9


def test_the_refusal_is_of_the_limit_that_takes_the_longest(store):
    soon = charge("soon", requests_per_minute=60, burst_s=1)
    late = charge("late", Scope.MODEL, requests_per_minute=2, burst_s=1)
    store.decided((soon, late), 0)
    refusal = store.decided((soon, late), 0).refusal

    assert refusal[:5] == (Scope.MODEL, Limit.REQUESTS, 2, 1, 1)
    assert refusal.wait_s == pytest.approx(30)


def test_what_is_left_is_told_of_the_tightest_account(store):
    wide = charge("wide", requests_per_minute=600, tokens_per_minute=10_000)
    narrow = charge("narrow", Scope.MODEL, requests_per_minute=60, tokens_per_day=5_000)
    decided = store.decided((wide, narrow), 1000)

    assert (decided.requests.limit, decided.requests.remaining) == (60, 9)
    assert (decided.tokens.limit, decided.tokens.remaining, decided.tokens.reset_s) == (5000, 4000, 82_800.0)


def test_what_a_request_used_is_put_right_in_every_account(store):
    one, other = charge("one", tokens_per_minute=1000), charge("other", tokens_per_day=1000)
    store.settle(store.decided((one, other), 900).taken, 100)

    assert store.decided((one,), 0).tokens.remaining == 900
    assert store.decided((other,), 0).tokens.remaining == 900


def test_a_debt_is_kept_for_an_account_that_was_empty_in_between(store, clock):
    account = charge(tokens_per_minute=60)
    taken = store.decided((account,), 30).taken
    clock.passes(100)
    store.settle(taken, 90)

    assert store.decided((account,), 1).refusal.wait_s == pytest.approx(1)


def test_a_budget_of_a_day_begins_again_at_midnight(store, clock):
    account = charge(tokens_per_day=1000)
    store.decided((account,), 900)
    clock.passes(82_799)
    refusal = store.decided((account,), 200).refusal

    assert (refusal.limit, refusal.used, refusal.wait_s) == (Limit.DAY, 900, 1.0)

    clock.passes(1)

    assert store.decided((account,), 1000).taken is not None


def test_a_request_of_yesterday_is_settled_with_yesterday(store, clock):
    account = charge(tokens_per_day=1000)
    taken = store.decided((account,), 900).taken
    clock.passes(82_800)
    store.decided((account,), 500)
    store.settle(taken, 10)

    assert store.decided((account,), 0).tokens.remaining == 500


def test_a_lease_is_given_back(store):
    account = charge(max_concurrent=1)
    taken = store.decided((account,), 0).taken

    assert store.decided((account,), 0).refusal.used == 1

    store.release(taken)

    assert store.decided((account,), 0).taken is not None


def test_an_account_that_lost_its_slot_begins_anew_and_that_is_counted(clock, counts):
    store = MemoryStore(Table(workers=1, slots=16), counts.append, clock.now, clock.wall)
    for number in range(17):
        store.decided((charge(f"number {number}", requests_per_minute=60),), 0)

    assert counts == ["evicted"]
