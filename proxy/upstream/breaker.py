"""
The circuit breaker of one replica: whether new requests may go there.

    CLOSED --tripped--> OPEN --health check passed, or a request did--> HALF_OPEN --a request succeeded--> CLOSED
                          ^                                                |
                          +-------------------- tripped -------------------+

A refused connection trips it at once, other failures when there were `eject_after` in a row. 4xx are no failures: a
client's mistake must not take a replica from everybody (sglang#25811, vllm-project/router#60).
An open breaker waits before the replica is looked at again, twice as long after each time it was opened in vain.
HALF_OPEN lets one request through at a time.
"""

from enum import IntEnum
from types import MappingProxyType
from typing import Final

#: Arbitrary: a replica that was down for long is found again within this, in seconds.
LONGEST_WAIT_S: Final = 60.0


class State(IntEnum):
    """See the picture at the top."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


class Event(IntEnum):
    """What moves a breaker."""

    SUCCEEDED = 0
    """A request came to its end."""
    TRIPPED = 1
    """A failure that is one too many."""
    HEALTHY = 2
    """The replica answered its health check, after the wait."""


_NEXT: Final = MappingProxyType(
    {
        (State.CLOSED, Event.SUCCEEDED): State.CLOSED,
        (State.CLOSED, Event.TRIPPED): State.OPEN,
        (State.CLOSED, Event.HEALTHY): State.CLOSED,
        (State.OPEN, Event.SUCCEEDED): State.HALF_OPEN,
        (State.OPEN, Event.TRIPPED): State.OPEN,
        (State.OPEN, Event.HEALTHY): State.HALF_OPEN,
        (State.HALF_OPEN, Event.SUCCEEDED): State.CLOSED,
        (State.HALF_OPEN, Event.TRIPPED): State.OPEN,
        (State.HALF_OPEN, Event.HEALTHY): State.HALF_OPEN,
    }
)


class Breaker:
    """
    A breaker; all times are the caller's clock, in seconds. The methods return whether the state changed.

    `looks_at` is when an open breaker's replica may be looked at again.
    """

    __slots__ = ("_eject_after", "_eject_s", "_failures", "_openings", "looks_at", "state")

    def __init__(self, eject_after: int, eject_s: float) -> None:
        self._eject_after = eject_after
        self._eject_s = eject_s
        self.state = State.CLOSED
        self.looks_at = 0.0
        self._failures = 0
        self._openings = 0

    @property
    def badness(self) -> tuple[int, int]:
        """The lower, the likelier is an answer: for the choice among replicas none of which is well."""
        return (0 if self.state is State.HALF_OPEN else self._openings, self._failures)

    def succeeded(self) -> bool:
        """A request came to its end."""
        self._failures = 0
        return self.state is not State.CLOSED and self._move(Event.SUCCEEDED)

    def failed(self, now: float) -> bool:
        """A request failed, and the replica is at fault."""
        self._failures += 1
        is_one_too_many = self.state is State.HALF_OPEN or self._failures >= self._eject_after
        return is_one_too_many and self.trip(now)

    def trip(self, now: float) -> bool:
        """Open at once: nothing listens there, or nothing moves."""
        self._failures = max(self._failures, 1)
        if self.state is State.OPEN:  # those that were sent before tell nothing new
            return False
        self.looks_at = now + min(self._eject_s * 2**self._openings, LONGEST_WAIT_S)
        self._openings += 1
        return self._move(Event.TRIPPED)

    def unhealthy(self, now: float) -> None:
        """An open breaker's replica was looked at in vain."""
        self.looks_at = now + min(self._eject_s * 2**self._openings, LONGEST_WAIT_S)
        self._openings = min(self._openings + 1, _MOST_DOUBLINGS)

    def healthy(self) -> bool:
        """The replica answered its health check."""
        return self._move(Event.HEALTHY)

    def _move(self, event: Event) -> bool:
        before, self.state = self.state, _NEXT[self.state, event]
        if self.state is State.CLOSED:
            self._openings = 0
        return self.state is not before


#: 2**10 times any wait is over the longest one; more would only grow the number.
_MOST_DOUBLINGS: Final = 10
