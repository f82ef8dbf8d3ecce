"""
A hash table of fixed size in memory that processes share, for counters that may be forgotten in time.

    slot of 64 bytes:   key, 16 bytes | expires_s | five doubles             a bucket of gcra.py
                        key, 16 bytes | expires_s | ten counts of 4 bytes    leases: one count for each of ten workers

Make it before the first worker is forked; a worker calls `use()` first. A key's slot is one of 16 places that follow
from it, so a look-up is bounded. A slot is free when its time has passed: nothing has to be deleted. Where all 16 are
taken, the one that is nearest to its end is given away, and counted. Slots never move.

`with table:` lets one process at a time read and change it; with one worker that costs nothing. The lock is a lock of
a file, which the kernel opens when its owner dies. It is held for one decision, of at most 3 buckets and their leases:
22 us of CPU in the middle, 0.11 ms for 99.9 % and 0.8 ms at the most of 300,000 (2 busy cores, 2026-11-26), plus the
time for which the scheduler takes the core away. Who has not got it after `LONGEST_WAIT_S` goes on without, and counts
that: a worker that stands still in the middle of a decision may make a limit wrong by one, and stops nobody else.
"""

import fcntl
import mmap
import os
import tempfile
import time
import weakref
from typing import Final, NamedTuple

#: Arbitrary: for as many accounts as are used within a minute, or within a day where there are daily budgets. 4 MiB.
SLOTS: Final = 65_536
#: With half of all slots in use one key in 65,000 finds its 16 taken, with 80 % one in 36: the share to the 16th power.
_TRIES: Final = 16

#: Where things are in a slot, in units of 8 bytes.
_STEP: Final = 8
_EXPIRES: Final = 2
_FIRST: Final = 3

#: Counts of 4 bytes that one slot has room for.
WORKERS_PER_SLOT: Final = 10
_COUNT_STEP: Final = 16
_FIRST_COUNT: Final = 6

#: A tenth of what a client would notice, and thousands of decisions long.
LONGEST_WAIT_S: Final = 0.05
_PAUSE_S: Final = 50e-6
#: So many tries take about as long as a decision does.
_EAGER_TRIES: Final = 8

_CHUNK: Final = 1024
_MASK: Final = 2**64 - 1


class Key(NamedTuple):
    """A digest of 128 bits; 0, 0 is none."""

    high: int
    low: int


