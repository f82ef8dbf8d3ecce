"""
Places, queue and bytes of one worker: by an exact model, and by schedules in which things happen at the same moment.

The deadline of the queue is rung by hand, so no test waits for a clock.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import Config
from proxy.edge.admission import Admission, Place, Priority, Reason
from proxy.errors import InvalidRequest, Overloaded
from proxy.observe.metrics import SHED

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH


class Counts:
    """Metrics, as far as an admission uses them."""

    def __init__(self) -> None:
        self.shed: list[str] = []
        self.count_shed = self.shed.append
        self.gauges = (0, 0)

    def waiting(self, queued: int, buffered_bytes: int) -> None:
        self.gauges = (queued, buffered_bytes)


class Request:
    """A request that takes a place and keeps it until it is told to leave or is cancelled."""

    def __init__(self, admission: Admission, priority: Priority, came: list["Request"], number: int) -> None:
        self.priority, self.number = priority, number
        self.told_to_leave = asyncio.Event()
        self.place: Place | None = None
        self.state = "new"
        #: who came earlier, and had not got its turn when this one entered
        self.overtook: list[Request] = []
        self._came = came
        self.task = asyncio.create_task(self._run(admission))

    def __repr__(self) -> str:
        return f"{self.priority.name.lower()} {self.number} {self.state}"

    @property
    def lacks_turn(self) -> bool:
        return self.state == "waits" and not self.place.turn.done()

    def ring(self) -> None:
        if self.state == "waits":
            self.place.give_up()

    async def _run(self, admission: Admission) -> None:
        self.state = "waits"
        earlier = list(self._came)
        self._came.append(self)
        self.place = admission.place(self.priority)
        try:
            async with self.place as place:
                self.state = "runs"
                self.overtook = [other for other in earlier if other.priority is self.priority and other.lacks_turn]
                place.hold(10)
                await self.told_to_leave.wait()
            self.state = "left"
        except Overloaded:
            self.state = "shed"
        except asyncio.CancelledError:
            self.state = "cancelled"
            raise


async def settled() -> None:
    """Return when every task that can go on has done so."""
    for _ in range(8):
        await asyncio.sleep(0)


class Bench:
    """An admission and its requests, in the order in which they were made."""

    def __init__(self, **limits: Any) -> None:
        self.config = Config(**limits)
        self.metrics = Counts()
        self.admission = Admission(self.config, self.metrics)
        self.came: list[Request] = []
        self.requests: list[Request] = []

    def arrive(self, priority: Priority = INTERACTIVE) -> Request:
        request = Request(self.admission, priority, self.came, len(self.requests))
        self.requests.append(request)
        return request

    def those(self, state: str) -> list[Request]:
        return [request for request in self.requests if request.state == state]

    def pick(self, word: str, number: int) -> Request | None:
        """Return one of those to which this may happen."""
        those = self.those("runs") if word == "leave" else self.those("waits") or self.those("runs")
        return those[number % len(those)] if those else None

    async def end(self) -> None:
        """Let all go and look whether anything is left."""
        for _ in self.requests:
            for request in self.requests:
                request.told_to_leave.set()
            await settled()
        async with asyncio.timeout(5):
            await asyncio.gather(*(request.task for request in self.requests), return_exceptions=True)
        assert self.those("waits") == self.those("runs") == []
        assert (self.admission.in_flight, self.admission.queued, self.admission.buffered_bytes) == (0, 0, 0)


# --- one thing after the other: an exact model


def operations_of(*words: str) -> st.SearchStrategy[list[tuple[str, int]]]:
    """Return lists of a word and, for most words, to which of the requests that happens."""
    return st.lists(st.tuples(st.sampled_from(words), st.integers(0, 30)), min_size=10, max_size=60)


LIMITS = st.tuples(st.integers(1, 3), st.integers(0, 4))


class Model:
    """What should be so, by numbers of requests."""

    def __init__(self, max_in_flight: int, max_queue: int) -> None:
        self.max_in_flight, self.max_queue = max_in_flight, max_queue
        self.runs: list[int] = []
        self.waits: dict[Priority, list[int]] = {INTERACTIVE: [], BATCH: []}
        self.shed: list[int] = []

    def arrive(self, number: int, priority: Priority) -> None:
        if len(self.runs) < self.max_in_flight:
            self.runs.append(number)
            return
        if sum(map(len, self.waits.values())) >= self.max_queue:
            if priority is BATCH or not self.waits[BATCH]:
                self.shed.append(number)
                return
            self.shed.append(self.waits[BATCH].pop())
        self.waits[priority].append(number)

    def end(self, number: int) -> None:
        for group in (self.runs, *self.waits.values()):
            if number in group:
                group.remove(number)
        self.admit()

    def ring(self, number: int) -> None:
        if number in self.waits[INTERACTIVE] + self.waits[BATCH]:
            self.end(number)
            self.shed.append(number)

    def admit(self) -> None:
        while len(self.runs) < self.max_in_flight and (queue := self.waits[INTERACTIVE] or self.waits[BATCH]):
            self.runs.append(queue.pop(0))


@settings(deadline=None)
@given(LIMITS, operations_of("interactive", "interactive", "batch", "batch", "leave", "cancel", "ring", "resize"))
def test_who_runs_who_waits_and_who_is_shed_is_as_the_model_says(limits, operations):
    async def play() -> None:
        bench = Bench(max_in_flight=limits[0], max_queue=limits[1])
        model = Model(*limits)
        for word, number in operations:
            await one_operation(bench, model, word, number)
            await settled()
            assert [request.number for request in bench.those("runs")] == sorted(model.runs)
            waits = model.waits[INTERACTIVE] + model.waits[BATCH]
            assert [request.number for request in bench.those("waits")] == sorted(waits)
            assert [request.number for request in bench.those("shed")] == sorted(model.shed)
            admission = bench.admission
            assert (admission.in_flight, admission.queued) == (len(model.runs), len(waits))
            assert bench.metrics.gauges[0] == len(waits)
            assert admission.buffered_bytes == 10 * len(model.runs)
            assert len(bench.metrics.shed) == len(model.shed)
        await bench.end()
        # asyncio's own loop has no other way to say that no timer is left
        assert [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()] == []

    asyncio.run(play())


async def one_operation(bench: Bench, model: Model, word: str, number: int) -> None:
    if word in ("interactive", "batch"):
        priority = INTERACTIVE if word == "interactive" else BATCH
        model.arrive(len(bench.requests), priority)
        bench.arrive(priority)
    elif word == "resize":
        limits = {"max_in_flight": 1 + number % 4, "max_queue": number // 2}
        model.max_in_flight, model.max_queue = limits.values()
        bench.admission.resize(Config(**limits))
        model.admit()
    elif request := bench.pick(word, number):
        ACTS[word](request)
        (model.ring if word == "ring" else model.end)(request.number)


ACTS: dict[str, Callable[[Request], object]] = {
    "leave": lambda request: request.told_to_leave.set(),
    "cancel": lambda request: request.task.cancel(),
    "ring": lambda request: request.ring(),
}


# --- things that happen at the same moment


@settings(deadline=None)
@given(LIMITS, operations_of("interactive", "batch", "leave", "cancel", "ring", "turn", "turn", "turn"))
def test_in_any_schedule_no_place_is_lost_or_given_twice_and_nobody_is_overtaken(limits, operations):
    """Nothing wakes up between operations but at `turn`: so a place is granted to who is cancelled or shed with it."""

    async def play() -> None:
        bench = Bench(max_in_flight=limits[0], max_queue=limits[1])
        admission = bench.admission
        for word, number in operations:
            if word in ("interactive", "batch"):
                bench.arrive(INTERACTIVE if word == "interactive" else BATCH)
            elif word == "turn":
                await asyncio.sleep(0)
            elif request := bench.pick(word, number):
                ACTS[word](request)
            assert 0 <= admission.in_flight <= limits[0]
            assert len(bench.those("runs")) <= admission.in_flight
            assert admission.queued <= limits[1]
        await settled()
        assert admission.in_flight == len(bench.those("runs"))
        assert admission.queued == len(bench.those("waits"))
        assert not admission.queued or admission.in_flight == limits[0]
        await bench.end()
        assert [request.overtook for request in bench.requests if request.overtook] == []

    asyncio.run(play())


async def test_a_place_that_is_granted_to_who_is_cancelled_at_that_moment_goes_to_the_next():
    bench = Bench(max_in_flight=1, max_queue=5)
    async with bench.admission.place(INTERACTIVE):
        second, third = bench.arrive(), bench.arrive()
        await settled()
    assert second.place.turn.done()  # its turn has come,
    assert second.state == "waits"  # and it has not woken up
    second.task.cancel()
    await settled()

    assert (second.state, third.state) == ("cancelled", "runs")
    await bench.end()


async def test_an_interactive_request_pushes_the_youngest_batch_request_out_of_a_full_queue():
    bench = Bench(max_in_flight=1, max_queue=3)
    running, old, young, waiting = (bench.arrive(priority) for priority in (BATCH, BATCH, BATCH, INTERACTIVE))
    await settled()

    late, latest, last = bench.arrive(INTERACTIVE), bench.arrive(BATCH), bench.arrive(INTERACTIVE)
    await settled()
    too_many = bench.arrive(INTERACTIVE)
    await settled()

    states = [request.state for request in (running, old, young, waiting, late, latest, last, too_many)]
    assert states == ["runs", "shed", "shed", "waits", "waits", "shed", "waits", "shed"]
    assert bench.metrics.shed == ["queue_full"] * 4
    await bench.end()


async def test_a_free_place_takes_no_future_no_deadline_and_no_turn_of_the_loop():
    bench = Bench()
    place = bench.admission.place(INTERACTIVE)
    entering = place.__aenter__()

    with pytest.raises(StopIteration):
        entering.send(None)

    assert bench.admission.in_flight == 1
    assert not hasattr(place, "turn")
    assert place.waited_ms is None
    await place.__aexit__(None, None, None)


# --- what a shed request is told


async def refused(enter: Callable[[], Awaitable[Any]]) -> Overloaded:
    with pytest.raises(Overloaded) as caught:
        await enter()
    return caught.value


async def test_each_reason_is_counted_and_named_by_its_setting():
    bench = Bench(max_in_flight=1, max_queue=1, queue_timeout_s=7, max_buffered_bytes=100)
    running, waiting = bench.arrive(), bench.arrive()
    await settled()

    full = await refused(bench.admission.place(INTERACTIVE).__aenter__)
    assert full.message == "max_queue: 1 requests run, and 1 wait already."

    waiting.ring()
    with suppress(Overloaded):
        await waiting.task
    assert waiting.state == "shed"

    place = bench.admission.place(INTERACTIVE)
    running.told_to_leave.set()
    async with place:
        place.hold(60)
        other = bench.admission.place(INTERACTIVE)
        bench.admission.resize(Config(max_in_flight=2, max_buffered_bytes=100))
        async with other:
            with pytest.raises(Overloaded, match="max_buffered_bytes: bodies of 60 bytes"):
                other.hold(41)
            other.hold(40)

    assert bench.metrics.shed == ["queue_full", "queue_timeout", "buffered_bytes"] == list(SHED)
    assert (full.status, full.kind, full.code) == (503, "server_error", "overloaded")
    await bench.end()


async def test_a_body_over_the_bound_is_taken_when_it_is_the_only_one_and_only_then():
    admission = Admission(Config(max_buffered_bytes=100), Counts())
    async with admission.place(INTERACTIVE) as large:
        large.hold(90)
        large.hold(90)  # it grows, piece by piece
        async with admission.place(INTERACTIVE) as small:
            with pytest.raises(Overloaded):
                small.hold(1)
            large.hold(1)
    assert admission.buffered_bytes == 0


async def test_what_a_failed_hold_asked_for_is_not_held():
    admission = Admission(Config(max_buffered_bytes=100), Counts())
    async with admission.place(INTERACTIVE) as one, admission.place(INTERACTIVE) as other:
        one.hold(60)
        with pytest.raises(Overloaded):
            other.hold(60)
        assert admission.buffered_bytes == 60
        other.hold(40)
    assert admission.buffered_bytes == 0


async def test_retry_after_is_a_second_where_nothing_is_known():
    bench = Bench(max_in_flight=1, max_queue=0)
    bench.arrive()
    await settled()

    error = await refused(bench.admission.place(INTERACTIVE).__aenter__)

    assert error.headers == {"Retry-After": "1"}
    await bench.end()


@pytest.mark.parametrize(
    ("ended", "after_s", "waiting", "expected"),
    [(0, 10.0, 0, 1), (10, 10.0, 0, 1), (10, 10.0, 8, 9), (1, 10.0, 3, 40), (1, 10.0, 100, 60)],
    ids=["nothing ended", "one a second", "nine to wait for", "slow", "at most a minute"],
)
async def test_retry_after_is_as_long_as_the_queue_takes_at_the_pace_of_late(
    monkeypatch, ended, after_s, waiting, expected
):
    loop = asyncio.get_running_loop()
    clock = [1000.0]
    bench = Bench(max_in_flight=1 + ended, max_queue=waiting)
    requests = [bench.arrive() for _ in range(1 + ended)]
    await settled()
    monkeypatch.setattr("proxy.edge.admission.asyncio.get_running_loop", lambda: Clock(loop, clock))
    await refused_while_full(bench)
    for request in requests[:ended]:
        request.told_to_leave.set()
    await settled()
    for _ in range(ended + waiting):
        bench.arrive()
    await settled()
    clock[0] += after_s

    error = await refused(bench.admission.place(INTERACTIVE).__aenter__)

    assert error.headers["Retry-After"] == str(expected)
    monkeypatch.undo()
    await bench.end()


class Clock:
    """A loop whose time is the test's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: list[float]) -> None:
        self.create_future, self.call_later = loop.create_future, loop.call_later
        self.time = lambda: now[0]


