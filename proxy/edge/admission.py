"""
How many requests a worker runs at once, how many wait for their turn, and how many bytes of bodies it holds.

    arrives -+- a place is free ------------------------------------------> runs -> leaves
             +- none is, the queue has room -> waits -+- one has left ----> runs
             |                                        +- queue_timeout_s -> Overloaded
             |                                        +- pushed out ------> Overloaded
             +- none is, the queue is full ------------------------------> Overloaded

Interactive requests go before batch requests, and each kind in the order in which it came. Where the queue is full, an
interactive request pushes out the batch request that came last.

A request that finds a free place pays for a counter, and for no future, timer or task: 0.9 µs, `hold()` included
(CPython 3.11.7, 2026-11-26, two shared cores).

A place is handed over by who leaves: it is never free while somebody waits. Whoever is cancelled between being handed
a place and waking up hands it on.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum, IntEnum
from hashlib import sha256
from types import TracebackType
from typing import Final, Protocol, Self

from multidict import istr

from proxy.config import Config
from proxy.errors import InvalidRequest, Overloaded
from proxy.observe.metrics import Metrics


class Priority(IntEnum):
    """Who goes first: the lower number."""

    INTERACTIVE = 0
    BATCH = 1


class Reason(Enum):
    """Why a request is shed, in the words of the metrics."""

    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    BUFFERED_BYTES = "buffered_bytes"


#: The header by which a client says how urgent a request is.
PRIORITY_HEADER: Final = istr("x-proxy-priority")

_INTERACTIVE: Final = Priority.INTERACTIVE
_AUTHORIZATION: Final = istr("Authorization")
#: Anthropic's header for a key
_API_KEY: Final = istr("x-api-key")
_PRIORITIES: Final = {"interactive": Priority.INTERACTIVE, "batch": Priority.BATCH}


class Queued(Protocol):
    """Where it is written down how long a request waited, in milliseconds."""

    queue_ms: float | None


class Place:
    """One request's place; see `Admission.place`. Its methods are for who has entered it."""

    __slots__ = ("_admission", "_held", "_priority", "record", "turn", "waited_ms")

    #: of a place that waits: None is its turn, a reason is that it will not come
    turn: asyncio.Future[Reason | None]
    #: how long it waited; None if it did not have to
    waited_ms: float | None
    #: who is told that, also if the turn does not come
    record: Queued | None

    def __init__(self, admission: "Admission", priority: Priority, record: Queued | None) -> None:
        self._admission = admission
        self._priority = priority
        self._held = 0
        self.waited_ms = None
        self.record = record

    async def __aenter__(self) -> Self:
        admission = self._admission
        if admission.in_flight < admission.max_in_flight:
            admission.in_flight += 1
        else:
            await admission.wait(self, self._priority)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave(self._held)

    def hold(self, n_bytes: int) -> None:
        """
        Count bytes of a body as held by the worker, before they are read, until the place is left.

        Raises:
            Overloaded: it would hold too many. A body that is the only one always fits, however large.
        """
        admission = self._admission
        held = self._held + n_bytes
        total = admission.buffered_bytes + n_bytes
        if held < total > admission.max_buffered_bytes:
            raise admission.overloaded(Reason.BUFFERED_BYTES)
        self._held = held
        admission.buffered_bytes = total

    def give_up(self) -> None:
        """The waiting has lasted too long."""
        if not self.turn.done():
            self.turn.set_result(Reason.QUEUE_TIMEOUT)


