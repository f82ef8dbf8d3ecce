"""
What is asked of a store of limits, and what it answers. One request is one decision about up to three charges.

    decide(charges, tokens) --every limit has room--> Taken --settle(used)--> ... --release()-->
                            \\--one has not---------> Refusal: nothing is charged, of no charge

A charge is a key and its terms. The keys are digests, so that a store knows no names.
"""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

import msgspec

from proxy.store.gcra import (
    DAY_S,
    SLACK_S,
    Levels,
    Limit,
    Mark,
    Room,
    Terms,
    room_for_requests,
    room_for_tokens,
    room_in_day,
    tighter,
    wait_s,
)

_DIGEST_BYTES: Final = 16


#: What happens to a store, and is worth counting: `Count` is called with one of them.
#:   down          it stopped answering                 alone      an instance decided by itself meanwhile
#:   undecided     a request was refused meanwhile      dropped    something posted was lost
#:   evicted       a key lost its slot in memory        lockless   a process went on without the lock
EVENTS: Final = ("down", "alone", "undecided", "dropped", "evicted", "lockless")
Count = Callable[[str], None]


class Scope(Enum):
    """Over what a charge counts."""

    PRINCIPAL = "principal"
    PRINCIPAL_MODEL = "principal_model"
    MODEL = "model"


class Charge(msgspec.Struct, frozen=True):
    """One account that a request is charged to."""

    scope: Scope
    key: bytes
    """16 bytes, from `key_of`"""
    terms: Terms


def key_of(scope: Scope, principal: str, model: str) -> bytes:
    """Return the key of an account: the same in every process and instance."""
    # The length keeps names apart that hold each other's separator.
    text = f"{scope.value}:{len(principal)}:{principal}:{model}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


class Taken(msgspec.Struct, frozen=True):
    """What an admitted request was charged; `settle()` and `release()` want it back, once each."""

    charges: tuple[Charge, ...]
    marks: tuple[Mark, ...]
    tokens: int
    lease: bytes
    """whose the leases are, where a store tells them apart"""
    until_s: float
    """the end of the day that was charged, in the time of `marks`"""


class Refusal(NamedTuple):
    """The limit that holds a request up the longest."""

    scope: Scope
    limit: Limit
    most: int
    """what the limit is"""
    at_once: int
    """how much of it may come at once"""
    used: int
    """how much has not flowed off yet; more than may be, where an estimate was too low"""
    wait_s: float
    """when to ask again; `NEVER` where that cannot help"""


class Decision(msgspec.Struct, frozen=True):
    """Exactly one of `taken` and `refusal` is there. The rooms are what is left after it."""

    taken: Taken | None
    refusal: Refusal | None
    requests: Room | None
    """the tightest limit of requests"""
    tokens: Room | None
    """the tightest limit of tokens, of a minute or a day"""


class Store(Protocol):
    """Keeps the accounts. There are two: this machine's memory, and a server that instances share."""

    async def decide(self, charges: tuple[Charge, ...], tokens: int) -> Decision:
        """
        Charge a request of so many tokens to all `charges`, or to none.

        Raises:
            StoreDown: it cannot be asked now.
        """

    def settle(self, taken: Taken, used: int) -> None:
        """Put right what was charged: so many tokens were used. Soon, and not at all if the store is gone."""

    def release(self, taken: Taken) -> None:
        """The request is over: give its leases back. Soon; if the store is gone, they expire."""


def decision(
    charges: tuple[Charge, ...], levels: Sequence[Levels], tokens: int, day_left_s: float, taken: Taken | None
) -> Decision:
    """Return the decision of a store that found these levels; `taken` is None if it refused."""
    of_requests: Room | None = None
    of_tokens: Room | None = None
    for charge, level in zip(charges, levels, strict=True):
        terms, (requests_s, tokens_s, day_tokens, _) = charge.terms, level
        if taken is not None:
            requests_s, tokens_s = requests_s + terms.request_s, tokens_s + tokens * terms.token_s
            day_tokens += tokens
        of_requests = tighter(of_requests, room_for_requests(terms, requests_s))
        of_tokens = tighter(of_tokens, room_for_tokens(terms, tokens_s))
        of_tokens = tighter(of_tokens, room_in_day(terms, day_tokens, day_left_s))
    refusal = None if taken is not None else _refusal(charges, levels, tokens, day_left_s)
    return Decision(taken=taken, refusal=refusal, requests=of_requests, tokens=of_tokens)


def _refusal(charges: tuple[Charge, ...], levels: Sequence[Levels], tokens: int, day_left_s: float) -> Refusal:
    waits = [
        (wait_s(limit, charge.terms, level, tokens, day_left_s), charge, limit, level)
        for charge, level in zip(charges, levels, strict=True)
        for limit in Limit
    ]
    wait, charge, limit, level = max(waits, key=lambda found: found[0])
    most, at_once, used = _state_of(limit, charge.terms, level)
    return Refusal(charge.scope, limit, most, at_once, used, wait)


def _state_of(limit: Limit, terms: Terms, levels: Levels) -> tuple[int, int, int]:
    """Return how much a limit is, how much of it may come at once, and how much is used."""
    match limit:
        case Limit.REQUESTS:
            at_once = int((terms.requests_depth_s + SLACK_S) / terms.request_s)
            return terms.requests_per_minute, at_once, _whole(levels.requests_s / terms.request_s)
        case Limit.TOKENS:
            most = terms.tokens_per_minute
            return most, most, _whole(levels.tokens_s / terms.token_s)
        case Limit.DAY:
            return terms.tokens_per_day, terms.tokens_per_day, _whole(levels.day_tokens)
        case Limit.CONCURRENT:
            return terms.max_concurrent, terms.max_concurrent, levels.running


def _whole(number: float) -> int:
    """Round up, but for what doubles add."""
    return math.ceil(number - SLACK_S)


def day_of(epoch_s: float) -> tuple[int, float]:
    """Return the number of the UTC day, and how long it still lasts."""
    day, gone_s = divmod(epoch_s, DAY_S)
    return int(day), DAY_S - gone_s