async def refused_while_full(bench: Bench) -> None:
    """Have the pace begin to count."""
    bench.admission.overloaded(Reason.QUEUE_FULL)


async def test_the_bytes_that_are_held_are_told_when_asked():
    metrics = Counts()
    admission = Admission(Config(), metrics)
    async with admission.place(INTERACTIVE) as place:
        place.hold(60)
        admission.tell()
        assert metrics.gauges == (0, 60)


# --- priorities

KEY_DIGESTS_OF = "sk-batch-1, sk-batch-2"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, INTERACTIVE),
        ({"x-proxy-priority": "interactive"}, INTERACTIVE),
        ({"x-proxy-priority": "batch"}, BATCH),
        ({"x-proxy-priority": " Batch "}, BATCH),
        ({"Authorization": "Bearer sk-batch-2"}, BATCH),
        ({"Authorization": "bearer  sk-batch-1"}, BATCH),
        ({"Authorization": "Bearer sk-batch-1", "x-proxy-priority": "interactive"}, BATCH),
        ({"Authorization": "Bearer sk-batch"}, INTERACTIVE),
        ({"Authorization": "Bearer sk-batch-1, sk-batch-2"}, INTERACTIVE),
        ({"Authorization": "Basic sk-batch-1"}, INTERACTIVE),
        ({"Authorization": "Bearer "}, INTERACTIVE),
        ({"Authorization": "Bearer \udcff"}, INTERACTIVE),
        ({"Authorization": "Bearer sk-other", "x-proxy-priority": "batch"}, BATCH),
    ],
)
async def test_a_request_is_batch_by_its_key_or_by_its_header(headers, expected):
    admission = Admission(Config(batch_keys=KEY_DIGESTS_OF), Counts())

    assert admission.priority(headers) is expected


@pytest.mark.parametrize("value", ["", "high", "batch,interactive", "0"])
async def test_another_priority_is_refused_by_the_headers_name(value):
    admission = Admission(Config(), Counts())

    with pytest.raises(InvalidRequest) as caught:
        admission.priority({"x-proxy-priority": value})

    assert caught.value.status == 400
    assert caught.value.param == "x-proxy-priority"
    assert "x-proxy-priority" in caught.value.message


async def test_no_key_is_kept_as_it_is():
    admission = Admission(Config(batch_keys=KEY_DIGESTS_OF), Counts())

    assert "sk-batch" not in repr([getattr(admission, name) for name in vars(admission)])
