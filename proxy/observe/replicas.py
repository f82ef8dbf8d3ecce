"""
What is counted of each replica, by all workers together.

Replicas come and go while the workers run, so their names stand beside their numbers: a fixed number of places in
shared memory, each with a name and, for each worker, a row of numbers. A place whose replica no worker has any more is
given to the next one that needs it. The label's values are so bounded, however many replicas come and go.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from proxy.observe.layout import Family, Kind
from proxy.observe.shared import LONGEST_NAME, OTHER, Names, SharedLock

#: Arbitrary: the replicas that can be told apart. Those beyond share the last place, which is called `other`.
PLACES: Final = 1024

_STATES: Final = ("closed", "open", "half_open")

#: Where each number stands in a row of 8: a cache line.
_KNOWN, _IN_FLIGHT, _STATE, _REQUESTS, _FAILURES, _OPENINGS = range(6)
_STEP: Final = 8


class ReplicaCount:
    """The numbers of one replica in this worker; see `Tally` in upstream/replica.py."""

    __slots__ = ("_learn", "_row")

    def __init__(self, row: "memoryview[float]", learn: Callable[[Iterable[str]], None]) -> None:
        self._row = row
        self._learn = learn

    def began(self) -> None:
        """A request is sent to it."""
        self._row[_REQUESTS] += 1
        self._row[_IN_FLIGHT] += 1

    def ended(self) -> None:
        """A request runs there no more."""
        self._row[_IN_FLIGHT] -= 1

    def failed(self) -> None:
        """A request failed, and the replica is at fault."""
        self._row[_FAILURES] += 1

    def moved(self, state: int) -> None:
        """Its breaker is in this state now: 0 closed, 1 open, 2 half-open."""
        if state == _STATES.index("open") and self._row[_STATE] != state:
            self._row[_OPENINGS] += 1
        self._row[_STATE] = state

    def serves(self, model: str) -> None:
        """It says that it serves this model."""
        self._learn((model,))

    def forget(self) -> None:
        """This worker has it no more, once for each `tally()`: nothing may be counted after that."""
        self._row[_KNOWN] -= 1


class ReplicaCounts:
    """The numbers of all replicas. Build it before forking; a worker calls `use()` first."""

    def __init__(self, workers: int, learn: Callable[[Iterable[str]], None] = lambda _: None) -> None:
        """`learn` is told of the models that replicas say they serve."""
        self._workers = workers
        self._learn = learn
        self._numbers = memoryview(mmap.mmap(-1, workers * PLACES * _STEP * 8)).cast("d")
        self._names = Names(PLACES)
        self._lock = SharedLock()
        self._worker = 0

    def use(self, worker: int) -> None:
        """Count as this worker from now on; the first is 0."""
        self._worker = worker

    def tally(self, name: str) -> ReplicaCount:
        """Return where this worker counts the replica of that name."""
        with self._lock.held():
            place = self._place(name[:LONGEST_NAME])
            row = self._row(self._worker, place)
            row[_KNOWN] += 1  # one that is retired may still have the place of its successor
            row[_STATE] = 0
        return ReplicaCount(row, self._learn)

    def forget(self, worker: int) -> None:
        """This worker is dead: it has no replicas, and nothing runs there any more. What it counted stays."""
        for place in range(PLACES):
            row = self._row(worker, place)
            row[_KNOWN] = row[_IN_FLIGHT] = 0

    def told(self) -> tuple[Sequence[Family], Sequence[float]]:
        """Return the metrics, and the row in which their sums over all workers stand."""
        places = [place for place in self._named() if self._is_known(place)]
        names = tuple(map(self._names.get, places))
        rows = [[self._row(worker, place) for worker in range(self._workers)] for place in places]
        families: list[Family] = []
        numbers: list[float] = []
        for column, kind, name, about in _METRICS:
            families.append(Family(kind, name, about, len(numbers), {"replica": names}))
            numbers += [sum(row[column] for row in of_place) for of_place in rows]
        labels: Mapping[str, Sequence[str]] = {"replica": names, "state": _STATES}
        families.append(Family(Kind.GAUGE, "replica_breaker", "Workers whose breaker is so.", len(numbers), labels))
        for of_place in rows:
            known = [row[_STATE] for row in of_place if row[_KNOWN]]
            numbers += [known.count(state) for state in range(len(_STATES))]
        return families, numbers

    # --- places

    def _row(self, worker: int, place: int) -> "memoryview[float]":
        start = (worker * PLACES + place) * _STEP
        return self._numbers[start : start + _STEP]

    def _named(self) -> Iterator[int]:
        """Yield the places that have ever been given: they are given in order, but for the last."""
        for place in range(PLACES - 1):
            if not self._names.has(place):
                break
            yield place
        yield PLACES - 1

    def _is_known(self, place: int) -> bool:
        return any(self._numbers[(worker * PLACES + place) * _STEP + _KNOWN] for worker in range(self._workers))

    def _place(self, name: str) -> int:
        free: int | None = None
        for place in range(PLACES - 1):
            is_known = self._is_known(place)
            if self._names.get(place) == name:  # also one that was gone for a while: its numbers go on
                return place
            if not is_known and free is None:
                free = place
            if not is_known and not self._names.has(place):
                break
        place, name = (PLACES - 1, OTHER) if free is None else (free, name)
        self._give(place, name)
        return place

    def _give(self, place: int, name: str) -> None:
        if place != PLACES - 1:
            for worker in range(self._workers):
                self._row(worker, place)[:] = memoryview(bytes(_STEP * 8)).cast("d")
        self._names.give(place, name.encode("utf-8", "replace")[:LONGEST_NAME])


_METRICS: Final = (
    (_REQUESTS, Kind.COUNTER, "replica_requests", "Requests that were sent to a replica."),
    (_FAILURES, Kind.COUNTER, "replica_failures", "Requests that failed there, and the replica is at fault."),
    (_OPENINGS, Kind.COUNTER, "replica_breaker_openings", "Times that a worker's breaker opened."),
    (_IN_FLIGHT, Kind.GAUGE, "replica_in_flight", "Requests that run there now."),
)
