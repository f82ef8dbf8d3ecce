"""
The keys of one issuer: when they are fetched, by whom it is waited for, and how long old ones are good.

    age of the keys      what a token finds
    up to 5 minutes      these keys
    up to an hour        these keys; new ones are fetched meanwhile
    up to a day          new keys, for which it waits; these, if the last attempt failed; others are made meanwhile
    older, or none       new keys, for which it waits, or NotDecided

A token of an unknown key makes for an attempt too: so a new key of the issuer works at once. There is one attempt at a
time, and ten seconds between two, so that no flood of invented keys becomes one of requests to the issuer.
"""

import asyncio
import math
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from proxy.access.fetch import Fetcher, FetchFailed
from proxy.access.jwks import KeySet
from proxy.errors import NotDecided

Clock = Callable[[], float]
#: Takes the name of an event and its fields, as a logger's methods do.
Note = Callable[..., object]

# Arbitrary, in seconds. panva/jose, which many use, has ten minutes for the age and thirty seconds between attempts.
FRESH_S: Final = 300.0
RECENT_S: Final = 3600.0
USABLE_S: Final = 86_400.0
BETWEEN_S: Final = 10.0


class Need(IntEnum):
    """How much new keys are needed."""

    NONE = 0
    SOON = 1
    NOW = 2


def need_of(age_s: float, *, has_failed: bool) -> Need:
    """Return how much keys of this age need to be replaced; `has_failed` is that the last attempt did."""
    if not 0 <= age_s <= USABLE_S:  # a clock that was set back makes the age negative
        return Need.NOW
    if age_s <= FRESH_S:
        return Need.NONE
    return Need.SOON if age_s <= RECENT_S or has_failed else Need.NOW


class KeySource:
    """One issuer's keys. For the thread of one loop; `close()` at the end."""

    def __init__(self, fetcher: Fetcher, clock: Clock, note: Note) -> None:
        self.issuer = fetcher.issuer
        #: may be replaced at any time: by one that goes by other certificates
        self.fetcher = fetcher
        self._clock = clock
        self._note = note
        #: the last that could be had
        self.keys: KeySet | None = None
        self._fetched_at = -math.inf
        self._tried_at = -math.inf
        self._has_failed = False
        self._attempt: asyncio.Task[None] | None = None

    async def current(self) -> KeySet:
        """
        Return keys that are recent enough.

        Raises:
            NotDecided: there are none, and the issuer does not give any.
        """
        need = self._need()
        if need is not Need.NONE and self._may_try():
            self._try()
        if need is Need.NOW:
            await self._attempted()
        if self.keys is None or self._age_s() > USABLE_S:
            raise self.not_decided()
        return self.keys

    async def newer(self) -> KeySet | None:
        """
        Return the keys there are after another attempt, or after the one that is under way; None if it is too early.

        Raises:
            NotDecided: the attempt failed, so that nobody knows whether the issuer has newer ones.
        """
        if self._may_try():
            self._try()
        elif self._attempt is None:
            if self._has_failed:
                raise self.not_decided()
            return None
        await self._attempted()
        if self._has_failed:
            raise self.not_decided()
        return self.keys

    def not_decided(self) -> NotDecided:
        """Return the failure of a request whose token cannot be checked now."""
        error = NotDecided("The issuer of the token does not answer, so the token cannot be checked.")
        left_s = self._tried_at + BETWEEN_S - self._clock()
        error.headers["Retry-After"] = str(max(1, math.ceil(min(left_s, BETWEEN_S))))
        return error

    @property
    def is_busy(self) -> bool:
        """Whether an attempt is under way."""
        return self._attempt is not None

    async def close(self) -> None:
        """End what is under way."""
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait({self._attempt})

    # --- attempts

    def _age_s(self) -> float:
        return self._clock() - self._fetched_at

    def _need(self) -> Need:
        return need_of(self._age_s(), has_failed=self._has_failed)

    def _may_try(self) -> bool:
        # A clock that was set back does not put it off.
        return self._attempt is None and not 0 <= self._clock() - self._tried_at < BETWEEN_S

    def _try(self) -> None:
        self._tried_at = self._clock()
        self._attempt = asyncio.ensure_future(self._fetch())

    async def _attempted(self) -> None:
        """Wait for the attempt that is under way; whoever stops waiting leaves it to the others."""
        if self._attempt is not None:
            await asyncio.wait({self._attempt})

    async def _fetch(self) -> None:
        try:
            text = await self.fetcher.key_set()
            keys = self.keys if self.keys is not None and self.keys.text == text else KeySet(text)
        except (FetchFailed, ValueError) as exc:
            self._has_failed = True
            self._note("issuer_failed", issuer=self.issuer.url, error=str(exc))
        else:
            self._has_failed = False
            self._fetched_at = self._clock()
            if keys is not self.keys:
                self.keys = keys
                self._note("issuer_keys", issuer=self.issuer.url, keys=len(keys))
        finally:
            self._attempt = None