class Admission:
    """
    The bounds of one worker: `async with admission.place(priority) as place: ...` around a request.

    `in_flight`, `queued` and `buffered_bytes` are what they are now. For the thread of one loop.
    """

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._metrics = metrics
        self.in_flight = 0
        self.buffered_bytes = 0
        self._waiting: Final = OrderedDict[Place, None](), OrderedDict[Place, None]()
        self._pace: Final = _Pace()
        self.resize(config)

    def resize(self, config: Config) -> None:
        """Have the bounds and the keys of `config` from now on. Who runs or waits already is not shed for it."""
        self.max_in_flight = config.max_in_flight
        self.max_buffered_bytes = config.max_buffered_bytes
        self._max_queue = config.max_queue
        self._queue_timeout_s = config.queue_timeout_s
        self._batch_keys = frozenset(_digest(key) for word in config.batch_keys.split(",") if (key := word.strip()))
        self._admit()

    @property
    def queued(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting))

    def priority(self, headers: Mapping[str, str]) -> Priority:
        """
        Return the priority of a request: batch if its key or its header says so.

        Raises:
            InvalidRequest: the header says something else than `interactive` or `batch`.
        """
        asked = headers.get(PRIORITY_HEADER)
        if asked is None and not self._batch_keys:
            return _INTERACTIVE
        priority = _INTERACTIVE if asked is None else _PRIORITIES.get(asked.strip().lower())
        if priority is None:
            raise InvalidRequest(f"{PRIORITY_HEADER}: use interactive or batch.", param=str(PRIORITY_HEADER))
        return Priority.BATCH if self._batch_keys and self._has_batch_key(headers) else priority

    def place(self, priority: Priority, record: Queued | None = None) -> Place:
        """
        Return a place to enter with `async with`; entering waits for its turn.

        Raises:
            Overloaded: on entering: the queue is full, or the turn did not come in time.
        """
        return Place(self, priority, record)

    # --- for Place

    async def wait(self, place: Place, priority: Priority) -> None:
        """Return when it is this place's turn, which the caller then has."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        self._pace.look(since)
        self._make_room(priority)
        place.turn = loop.create_future()
        queue = self._waiting[priority]
        queue[place] = None
        self.tell()
        timer = loop.call_later(self._queue_timeout_s, place.give_up)
        try:
            reason = await place.turn
        except asyncio.CancelledError:
            if not place.turn.cancelled() and place.turn.result() is None:
                self.leave(0)  # the turn came together with the cancelling
            raise
        finally:
            timer.cancel()
            queue.pop(place, None)
            self.tell()
            place.waited_ms = round((loop.time() - since) * 1000, 3)
            if place.record is not None:
                place.record.queue_ms = place.waited_ms
        if reason is not None:
            raise self.overloaded(reason)

    def leave(self, held_bytes: int) -> None:
        """A place is given back."""
        self.buffered_bytes -= held_bytes
        self.in_flight -= 1
        self._pace.ended += 1
        interactive, batch = self._waiting
        if interactive or batch:
            self._admit()

    def overloaded(self, reason: Reason) -> Overloaded:
        """Count a request that is shed, and return its error."""
        self._metrics.count_shed(reason.value)
        error = Overloaded(self._message(reason))
        retry_after_s = self._pace.seconds_for(self.queued + 1, asyncio.get_running_loop().time())
        error.headers["Retry-After"] = str(retry_after_s)
        return error

    def tell(self) -> None:
        """Write down what waits and what is held. It is done whenever the queue changes; bytes change too often."""
        self._metrics.waiting(self.queued, self.buffered_bytes)

    # --- the queue

    def _admit(self) -> None:
        for queue in self._waiting:
            while queue and self.in_flight < self.max_in_flight:
                place, _ = queue.popitem(last=False)
                if not place.turn.done():  # else it was cancelled or shed, and has not woken up yet
                    place.turn.set_result(None)
                    self.in_flight += 1

    def _make_room(self, priority: Priority) -> None:
        if self.queued < self._max_queue:
            return
        batch = self._waiting[Priority.BATCH]
        if priority is Priority.BATCH or not batch:
            raise self.overloaded(Reason.QUEUE_FULL)
        youngest, _ = batch.popitem()
        if not youngest.turn.done():
            youngest.turn.set_result(Reason.QUEUE_FULL)

    def _message(self, reason: Reason) -> str:
        if reason is Reason.QUEUE_FULL:
            return f"max_queue: {self.max_in_flight} requests run, and {self._max_queue} wait already."
        if reason is Reason.QUEUE_TIMEOUT:
            return f"queue_timeout_s: the request did not get its turn within {self._queue_timeout_s:g} s."
        return f"max_buffered_bytes: bodies of {self.buffered_bytes} bytes are held already."

    def _has_batch_key(self, headers: Mapping[str, str]) -> bool:
        text = headers.get(_AUTHORIZATION) or f"Bearer {headers.get(_API_KEY, '')}"
        scheme, _, key = text.strip().partition(" ")
        return scheme.lower() == "bearer" and _digest(key.strip()) in self._batch_keys


def _digest(key: str) -> bytes:
    # Digests are compared instead of keys: how long that takes says nothing about a key, and none is kept here.
    return sha256(key.encode(errors="surrogateescape")).digest()


class _Pace:
    """How fast requests end, as far as a full worker has seen of late. It is looked at only when there is no place."""

    def __init__(self) -> None:
        #: how many have ended since the start
        self.ended = 0
        self._since = -math.inf
        self._ended_then = 0
        self._each_s = 0.0

    def look(self, now: float) -> None:
        """Begin a new stretch where the last one is long enough; one that is too long is of another time."""
        lasted = now - self._since
        if lasted < _STRETCH_S:
            return
        ended = self.ended - self._ended_then
        self._each_s = lasted / ended if ended and lasted < 2 * _STRETCH_S else 0.0
        self._since, self._ended_then = now, self.ended

    def seconds_for(self, requests: int, now: float) -> int:
        """Return how long it takes, as it seems, until so many have ended; a second where nothing is known."""
        self.look(now)
        ended = self.ended - self._ended_then
        each_s = (now - self._since) / ended if ended else self._each_s
        return min(max(1, math.ceil(requests * each_s)), _LONGEST_RETRY_AFTER_S)


#: Arbitrary: long enough for some ends of long answers, short enough to be recent.
_STRETCH_S: Final = 30.0
#: Arbitrary: the estimate is not worth more. openai-python 3.54.0 heeds up to two minutes (MAX_RETRY_AFTER_DELAY).
_LONGEST_RETRY_AFTER_S: Final = 60
