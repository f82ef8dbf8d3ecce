"""A hash table in shared memory: like a dict whose entries end by themselves, for several processes at once."""

import contextlib
import mmap
import os
import signal
import time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.store.table import LONGEST_WAIT_S, Key, Table
from tests.store.forks import fork, kill, wait

NAMES = st.sampled_from([Key(number * 0x1234567 + 1, number * 0x9E3779B97F4A7C15 % 2**64) for number in range(40)])


def write(table, key, number, now_s, expires_s):
    with table:
        table.keep(table.slot(key, now_s), (number, 0.0, 0.0, 0.0, 0.0), expires_s)


def number_of(table, key, now_s):
    at = table.find(key, now_s)
    return table.read(at)[0] if at >= 0 else None


class LikeADict(RuleBasedStateMachine):
    """Every entry is there until its time has passed, and so is every lease until it is given back."""

    def __init__(self):
        super().__init__()
        self.table = Table(workers=13, slots=512)
        self.now_s = 100.0
        self.entries = {}
        self.leases = {}

    @rule(key=NAMES, number=st.floats(0, 1e9), life_s=st.floats(0.1, 50))
    def writes(self, key, number, life_s):
        _, before_s = self.entries.get(key, (0, 0.0))
        write(self.table, key, number, self.now_s, self.now_s + life_s)
        self.entries[key] = (number, max(self.now_s + life_s, before_s if before_s > self.now_s else 0.0))

    @rule(seconds=st.floats(0.1, 30))
    def time_passes(self, seconds):
        self.now_s += seconds

    @rule(key=NAMES, worker=st.integers(0, 12))
    def takes_a_lease(self, key, worker):
        self.table.use(worker)
        self.table.lease(key, self.now_s)
        self.leases[key, worker] = self.leases.get((key, worker), 0) + 1

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def gives_a_lease_back(self, data):
        key, worker = data.draw(st.sampled_from(sorted(self.leases)))
        self.table.use(worker)
        self.table.release(key, self.now_s)
        self.leases[key, worker] -= 1
        if not self.leases[key, worker]:
            del self.leases[key, worker]

    @rule(worker=st.integers(0, 12))
    def a_worker_dies(self, worker):
        self.table.forget(worker)
        self.leases = {owner: count for owner, count in self.leases.items() if owner[1] != worker}

    @invariant()
    def is_like_the_dicts(self):
        for key, (number, expires_s) in self.entries.items():
            assert number_of(self.table, key, self.now_s) == (number if expires_s > self.now_s else None)
        for key in {key for key, _ in self.leases}:
            expected = sum(count for (owned, _), count in self.leases.items() if owned == key)
            assert self.table.leases(key, self.now_s) == expected
        assert self.table.evicted == 0


TestLikeADict = LikeADict.TestCase


def test_a_full_table_gives_away_the_slot_that_is_nearest_to_its_end():
    table = Table(workers=1, slots=16)  # one window: every key may be anywhere
    for number in range(16):
        write(table, Key(number, number), float(number), 0.0, 100.0 + (number - 5) ** 2)

    write(table, Key(99, 99), 99.0, 0.0, 1000.0)

    assert [number_of(table, Key(number, number), 0.0) for number in range(16)] == [
        None if number == 5 else number for number in range(16)
    ]
    assert number_of(table, Key(99, 99), 0.0) == 99
    assert table.evicted == 1


def test_running_requests_are_the_last_to_lose_their_slot():
    table = Table(workers=1, slots=16)
    table.lease(Key(1, 1), 0.0)
    for number in range(2, 40):
        write(table, Key(number, number), 0.0, 0.0, 1e9)

    assert table.leases(Key(1, 1), 0.0) == 1


def test_a_lease_whose_slot_was_given_away_is_not_given_back_to_another():
    table = Table(workers=1, slots=16)
    for number in range(1, 18):
        table.lease(Key(number, number), 0.0)
    evicted = [number for number in range(1, 18) if not table.leases(Key(number, number), 0.0)]

    for number in range(1, 18):
        table.release(Key(number, number), 0.0)

    assert len(evicted) == 1
    assert all(table.leases(Key(number, number), 0.0) == 0 for number in range(1, 18))


def test_two_processes_that_add_at_once_lose_nothing(patient):
    table, key, each = Table(workers=2), Key(7, 7), 2_000
    ready = mmap.mmap(-1, 2)

    def add(number):
        ready[number] = 1
        while not all(ready):
            os.sched_yield()
        for _ in range(each):
            with table:
                before = table.read(table.slot(key, 0.0))[0]
                os.sched_yield()
                table.keep(table.slot(key, 0.0), (before + 1, 0.0, 0.0, 0.0, 0.0), 1e9)

    wait([fork(lambda number=number: add(number)) for number in range(2)])

    assert number_of(table, key, 0.0) == 2 * each


def test_the_lock_is_free_when_a_decision_is_over():
    table = Table(workers=2)
    with table:
        pass

    def take():
        with table:
            assert table.lockless == 0

    wait([fork(take)])


def test_who_is_killed_with_the_lock_in_hand_does_not_hold_up_others():
    table = Table(workers=2)
    ready = mmap.mmap(-1, 1)

    def hold():
        with table:
            ready[0] = 1
            signal.pause()

    pid = fork(hold)
    while not ready[0]:
        time.sleep(0.001)
    kill(pid)
    with table:
        pass

    assert table.lockless == 0


def test_who_is_stopped_with_the_lock_in_hand_holds_up_others_for_a_bounded_time():
    table = Table(workers=2)
    ready = mmap.mmap(-1, 1)

    def hold():
        with table:
            ready[0] = 1
            signal.pause()

    pid = fork(hold)
    try:
        while not ready[0]:
            time.sleep(0.001)
        os.kill(pid, signal.SIGSTOP)
        began_s = time.monotonic()
        with table:
            waited_s = time.monotonic() - began_s
    finally:
        kill(pid)

    assert waited_s >= LONGEST_WAIT_S
    assert table.lockless == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_who_is_killed_while_it_writes_leaves_no_slot_with_anothers_numbers(workers):
    for _ in range(20):
        table, keys = Table(workers=workers, slots=64), [Key(number, number << 58) for number in range(24)]

        def write_for_ever(table=table, keys=keys):
            now_s = 0.0
            while True:
                for number, key in enumerate(keys):
                    now_s += 1.0
                    with table:
                        table.keep(table.slot(key, now_s), (float(number),) * 5, now_s + 10)

        pid = fork(write_for_ever)
        time.sleep(0.002)
        kill(pid)

        with contextlib.nullcontext() if workers == 1 else table:
            for number, key in enumerate(keys):
                at = table.find(key, 0.0)
                if at >= 0:
                    assert set(table.read(at)) <= {float(number)}


def test_a_worker_counts_its_leases_in_a_place_of_its_own():
    table = Table(workers=25)
    for worker in range(25):
        table.use(worker)
        table.lease(Key(3, 3), 0.0)
    table.forget(11)

    assert table.leases(Key(3, 3), 0.0) == 24
