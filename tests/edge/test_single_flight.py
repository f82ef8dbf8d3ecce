"""Requests that ask the same at the same time: one asks, the others wait."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from proxy.edge.single_flight import TRANSITIONS, Flights, Input, State

KEY = b"k"
LONG_S = 60


async def waiting(flights, count, key=KEY):
    """Return a leader, and the tasks and seats of those that wait behind it."""
    leader = flights.seat(key)
    assert leader.take()
    seats = [flights.seat(key) for _ in range(count)]
    assert not any(seat.take() for seat in seats)
    tasks = [asyncio.create_task(seat.wait(LONG_S)) for seat in seats]
    await asyncio.sleep(0)
    return leader, seats, tasks


async def test_all_that_wait_get_the_answer_of_the_first():
    flights = Flights()
    leader, _, tasks = await waiting(flights, 3)
    leader.land("answer")

    assert await asyncio.gather(*tasks) == ["answer"] * 3
    assert len(flights) == 0


async def test_when_the_first_leaves_the_next_one_asks_and_the_others_wait_on():
    flights = Flights()
    leader, seats, tasks = await waiting(flights, 3)
    leader.leave()

    async with asyncio.timeout(5):
        assert await tasks[0] is None
    assert [seat.state for seat in seats] == [State.LEADS, State.WAITS, State.WAITS]
    seats[0].land("answer")
    assert await asyncio.gather(*tasks[1:]) == ["answer"] * 2


async def test_behind_an_answer_that_is_not_shared_all_ask_at_once():
    flights = Flights()
    leader, seats, tasks = await waiting(flights, 3)
    leader.scatter()

    assert await asyncio.gather(*tasks) == [None] * 3
    assert [seat.state for seat in seats] == [State.ALONE] * 3
    for seat in (leader, *seats):
        seat.leave()
    assert len(flights) == 0


async def test_when_all_have_left_nothing_is_left_of_them():
    flights = Flights()
    leader, seats, tasks = await waiting(flights, 2)
    for seat in (leader, *seats):
        seat.leave()

    assert len(flights) == 0
    assert tasks[0].done() is False
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_one_that_is_cancelled_while_it_waits_is_passed_over():
    flights = Flights()
    leader, seats, tasks = await waiting(flights, 2)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    seats[0].leave()
    leader.leave()

    assert await tasks[1] is None
    assert seats[1].state is State.LEADS


async def test_one_that_is_cancelled_in_the_moment_of_its_turn_hands_it_on():
    flights = Flights()
    leader, seats, tasks = await waiting(flights, 2)
    tasks[0].cancel()
    leader.leave()
    assert seats[0].state is State.LEADS
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    seats[0].leave()

    assert await tasks[1] is None
    assert seats[1].state is State.LEADS


async def test_who_has_waited_for_long_enough_asks_for_itself_and_the_others_wait_on():
    flights = Flights()
    leader, seats, tasks = await waiting(flights, 1)
    hasty = flights.seat(KEY)
    assert not hasty.take()

    assert await hasty.wait(0.01) is None
    assert (hasty.state, seats[0].state) == (State.ALONE, State.WAITS)
    hasty.land("its own")
    leader.land("answer")
    assert await tasks[0] == "answer"
    hasty.leave()
    assert len(flights) == 0


async def test_different_questions_do_not_wait_for_each_other():
    flights = Flights()

    assert [flights.seat(key).take() for key in (b"a", b"b")] == [True, True]


async def test_leaving_after_the_end_touches_nobody_who_asks_anew():
    flights = Flights()
    first = flights.seat(KEY)
    first.take()
    first.land("answer")
    second, later = flights.seat(KEY), flights.seat(KEY)
    assert second.take()
    assert not later.take()
    first.leave()
    first.leave()

    assert (second.state, later.state) == (State.LEADS, State.WAITS)


async def test_what_is_not_in_the_table_is_refused():
    seat = Flights().seat(KEY)
    with pytest.raises(RuntimeError, match="LANDED while NEW"):
        seat.land("answer")


def test_the_end_can_be_reached_from_every_state_and_is_not_left():
    assert {state for state, came in TRANSITIONS if came is Input.LEFT} == set(State)
    assert {after for (state, _), after in TRANSITIONS.items() if state is State.OVER} == {State.OVER}


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order, there is one leader for each question that somebody waits for."""

    seats = Bundle("seats")

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.flights = None
        self.known = []
        self.loop.run_until_complete(self._open())

    async def _open(self):
        self.flights = Flights()

    def teardown(self):
        self.loop.close()

    async def _seat(self, key):
        seat = self.flights.seat(key)
        seat.take()
        return seat

    @rule(target=seats, key=st.sampled_from([b"a", b"b"]))
    def comes(self, key):
        seat = self.loop.run_until_complete(self._seat(key))
        self.known.append(seat)
        return seat

    @rule(seat=seats)
    def lands(self, seat):
        if seat.state in (State.LEADS, State.ALONE):
            seat.land("answer")

    @rule(seat=seats)
    def has_what_is_not_shared(self, seat):
        seat.scatter()

    @rule(seat=consumes(seats))
    def leaves(self, seat):
        seat.leave()

    @rule(seat=seats)
    def tires(self, seat):
        seat._tire()

    @rule(seat=seats)
    def is_cancelled(self, seat):
        if seat.state is State.WAITS:
            seat._answer.cancel()

    @invariant()
    def one_leads_where_somebody_waits(self):
        for key in (b"a", b"b"):
            mine = [seat for seat in self.known if seat._key == key]
            leading = [seat for seat in mine if seat.state is State.LEADS]
            waits = [seat for seat in mine if seat.state is State.WAITS]

            assert len(leading) == (key in self.flights._waiting)
            assert list(self.flights._waiting.get(key, ())) == waits

    @invariant()
    def who_is_told_nothing_asks_and_who_asks_not_is_answered(self):
        for seat in self.known:
            if seat._answer.done() and not seat._answer.cancelled():
                assert (seat._answer.result() is None) or seat.state is State.OVER


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_any_order = AnyOrder.TestCase
