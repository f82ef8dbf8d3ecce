"""
The accounts of all instances, in a Valkey or Redis server.

A decision is one script, atomic over its charges. Settlements and releases are posted: nobody waits for them, and those
that are lost with the server err on the side of the limit: an estimate stays, and a lease ends by itself after 30 s.
One task renews the leases of this worker's running requests every 10 s, so that those of a killed worker end.
"""

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from proxy.store.decision import Charge, Decision, Taken, decision
from proxy.store.gcra import DAY_S, Levels, Mark, Terms
from proxy.store.lane import Argument
from proxy.store.scripts import DECIDE_SCRIPT, LEASE_S, RENEW_SCRIPT, SETTLE_SCRIPT
from proxy.store.standing import StoreDown
from proxy.store.valkey import ValkeyLink

#: Two renewals may be lost before a lease is.
_RENEW_EVERY_S: Final = LEASE_S / 3
#: Arbitrary: as many leases as one script renews, in about 1 ms.
_RENEWED_AT_ONCE: Final = 500

_PREFIX: Final = b"devstral-proxy:limit:"


class ValkeyStore:
    """The store (see `Store`) behind a link, which stays its owner's. `close()` at the end."""

    def __init__(self, link: ValkeyLink) -> None:
        self._link = link
        self._leases: dict[bytes, Taken] = {}
        self._owner: Final = os.urandom(8).hex().encode()
        self._number = 0
        self._renewal: asyncio.Task[None] | None = None

    async def decide(self, charges: tuple[Charge, ...], tokens: int) -> Decision:
        """See `Store`."""
        self._number += 1
        lease = b"%s:%d" % (self._owner, self._number)
        try:
            reply = await self._link.script(DECIDE_SCRIPT, keys_of(charges), arguments_of(charges, tokens, lease))
        except (asyncio.CancelledError, StoreDown):  # nobody heard the answer, and the script may have run
            self._give_back(charges, lease)
            raise
        found = read(charges, tokens, lease, reply)
        if found.taken is not None and any(charge.terms.max_concurrent for charge in charges):
            self._leases[lease] = found.taken
            if self._renewal is None:
                self._renewal = asyncio.get_running_loop().create_task(self._renew())
        return found

    def settle(self, taken: Taken, used: int) -> None:
        """See `Store`."""
        pairs = [
            (charge, mark)
            for charge, mark in zip(taken.charges, taken.marks, strict=True)
            if charge.terms.tokens_per_minute or charge.terms.tokens_per_day
        ]
        if pairs and used != taken.tokens:
            keys = [_bucket_key(charge) for charge, _ in pairs]
            self._link.post_script(SETTLE_SCRIPT, keys, settlement(pairs, taken.tokens, used))

    def release(self, taken: Taken) -> None:
        """See `Store`."""
        if self._leases.pop(taken.lease, None) is not None:
            self._give_back(taken.charges, taken.lease)

    async def close(self) -> None:
        """Renew no more."""
        if self._renewal is not None:
            self._renewal.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewal

    def _give_back(self, charges: tuple[Charge, ...], lease: bytes) -> None:
        for charge in charges:
            if charge.terms.max_concurrent:
                self._link.post("ZREM", _lease_key(charge), lease)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_EVERY_S)
            live = [
                (_lease_key(charge), lease)
                for lease, taken in self._leases.items()
                for charge in taken.charges
                if charge.terms.max_concurrent
            ]
            for first in range(0, len(live), _RENEWED_AT_ONCE):
                part = live[first : first + _RENEWED_AT_ONCE]
                self._link.post_script(RENEW_SCRIPT, [key for key, _ in part], [lease for _, lease in part])


# --- what the scripts are given, and what they say


def keys_of(charges: tuple[Charge, ...]) -> list[bytes]:
    """Return the keys of a decision."""
    return [key for charge in charges for key in (_bucket_key(charge), _lease_key(charge))]


def arguments_of(charges: tuple[Charge, ...], tokens: int, lease: bytes) -> list[Argument]:
    """Return the arguments of a decision."""
    return [tokens, lease, *(number for charge in charges for number in _numbers(charge.terms))]


def settlement(pairs: Sequence[tuple[Charge, Mark]], charged: int, used: int) -> list[Argument]:
    """Return the arguments of a settlement."""
    numbers = ((charge.terms.token_s, charge.terms.tokens_per_day, *mark) for charge, mark in pairs)
    return [charged, used, *(repr(number) for row in numbers for number in row)]


def read(charges: tuple[Charge, ...], tokens: int, lease: bytes, reply: Any) -> Decision:
    """Return the decision that the script's reply says."""
    admits, now_s = bool(reply[0]), float(reply[1])
    rows = [[float(number) for number in reply[start : start + 6]] for start in range(2, len(reply), 6)]
    levels = [Levels(row[0], row[1], row[2], int(row[3])) for row in rows]
    day, gone_s = divmod(now_s, DAY_S)
    taken = None
    if admits:
        marks = tuple(Mark(row[4], row[5], int(day)) for row in rows)
        taken = Taken(charges, marks, tokens, lease, (day + 1) * DAY_S)
    return decision(charges, levels, tokens, DAY_S - gone_s, taken)


def _numbers(terms: Terms) -> tuple[Argument, ...]:
    return (
        repr(terms.request_s),
        repr(terms.requests_depth_s),
        terms.tokens_per_minute,
        repr(terms.token_s),
        terms.tokens_per_day,
        terms.max_concurrent,
    )


def _bucket_key(charge: Charge) -> bytes:
    return _PREFIX + charge.key.hex().encode()


def _lease_key(charge: Charge) -> bytes:
    return _PREFIX + charge.key.hex().encode() + b":leases"
