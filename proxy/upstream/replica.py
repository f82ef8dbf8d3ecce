"""One model server that requests may go to, and what this process knows of it."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Protocol

from proxy.config import Backend
from proxy.translate.capabilities import Findings
from proxy.translate.profile import Profile
from proxy.upstream.breaker import Breaker, State
from proxy.upstream.choice import digest
from proxy.upstream.client import Connections

#: Arbitrary: the share of its weight that a returning replica begins with.
_FIRST_SHARE: Final = 0.1


class Tally(Protocol):
    """What is counted of one replica, for metrics."""

    def began(self) -> None:
        """A request is sent to it."""

    def ended(self) -> None:
        """A request runs there no more."""

    def failed(self) -> None:
        """A request failed, and the replica is at fault."""

    def moved(self, state: int) -> None:
        """Its breaker is in this state now."""

    def serves(self, model: str) -> None:
        """It says that it serves this model."""

    def forget(self) -> None:
        """It is gone."""


class Sight(Enum):
    """What the last look at a replica showed."""

    UNSEEN = "unseen"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Replica:
    """
    See the module. `weight` is in effect, slow start included; `in_flight` are the requests of this process alone.

    `resting_until` is when a replica that asked for a pause (Retry-After) may be asked again, in the loop's time.
    """

    __slots__ = (
        *("_started_at", "backend", "breaker", "connections", "findings", "in_flight", "is_on_trial"),
        *("key", "learned", "misses", "name", "profile", "resting_until", "sight", "tally", "wants_probe", "weight"),
    )

    def __init__(
        self, name: str, backend: Backend, connections: Connections, breaker: Breaker, profile: Profile, tally: Tally
    ) -> None:
        self.name = name
        self.backend = backend
        self.connections = connections
        self.breaker = breaker
        self.profile = profile
        self.tally = tally
        #: the same in every worker and in every instance, so that they agree without talking
        self.key = digest(name.encode())
        self.weight = backend.weight
        self.in_flight = 0
        self.resting_until = 0.0
        self.sight = Sight.UNSEEN
        #: health checks in a row that it did not pass
        self.misses = 0
        #: whether its half-open breaker has let a request through that is not over yet
        self.is_on_trial = False
        self.wants_probe = True
        #: what it was found to tolerate, and what its refusals have taught since
        self.findings: Findings | None = None
        self.learned: Mapping[str, Any] = {}
        self._started_at: float | None = None
        tally.moved(State.CLOSED)

    @property
    def zone(self) -> str:
        """Where it stands; "" is nowhere in particular."""
        return self.backend.zone

    def serves(self, model: str) -> bool:
        """Whether `model` is one of those it is there for. "" is a request that names none, or that cannot be read."""
        return not model or not self.backend.models or model in self.backend.models

    def may_get_more(self, now: float) -> bool:
        """Whether new requests may go there."""
        state = self.breaker.state
        is_open = state is State.OPEN or (state is State.HALF_OPEN and self.is_on_trial)
        return not is_open and self.resting_until <= now

    def start_slowly(self, now: float) -> None:
        """It has returned: its caches are cold, and what waits must not go there all at once."""
        self._started_at = now

    def warm_up(self, now: float, slow_start_s: float) -> None:
        """Bring the weight to what is due at this time of a slow start."""
        if self._started_at is None:
            return
        share = (now - self._started_at) / slow_start_s if slow_start_s else 1.0
        self.weight = self.backend.weight * min(1.0, max(_FIRST_SHARE, share))
        if share >= 1:
            self._started_at = None
