"""
The arithmetic of limits, without a clock, a store or a wait: GCRA for requests and tokens, sums for days and leases.

    requests per minute   each costs 60 / N seconds of the bucket's time; burst_s seconds' worth may come at once
    tokens per minute     the same with the request's tokens as its cost; a full minute's worth may come at once
    tokens per day        a sum that begins again at 00:00 UTC
    concurrent requests   how many leases there are

GCRA keeps one number for a bucket: the theoretical arrival time, at which the bucket is empty again. It is never too
generous: in any `t` seconds the requests (or tokens) admitted are at most `burst + rate * (t + SLACK_S)`, where
`burst` is max(1, N * burst_s / 60) requests, or N tokens. Source of the algorithm: ITU-T I.371, annex A.1 (virtual
scheduling); an increment that differs from cell to cell is the same algorithm with a cost.

Tokens are charged before they are counted. `settled` puts that right: too little moves the arrival time forward, maybe
beyond the burst, so that later requests wait; too much moves it back, but only by what of this very charge has not
flowed off yet. What has flowed off was paid for by time, and giving it back would admit more than the bound.
"""

from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from proxy.config import Rates

MINUTE_S: Final = 60.0
DAY_S: Final = 86_400

#: Times are doubles: after a few thousand additions a full bucket's may be off by so much, and still is full.
SLACK_S: Final = 1e-6

#: A retry that cannot succeed: the request alone is over the whole burst.
NEVER: Final = float("inf")

#: Arbitrary: when a running request will end is not known, so that is when to ask again.
_LEASE_RETRY_S: Final = 1.0


class Limit(IntEnum):
    """Which of a rate's limits."""

    REQUESTS = 0
    TOKENS = 1
    DAY = 2
    CONCURRENT = 3


class Terms(NamedTuple):
    """Rates as the arithmetic needs them. 0 is no limit, but for the two depths."""

    requests_per_minute: int
    request_s: float
    """what one request costs of the bucket's time"""
    requests_depth_s: float
    """how much time the bucket for requests holds"""
    tokens_per_minute: int
    token_s: float
    tokens_per_day: int
    max_concurrent: int

    @property
    def is_none(self) -> bool:
        """Whether nothing is limited."""
        return not (self.requests_per_minute or self.tokens_per_minute or self.tokens_per_day or self.max_concurrent)


def terms_of(rates: Rates) -> Terms:
    """Return the terms of `rates`."""
    request_s = MINUTE_S / rates.requests_per_minute if rates.requests_per_minute else 0.0
    return Terms(
        requests_per_minute=rates.requests_per_minute,
        request_s=request_s,
        requests_depth_s=max(request_s, rates.burst_s),
        tokens_per_minute=rates.tokens_per_minute,
        token_s=MINUTE_S / rates.tokens_per_minute if rates.tokens_per_minute else 0.0,
        tokens_per_day=rates.tokens_per_day,
        max_concurrent=rates.max_concurrent,
    )


class Levels(NamedTuple):
    """How full the buckets of one charge are: seconds until each is empty, the day's tokens, and the leases."""

    requests_s: float = 0.0
    tokens_s: float = 0.0
    day_tokens: float = 0.0
    running: int = 0


class Mark(NamedTuple):
    """What a charge left behind, for its settlement. Times are those of the store that charged."""

    tokens_end_s: float
    """when the last of its tokens will have flowed off, if nothing before it is given back"""
    given_back_s: float
    """the bucket's `given_back_s` at that time"""
    day: int


