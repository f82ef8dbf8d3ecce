"""Who runs, who waits, and who is refused: in any order of arrivals, ends, departures and timeouts."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.config import Config
from proxy.edge.admission import Admission, Priority
from proxy.errors import InvalidRequest, Overloaded

INTERACTIVE, BATCH = Priority


class Counted:
    def __init__(self):
        self.shed = []
        self.gauges = (0, 0)

    def count_shed(self, reason):
        self.shed.append(reason)

    def waiting(self, queued, buffered_bytes):
        self.gauges = (queued, buffered_bytes)


class Room:
    """An admission, and tasks that hold its places until they are told to go."""

    def __init__(self, **bounds):
        self.counted = Counted()
        defaults = {"max_in_flight": 2, "max_queue": 3, "queue_timeout_s": 60}
        self.admission = Admission(Config(**defaults | bounds), self.counted)
        self.running, self.order = [], []
        self.tasks = {}

    async def come(self, name, priority=INTERACTIVE):
        self.tasks[name] = asyncio.ensure_future(self._stay(name, priority, asyncio.Event()))
        await settled()

    async def _stay(self, name, priority, gone):
        async with self.admission.place(priority):
            self.order.append(name)
            self.running.append((name, gone))
            try:
                await gone.wait()
            finally:
                self.running.remove((name, gone))

    async def go(self, name):
        next(gone for each, gone in self.running if each == name).set()
        await settled()

    async def end(self):
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert (self.admission.in_flight, self.admission.queued, self.admission.buffered_bytes) == (0, 0, 0)


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_places_are_given_in_order_and_interactive_comes_before_batch():
    room = Room(max_in_flight=1, max_queue=10)
    for name, priority in (("a", INTERACTIVE), ("b1", BATCH), ("b2", BATCH), ("i1", INTERACTIVE), ("i2", INTERACTIVE)):
        await room.come(name, priority)
    for name in ("a", "i1", "i2", "b1"):
        await room.go(name)

    assert room.order == ["a", "i1", "i2", "b1", "b2"]
    await room.end()


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    room = Room()
    for name in "abcdef":
        await room.come(name)

    error = room.tasks["f"].exception()
    assert isinstance(error, Overloaded)
    assert int(error.headers["Retry-After"]) >= 1
    assert room.counted.shed == ["queue_full"]
    assert room.counted.gauges == (3, 0)
    await room.end()


async def test_an_interactive_request_pushes_out_the_youngest_batch_one():
    room = Room(max_in_flight=1, max_queue=2)
    for name, priority in (("a", INTERACTIVE), ("b1", BATCH), ("b2", BATCH), ("i", INTERACTIVE), ("b3", BATCH)):
        await room.come(name, priority)

    assert [name for name, task in room.tasks.items() if task.done()] == ["b2", "b3"]
    await room.go("a")
    assert room.order == ["a", "i"]
    await room.end()


async def test_a_wait_has_an_end():
    room = Room(max_in_flight=1, queue_timeout_s=0.05)
    await room.come("a")
    await room.come("b")
    await asyncio.wait([room.tasks["b"]], timeout=5)

    assert isinstance(room.tasks["b"].exception(), Overloaded)
    assert room.counted.shed == ["queue_timeout"]
    await room.end()


async def test_a_place_that_is_given_to_one_who_leaves_in_that_moment_goes_to_the_next():
    room = Room(max_in_flight=1)
    for name in "abc":
        await room.come(name)
    room.running[0][1].set()
    while room.admission.queued == 2:  # noqa: ASYNC110 - the moment itself is what is wanted
        await asyncio.sleep(0)
    room.tasks["b"].cancel()
    await settled()

    assert room.running[0][0] == "c"
    await room.end()


async def test_more_places_are_given_to_those_who_wait():
    room = Room(max_in_flight=1)
    for name in "abc":
        await room.come(name)
    room.admission.resize(Config(max_in_flight=3))
    await settled()

    assert len(room.running) == 3
    await room.end()


STEPS = st.lists(
    st.tuples(st.sampled_from(["come", "batch", "go", "cancel", "resize", "tick"]), st.integers(0, 20)), max_size=60
)


@settings(deadline=None, max_examples=200)
@given(STEPS)
def test_in_any_order_nothing_leaks_and_no_bound_is_crossed(steps):
    async def play():
        room = Room(max_in_flight=3, max_queue=4)
        most = 3
        for number, (what, which) in enumerate(steps):
            if what in ("come", "batch"):
                await room.come(number, BATCH if what == "batch" else INTERACTIVE)
            elif what == "go" and room.running:
                room.running[which % len(room.running)][1].set()
            elif what == "cancel" and room.tasks:
                list(room.tasks.values())[which % len(room.tasks)].cancel()
            elif what == "resize":
                most = 1 + which % 4
                room.admission.resize(Config(max_in_flight=most, max_queue=4))
            else:
                await asyncio.sleep(0)
            assert room.admission.in_flight >= len(room.running)
            assert room.admission.queued <= 4
        await settled()
        assert len(room.running) == room.admission.in_flight
        if room.admission.queued:  # nobody waits beside a free place
            assert room.admission.in_flight >= most
        await room.end()

    asyncio.run(play())


# --- bytes


async def test_bytes_are_bounded_and_given_back():
    room = Room(max_buffered_bytes=100)
    admission = room.admission
    async with admission.place(INTERACTIVE) as first:
        first.hold(60)
        async with admission.place(INTERACTIVE) as second:
            second.hold(40)
            with pytest.raises(Overloaded):
                second.hold(1)
        assert admission.buffered_bytes == 60
    assert (admission.buffered_bytes, room.counted.gauges, room.counted.shed) == (0, (0, 0), ["buffered_bytes"])


async def test_a_body_that_is_alone_always_fits():
    async with Room(max_buffered_bytes=100).admission.place(INTERACTIVE) as place:
        place.hold(90)
        place.hold(1_000_000)


# --- priority


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, INTERACTIVE),
        ({"x-proxy-priority": "batch"}, BATCH),
        ({"x-proxy-priority": "interactive"}, INTERACTIVE),
        ({"authorization": "Bearer nightly"}, BATCH),
        ({"authorization": "bearer  nightly "}, BATCH),
        ({"authorization": "Bearer nightly", "x-proxy-priority": "interactive"}, BATCH),
        ({"authorization": "Bearer other"}, INTERACTIVE),
        ({"authorization": "Basic nightly"}, INTERACTIVE),
    ],
)
async def test_priority_comes_from_the_key_or_the_header(headers, expected):
    assert Room(batch_keys="weekly,nightly").admission.priority(CIMultiDict(headers)) is expected


async def test_another_priority_is_refused():
    with pytest.raises(InvalidRequest) as caught:
        Room().admission.priority(CIMultiDict({"x-proxy-priority": "urgent"}))

    assert caught.value.param == "x-proxy-priority"


async def test_keys_are_not_kept_as_they_are():
    room = Room(batch_keys="nightly-canary")

    assert "nightly-canary" not in repr(vars(room.admission))
