"""
The accounts of one instance, in memory that its workers share: exact over all of them, and gone with the instance.

A decision takes 12 us of CPU for one account with two limits, 14 us where several workers share the table, and 52 us
for three accounts with every limit, 56 us with two workers that do nothing else (2 busy cores, CPython 3.11,
2026-11-26: `python -m tests.store.measure`). It waits for nothing but the table's lock.
"""

import time
from collections.abc import Callable
from typing import Final

from proxy.store.decision import Charge, Count, Decision, Taken, day_of, decision
from proxy.store.gcra import Bucket, Mark, Terms, fits
from proxy.store.table import Key, Table

Clock = Callable[[], float]

#: A bucket that has run empty is forgotten; this much later, so that a clock's last digit does not matter.
_SPARE_S: Final = 1.0


class MemoryStore:
    """The store (see `Store`) over a table. Make the table before forking; every worker makes a store of its own."""

    def __init__(self, table: Table, count: Count, now: Clock = time.monotonic, wall: Clock = time.time) -> None:
        """`now` is a clock that all workers have in common, `wall` the one that has days."""
        self._table = table
        self._count = count
        self._now = now
        self._wall = wall

    async def decide(self, charges: tuple[Charge, ...], tokens: int) -> Decision:
        """See `Store`; it never fails."""
        return self.decided(charges, tokens)

    def decided(self, charges: tuple[Charge, ...], tokens: int) -> Decision:
        """`decide()` without a wait."""
        table, keys = self._table, [_as_key(charge.key) for charge in charges]
        now_s, (today, day_left_s) = self._now(), day_of(self._wall())
        buckets, levels, marks, admits = [], [], [], True
        with table:
            for key, charge in zip(keys, charges, strict=True):
                terms, bucket = charge.terms, self._bucket(table.find(key, now_s))
                level = bucket.levels(now_s, today, table.leases(key, now_s) if terms.max_concurrent else 0)
                buckets.append(bucket)
                levels.append(level)
                admits = admits and fits(terms, level, tokens)
            if admits:
                for key, charge, level, bucket in zip(keys, charges, levels, buckets, strict=True):
                    marks.append(bucket.charge(charge.terms, level, tokens, now_s, today))
                    self._keep(key, charge.terms, bucket, now_s, day_left_s)
                    if charge.terms.max_concurrent:
                        table.lease(key, now_s)
        if table.evicted or table.lockless:
            self._tell()
        taken = Taken(charges, tuple(marks), tokens, b"", now_s + day_left_s) if admits else None
        return decision(charges, levels, tokens, day_left_s, taken)

    def settle(self, taken: Taken, used: int) -> None:
        """See `Store`; at once."""
        now_s = self._now()
        with self._table:
            for charge, mark in zip(taken.charges, taken.marks, strict=True):
                if charge.terms.tokens_per_minute or charge.terms.tokens_per_day:
                    self._settle(charge, mark, taken, used, now_s)

    def release(self, taken: Taken) -> None:
        """See `Store`; at once."""
        now_s = self._now()
        with self._table:
            for charge in taken.charges:
                if charge.terms.max_concurrent:
                    self._table.release(_as_key(charge.key), now_s)

    def _tell(self) -> None:
        for event, times in (("evicted", self._table.evicted), ("lockless", self._table.lockless)):
            for _ in range(times):
                self._count(event)
        self._table.evicted = self._table.lockless = 0

    # --- one account

    def _bucket(self, at: int) -> Bucket:
        if at < 0:
            return Bucket()
        requests_at_s, tokens_at_s, given_back_s, day_tokens, day = self._table.read(at)
        return Bucket(requests_at_s, tokens_at_s, given_back_s, day_tokens, int(day))

    def _keep(self, key: Key, terms: Terms, bucket: Bucket, now_s: float, day_left_s: float) -> None:
        """
        Write a bucket.

        A slot's end never comes nearer: what is given back makes a bucket empty sooner, but the ends that other
        requests have in mind stay where they are, and those are compared with what was given back.
        """
        if terms.requests_per_minute or terms.tokens_per_minute or terms.tokens_per_day:
            day_ends_s = now_s + day_left_s if terms.tokens_per_day else 0.0
            ends_s = max(now_s, bucket.requests_at_s, bucket.tokens_at_s, day_ends_s)
            row = (bucket.requests_at_s, bucket.tokens_at_s, bucket.given_back_s, bucket.day_tokens, float(bucket.day))
            self._table.keep(self._table.slot(key, now_s), row, ends_s + _SPARE_S)

    def _settle(self, charge: Charge, mark: Mark, taken: Taken, used: int, now_s: float) -> None:
        key = _as_key(charge.key)
        at = self._table.find(key, now_s)
        if at < 0 and used <= taken.tokens:
            return
        bucket = self._bucket(at)
        bucket.settle(charge.terms, mark, taken.tokens, used, now_s)
        self._keep(key, charge.terms, bucket, now_s, max(0.0, taken.until_s - now_s))


def _as_key(key: bytes) -> Key:
    return Key(int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little"))
