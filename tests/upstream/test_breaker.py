"""The circuit breaker: what opens it, for how long, and how a replica comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.breaker import _NEXT, LONGEST_WAIT_S, Breaker, Event, State


def open_breaker(now=0.0):
    breaker = Breaker(eject_after=3, eject_s=5)
    breaker.trip(now)
    return breaker


def test_every_state_has_a_row_for_every_event():
    assert set(_NEXT) == {(state, event) for state in State for event in Event}


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not():
    breaker = Breaker(eject_after=3, eject_s=5)
    for outcome in ("failed", "failed", "succeeded", "failed", "failed"):
        moved = breaker.failed(1.0) if outcome == "failed" else breaker.succeeded()
        assert (moved, breaker.state) == (False, State.CLOSED)

    assert breaker.failed(1.0)
    assert (breaker.state, breaker.looks_at) == (State.OPEN, 6.0)


def test_a_trip_opens_it_at_once_and_later_failures_of_the_same_outage_do_not_prolong_it():
    breaker = open_breaker(now=10.0)

    assert not breaker.trip(12.0)
    assert not breaker.failed(13.0)
    assert breaker.looks_at == 15.0


def test_it_comes_back_through_half_open():
    breaker = open_breaker()

    assert breaker.healthy()
    assert breaker.state is State.HALF_OPEN
    assert breaker.succeeded()
    assert breaker.state is State.CLOSED


def test_one_failure_while_half_open_opens_it_for_longer():
    breaker = open_breaker()
    breaker.healthy()

    assert breaker.failed(100.0)
    assert (breaker.state, breaker.looks_at) == (State.OPEN, 110.0)


def test_a_request_that_succeeds_while_it_is_open_lets_it_try():
    breaker = open_breaker()

    assert breaker.succeeded()
    assert breaker.state is State.HALF_OPEN


@given(st.integers(1, 200))
def test_the_wait_grows_to_a_bound(looks):
    breaker = open_breaker()
    waits = []
    for now in range(looks):
        breaker.unhealthy(float(now))
        waits.append(breaker.looks_at - now)

    assert waits == sorted(waits)
    assert max(waits) <= LONGEST_WAIT_S


def test_closing_it_forgets_how_often_it_was_opened():
    breaker = open_breaker()
    breaker.unhealthy(0.0)
    breaker.healthy()
    breaker.succeeded()
    breaker.trip(0.0)

    assert breaker.looks_at == 5.0


@pytest.mark.parametrize("worse", ["more openings", "more failures"])
def test_the_least_bad_is_the_one_that_failed_less(worse):
    bad, less_bad = open_breaker(), open_breaker()
    if worse == "more openings":
        bad.unhealthy(0.0)
    else:
        bad.failed(0.0)

    assert less_bad.badness < bad.badness
    less_bad.healthy()
    assert less_bad.badness < open_breaker().badness
