"""
Where a request may go, by where replicas stand: the proxy's own zone, then others in order.

    replicas that are well -> by zone, in order -> the first zone that has room -> the policy picks one of its replicas
                                                   \\- none has: all of them ----/

**The rule.** A zone has room while this worker runs fewer than `spill` requests there for each weight of 1, counting
the replicas that are well, with the weights in effect. Nothing else decides, so that one rule covers three cases:

    saturation   what its replicas cannot take goes on to the next zone, and only that
    loss         a zone with fewer replicas has less room, one with none has none
    return       weights begin at a tenth (slow start), and so does the room

It is a level and not a switch: a zone at its bound goes on with as many requests as it had, and each that ends makes
room for one. So there is no state that could flap, and no second bound below the first; what is slow on purpose is the
way back of a replica (breaker.py: the wait before it is looked at doubles; replica.py: its weight grows).

Envoy's zones and priorities decide by the share of hosts that are healthy, with a factor of 1.4 for the reserve that
they are assumed to have. Requests in flight are known here, so no reserve has to be assumed, and a zone whose replicas
are all healthy and all full is seen as well. Its panic threshold is the pool's: with no replica well, the least bad.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from proxy.upstream.choice import Load

#: Arbitrary: no more often than that the log says how many requests went elsewhere.
_TELL_S: Final = 60.0


class Placed(Load, Protocol):
    """What is seen of a replica here."""

    @property
    def zone(self) -> str:
        """Where it stands; "" is nowhere in particular."""


P = TypeVar("P", bound=Placed)


class Zone(NamedTuple, Generic[P]):
    """Replicas that stand together, at least one, and how many requests they may run before others are asked."""

    replicas: Sequence[P]
    room: float


def by_zone(replicas: Sequence[P], order: Sequence[str], spill: int) -> tuple[Zone[P], ...]:
    """
    Return the zones of `order` in this order, and last what stands in none of them, each if it has a replica.

    Without an order all is one zone. `spill` is how many requests a weight of 1 may have; 0 is any number.
    """
    if not order:
        return (_zone(replicas, spill),) if replicas else ()
    found: dict[str | None, list[P]] = {name: [] for name in (*order, None)}
    for replica in replicas:
        found[replica.zone if replica.zone in order else None].append(replica)
    return tuple(_zone(there, spill) for there in found.values() if there)


def with_room(zones: Sequence[Zone[P]]) -> Sequence[P]:
    """Return the replicas of the first zone that has room; those of all zones if none has."""
    if len(zones) == 1:
        return zones[0].replicas
    for zone in zones:
        if sum(map(_in_flight, zone.replicas)) < zone.room:
            return zone.replicas
    return [replica for zone in zones for replica in zone.replicas]


_in_flight: Final[Callable[[Load], int]] = attrgetter("in_flight")
_weight: Final[Callable[[Load], float]] = attrgetter("weight")


def _zone(replicas: Sequence[P], spill: int) -> Zone[P]:
    return Zone(replicas, spill * sum(map(_weight, replicas)) if spill else float("inf"))


class Zones(Generic[P]):
    """The zones of one pool, of replicas that are well: `use()`, then `refresh()` after every change of one of them."""

    def __init__(self, note: Callable[..., Any]) -> None:
        """`note` tells the log an event's name and its fields."""
        self._note = note
        self._order: Sequence[str] = ()
        self._spill = 0
        self._zones: Sequence[Zone[P]] = ()
        self._strangers = 0
        self._tells_at = 0.0

    def use(self, zone: str, spill: int) -> None:
        """`zone` names the proxy's own zone and those that come next, with commas between them; "" is no zones."""
        order = tuple(dict.fromkeys(name.strip() for name in zone.split(",") if name.strip()))
        if order != self._order:
            self._strangers = 0  # to another zone than one that was the proxy's own
        self._order, self._spill = order, spill

    def refresh(self, well: Sequence[P], now: float) -> None:
        """Take note of which replicas are well, and of their weights."""
        self._zones = by_zone(well, self._order, self._spill)
        if self._strangers and now >= self._tells_at:
            requests, self._strangers, self._tells_at = self._strangers, 0, now + _TELL_S
            self._note("zone_spilled", zone=self._order[0], requests=requests)

    def open_to(self, admits: Callable[[P], bool] | None) -> Sequence[P]:
        """Return the replicas among which a policy may pick, of those that `admits` admits; none if it admits none."""
        zones = self._zones
        if admits is not None:
            admitted = ([replica for replica in zone.replicas if admits(replica)] for zone in zones)
            zones = [_zone(replicas, self._spill) for replicas in admitted if replicas]
        return with_room(zones) if zones else ()

    def sent(self, replica: P) -> None:
        """Count a request if it went to another zone than the proxy's own."""
        if self._order and replica.zone != self._order[0]:
            self._strangers += 1