class Table:
    """The table. Times are of CLOCK_MONOTONIC, which all processes of a machine have in common."""

    def __init__(self, workers: int, slots: int = SLOTS) -> None:
        """`slots` is a power of two, at least 16."""
        assert slots >= _TRIES
        assert not slots & (slots - 1)
        shared = memoryview(mmap.mmap(-1, slots * _STEP * 8))
        self._words: Final = shared.cast("Q")
        self._numbers: Final = shared.cast("d")
        self._counts: Final = shared.cast("I")
        self._slots: Final = slots
        self._shift: Final = 64 - slots.bit_length() + 1
        # Who may choose names cannot choose where they fall: multiply-shift hashing with a factor that nobody knows.
        self._factor: Final = int.from_bytes(os.urandom(8), "little") | 1
        self._blocks: Final = range(-(-workers // WORKERS_PER_SLOT))
        self._lock: Final = _lock_of(self) if workers > 1 else None
        self.worker = 0
        #: how many keys lost their slot before its time, and how often this process went on without the lock
        self.evicted = self.lockless = 0

    def use(self, worker: int) -> None:
        """Count leases as this worker from now on; the first is 0."""
        self.worker = worker

    # --- the lock

    def __enter__(self) -> None:
        if self._lock is not None:
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._wait(self._lock)

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _wait(self, lock: int) -> None:
        """Try until it has the lock, or for `LONGEST_WAIT_S`: fcntl has no time-out of its own."""
        ends_at = time.monotonic() + LONGEST_WAIT_S
        tries = 0
        while time.monotonic() < ends_at:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                tries += 1
                if tries > _EAGER_TRIES:
                    time.sleep(_PAUSE_S)
            else:
                return
        self.lockless += 1

    # --- slots

    def slot(self, key: Key, now_s: float) -> int:
        """
        Return where this key's slot is, or an empty one that is its own from now on.

        Write it before another one is asked for: until then it counts as free.
        """
        words, numbers, (high, low) = self._words, self._numbers, key
        place, step = ((low * self._factor) & _MASK) >> self._shift, (high % self._slots) | 1
        free, soonest, victim = -1, float("inf"), -1
        for number in range(place, place + step * _TRIES, step):
            at = (number % self._slots) * _STEP
            expires_s = numbers[at + _EXPIRES]
            if words[at] == high and words[at + 1] == low:
                if expires_s > now_s:
                    return at
                free = at
                break
            if expires_s <= now_s:
                if free < 0:
                    free = at
            elif victim < 0 or expires_s < soonest:
                soonest, victim = expires_s, at
        if free < 0:
            free = victim
            self.evicted += 1
        # In this order: whoever is killed in between leaves a slot that is free.
        numbers[free + _EXPIRES] = 0.0
        for word in range(free + _FIRST, free + _STEP):
            words[word] = 0
        words[free], words[free + 1] = high, low
        return free

    def find(self, key: Key, now_s: float) -> int:
        """Return where this key's slot is, or -1 if it has none."""
        words, (high, low) = self._words, key
        place, step = ((low * self._factor) & _MASK) >> self._shift, (high % self._slots) | 1
        for number in range(place, place + step * _TRIES, step):
            at = (number % self._slots) * _STEP
            if words[at] == high and words[at + 1] == low:
                return at if self._numbers[at + _EXPIRES] > now_s else -1
        return -1

    def read(self, at: int) -> list[float]:
        """Return the five numbers of a slot."""
        return list(self._numbers[at + _FIRST : at + _STEP])

    def keep(self, at: int, numbers: tuple[float, float, float, float, float], expires_s: float) -> None:
        """Write them, and keep the slot at least until `expires_s`."""
        mine, first = self._numbers, at + _FIRST
        mine[first], mine[first + 1], mine[first + 2], mine[first + 3], mine[first + 4] = numbers
        if expires_s > mine[at + _EXPIRES]:
            mine[at + _EXPIRES] = expires_s

    # --- leases

    def leases(self, key: Key, now_s: float) -> int:
        """Return how many leases of this key all workers have."""
        total = 0
        for block in self._blocks:
            at = self.find(_lease_key(key, block), now_s)
            if at >= 0:
                total += sum(self._row(at))
        return total

    def lease(self, key: Key, now_s: float) -> None:
        """Count one more of this worker's."""
        block, place = divmod(self.worker, WORKERS_PER_SLOT)
        at = self.slot(_lease_key(key, block), now_s)
        self._counts[at * 2 + _FIRST_COUNT + place] += 1
        self._numbers[at + _EXPIRES] = float("inf")

    def release(self, key: Key, now_s: float) -> None:
        """Count one less; one whose slot was given away is not counted any more."""
        block, place = divmod(self.worker, WORKERS_PER_SLOT)
        at = self.find(_lease_key(key, block), now_s)
        if at >= 0 and self._counts[at * 2 + _FIRST_COUNT + place]:
            self._counts[at * 2 + _FIRST_COUNT + place] -= 1
            self._free_if_empty(at)

    def forget(self, worker: int) -> None:
        """This worker is dead, and so are its leases. Its successor must not have begun."""
        block, place = divmod(worker, WORKERS_PER_SLOT)
        for first in range(0, self._slots, _CHUNK):
            with self:
                for at in range(first * _STEP, min(first + _CHUNK, self._slots) * _STEP, _STEP):
                    if self._numbers[at + _EXPIRES] == float("inf") and self._block_of(at) == block:
                        self._counts[at * 2 + _FIRST_COUNT + place] = 0
                        self._free_if_empty(at)

    def _row(self, at: int) -> "memoryview[int]":
        first = at * 2 + _FIRST_COUNT
        return self._counts[first : first + WORKERS_PER_SLOT]

    def _block_of(self, at: int) -> int:
        return self._words[at] & 0xFF

    def _free_if_empty(self, at: int) -> None:
        if not any(self._row(at)):
            self._numbers[at + _EXPIRES] = 0.0


def _lease_key(key: Key, block: int) -> Key:
    """Leases are not where the bucket is. The lowest byte says whose counts they are, so that `forget()` knows."""
    return Key((key.high & ~0xFF) | block, ~key.low & _MASK)


def _lock_of(owner: Table) -> int:
    lock, path = tempfile.mkstemp()
    os.unlink(path)
    weakref.finalize(owner, os.close, lock)
    return lock