class Bucket(msgspec.Struct):
    """What a store keeps of one charge's key, leases excepted. All zeros is a bucket that nobody has used."""

    requests_at_s: float = 0.0
    tokens_at_s: float = 0.0
    given_back_s: float = 0.0
    """seconds of tokens given back so far: those behind them flow off earlier by as much"""
    day_tokens: float = 0.0
    day: int = 0

    def levels(self, now_s: float, today: int, running: int) -> Levels:
        """Return how full it is."""
        return Levels(
            requests_s=max(self.requests_at_s - now_s, 0.0),
            tokens_s=max(self.tokens_at_s - now_s, 0.0),
            day_tokens=self.day_tokens if self.day == today else 0.0,
            running=running,
        )

    def charge(self, terms: Terms, before: Levels, tokens: int, now_s: float, today: int) -> Mark:
        """Take a request of so many tokens, which must fit; return what is needed to settle it."""
        if terms.requests_per_minute:
            self.requests_at_s = now_s + before.requests_s + terms.request_s
        if terms.tokens_per_minute:
            self.tokens_at_s = now_s + before.tokens_s + tokens * terms.token_s
        if terms.tokens_per_day:
            self.day, self.day_tokens = today, before.day_tokens + tokens
        return Mark(self.tokens_at_s, self.given_back_s, today)

    def settle(self, terms: Terms, mark: Mark, charged: int, used: int, now_s: float) -> None:
        """Correct a charge of `charged` tokens to what was used. A day that is over keeps its estimate."""
        level_s = max(self.tokens_at_s - now_s, 0.0)
        if terms.tokens_per_minute and used > charged:
            self.tokens_at_s = now_s + level_s + (used - charged) * terms.token_s
        elif terms.tokens_per_minute:
            behind_s = self.given_back_s - mark.given_back_s
            # A bucket that was lost has given back less than before: nothing is known of what is left then.
            left_s = mark.tokens_end_s - behind_s - now_s if behind_s >= 0 else 0.0
            back_s = min((charged - used) * terms.token_s, left_s, level_s)
            if back_s > 0:
                self.tokens_at_s -= back_s
                self.given_back_s += back_s
        if terms.tokens_per_day and self.day == mark.day:
            self.day_tokens = max(0.0, self.day_tokens + used - charged)


def wait_s(limit: Limit, terms: Terms, levels: Levels, tokens: int, day_left_s: float) -> float:
    """Return how long it takes until this limit has room for a request of so many tokens: 0 is now, see `NEVER`."""
    match limit:
        case Limit.REQUESTS if terms.requests_per_minute:
            wait = levels.requests_s + terms.request_s - terms.requests_depth_s
        case Limit.TOKENS if terms.tokens_per_minute:
            wait = levels.tokens_s + tokens * terms.token_s - MINUTE_S
            if tokens > terms.tokens_per_minute:
                return NEVER
        case Limit.DAY if terms.tokens_per_day and levels.day_tokens + tokens > terms.tokens_per_day:
            return NEVER if tokens > terms.tokens_per_day else day_left_s
        case Limit.CONCURRENT if terms.max_concurrent and levels.running >= terms.max_concurrent:
            return _LEASE_RETRY_S
        case _:
            return 0.0
    return wait if wait > SLACK_S else 0.0


def fits(terms: Terms, levels: Levels, tokens: int) -> bool:
    """Return whether no limit has to be waited for; `wait_s` in one line each, since every request pays for it."""
    requests_s, tokens_s, day_tokens, running = levels
    if terms.requests_per_minute and requests_s + terms.request_s - terms.requests_depth_s > SLACK_S:
        return False
    if terms.tokens_per_minute and (
        tokens > terms.tokens_per_minute or tokens_s + tokens * terms.token_s - MINUTE_S > SLACK_S
    ):
        return False
    if terms.tokens_per_day and day_tokens + tokens > terms.tokens_per_day:
        return False
    return not (terms.max_concurrent and running >= terms.max_concurrent)


class Room(NamedTuple):
    """How much of a limit is left, as clients are told it."""

    limit: int
    remaining: int
    """how many may come at once now"""
    reset_s: float
    """the time until nothing of it is used"""


def room_for_requests(terms: Terms, requests_s: float) -> Room | None:
    """Return what is left of a minute's requests; None is no limit."""
    if not terms.requests_per_minute:
        return None
    free = (terms.requests_depth_s - requests_s + SLACK_S) / terms.request_s
    return _room(terms.requests_per_minute, free, requests_s)


def room_for_tokens(terms: Terms, tokens_s: float) -> Room | None:
    """Return what is left of a minute's tokens; None is no limit."""
    if not terms.tokens_per_minute:
        return None
    return _room(terms.tokens_per_minute, (MINUTE_S - tokens_s + SLACK_S) / terms.token_s, tokens_s)


def room_in_day(terms: Terms, day_tokens: float, day_left_s: float) -> Room | None:
    """Return what is left of a day's tokens; None is no limit."""
    if not terms.tokens_per_day:
        return None
    return _room(terms.tokens_per_day, terms.tokens_per_day - day_tokens, day_left_s if day_tokens else 0.0)


def _room(limit: int, free: float, reset_s: float) -> Room:
    return Room(limit, 0 if free <= 0 else min(int(free), limit), reset_s)


def tighter(one: Room | None, other: Room | None) -> Room | None:
    """Return the room of which less is left; of two alike the one that takes longer to come back."""
    if one is None or other is None:
        return one or other
    return other if (other.remaining, -other.reset_s) < (one.remaining, -one.reset_s) else one
