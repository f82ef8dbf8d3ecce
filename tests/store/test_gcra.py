"""The arithmetic of limits: never too generous, whatever is asked when, and settled by what was used."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Rates
from proxy.store.gcra import (
    MINUTE_S,
    NEVER,
    SLACK_S,
    Bucket,
    Levels,
    Limit,
    fits,
    room_for_requests,
    room_for_tokens,
    terms_of,
    wait_s,
)

PAUSES_S = st.lists(st.floats(0, 20), min_size=1, max_size=60)


class Account:
    """A bucket with the clock that the test sets."""

    def __init__(self, **rates):
        self.terms = terms_of(Rates(**rates))
        self.bucket = Bucket()
        self.now_s = 1000.0
        self.today = 5

    def levels(self):
        return self.bucket.levels(self.now_s, self.today, 0)

    def ask(self, tokens=0):
        """Return the mark of an admitted request, None for one that was refused."""
        if not fits(self.terms, self.levels(), tokens):
            return None
        return self.bucket.charge(self.terms, self.levels(), tokens, self.now_s, self.today)

    def settle(self, mark, charged, used):
        self.bucket.settle(self.terms, mark, charged, used, self.now_s)

    def wait(self, limit, tokens=0):
        return wait_s(limit, self.terms, self.levels(), tokens, 3600.0)


@given(PAUSES_S, st.integers(1, 10_000), st.floats(0.1, 60))
def test_in_no_stretch_of_time_are_more_requests_admitted_than_the_burst_and_the_rate_allow(pauses_s, rate, burst_s):
    account = Account(requests_per_minute=rate, burst_s=burst_s)
    admitted_at_s = []
    for pause_s in pauses_s:
        account.now_s += pause_s
        admitted_at_s += [account.now_s for _ in range(20) if account.ask()]
    burst = max(1, rate * burst_s / 60)

    for first, began_s in enumerate(admitted_at_s):
        for last in range(first, len(admitted_at_s)):
            seconds = admitted_at_s[last] - began_s
            assert last - first + 1 <= burst + rate / MINUTE_S * (seconds + 2 * SLACK_S)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 400), st.floats(0, 2), st.floats(0, 90)), max_size=40))
def test_in_no_stretch_of_time_are_more_tokens_used_than_the_burst_and_the_rate_allow(requests):
    """Each is (pause, estimate, used as a share of it, how long it runs); what is used beyond an estimate is debt."""
    rate = 1000
    account = Account(tokens_per_minute=rate)
    used, ends = [], []
    for pause_s, estimate, share, runs_s in requests:
        until_s = account.now_s + pause_s
        for end in sorted(ends):
            if end[0] <= until_s:
                account.now_s = max(account.now_s, end[0])
                account.settle(*end[1:])
                ends.remove(end)
        account.now_s = until_s
        mark = account.ask(estimate)
        if mark:
            really = int(estimate * min(share, 1))  # less than estimated: the bound must hold in spite of refunds
            used.append((account.now_s, really))
            ends.append((account.now_s + runs_s, mark, estimate, really))

    for first, (began_s, _) in enumerate(used):
        for last in range(first, len(used)):
            seconds = used[last][0] - began_s
            total = sum(tokens for _, tokens in used[first : last + 1])
            assert total <= rate + rate / MINUTE_S * seconds + 1e-3


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_a_settled_charge_is_the_charge_of_what_was_used(charged, used):
    account, right = Account(tokens_per_minute=2000), Account(tokens_per_minute=2000)
    account.settle(account.ask(charged), charged, used)
    right.ask(used)

    assert math.isclose(account.levels().tokens_s, right.levels().tokens_s, abs_tol=1e-6)


def test_what_has_flowed_off_already_is_not_given_back():
    account = Account(tokens_per_minute=60)
    mark = account.ask(60)
    account.now_s += 45
    account.settle(mark, 60, 0)

    assert account.levels().tokens_s == 0
    assert account.ask(60)
    assert not account.ask(1)


def test_what_is_behind_a_refund_has_flowed_off_earlier():
    """Two of 30 s each, at once: with the first given back the second has flowed off after 31 s, not after 60 s."""
    account = Account(tokens_per_minute=60)
    first, second = account.ask(30), account.ask(30)
    account.now_s += 1
    account.settle(first, 30, 0)
    account.now_s += 31
    account.ask(30)
    account.settle(second, 30, 0)

    assert account.levels().tokens_s == pytest.approx(30)


def test_more_than_was_estimated_is_a_debt_that_later_requests_wait_for():
    account = Account(tokens_per_minute=60)
    account.settle(account.ask(30), 30, 180)

    assert account.levels().tokens_s == pytest.approx(180)
    assert account.wait(Limit.TOKENS, 30) == pytest.approx(150)


def test_a_request_over_the_whole_burst_is_never_admitted():
    account = Account(tokens_per_minute=1000, tokens_per_day=500)

    assert account.wait(Limit.TOKENS, 1001) == NEVER
    assert account.wait(Limit.DAY, 501) == NEVER
    assert account.wait(Limit.TOKENS, 1000) == 0


def test_a_day_begins_with_a_whole_budget():
    account = Account(tokens_per_day=100)
    mark = account.ask(80)

    assert account.wait(Limit.DAY, 30) == 3600.0

    account.today += 1

    assert account.wait(Limit.DAY, 100) == 0
    account.ask(100)
    account.settle(mark, 80, 10)  # a charge of yesterday's
    assert account.levels().day_tokens == 100


def test_a_days_sum_is_settled_too():
    account = Account(tokens_per_day=100)
    account.settle(account.ask(80), 80, 10)

    assert account.levels().day_tokens == 10


@given(
    st.builds(Levels, st.floats(0, 120), st.floats(0, 120), st.integers(0, 3000).map(float), st.integers(0, 9)),
    st.integers(0, 3000),
    st.builds(
        Rates,
        requests_per_minute=st.integers(0, 100),
        tokens_per_minute=st.integers(0, 2000),
        tokens_per_day=st.integers(0, 4000),
        max_concurrent=st.integers(0, 8),
    ),
)
def test_a_request_fits_where_no_limit_has_to_be_waited_for(levels, tokens, rates):
    terms = terms_of(rates)

    assert fits(terms, levels, tokens) == all(wait_s(limit, terms, levels, tokens, 9.0) == 0 for limit in Limit)


@given(st.integers(1, 500), st.floats(0.1, 60), st.integers(0, 600))
def test_as_many_are_admitted_as_are_said_to_be_left(rate, burst_s, asked):
    account = Account(requests_per_minute=rate, burst_s=burst_s, tokens_per_minute=rate)
    for _ in range(asked):
        account.ask(1)
    left = room_for_requests(account.terms, account.levels().requests_s).remaining
    tokens_left = room_for_tokens(account.terms, account.levels().tokens_s).remaining

    assert [bool(account.ask(0)) for _ in range(left + 1)] == [True] * left + [False]
    assert account.wait(Limit.TOKENS, tokens_left) == 0
    assert account.wait(Limit.TOKENS, tokens_left + 1) > 0


def test_a_slow_rate_has_a_burst_of_one():
    account = Account(requests_per_minute=1, burst_s=10)

    assert account.ask()
    assert not account.ask()
    assert account.wait(Limit.REQUESTS) == pytest.approx(60)
