"""Which failures may be tried again, what they say about a replica, and how many retries there may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamError, UpstreamProtocolError, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from proxy.upstream.retry import RESERVE, RetryBudget, Verdict, retry_reason, verdict
from proxy.upstream.route import ConnectTimeout, Stale


def rejected(status):
    return UpstreamRejected(status, "no", kind="server_error")


#: name: the error, why it may be tried again, what it says.
ERRORS = {
    "refused": (UpstreamUnavailable("x"), "connect", Verdict.REFUSED),
    "no connection in time": (ConnectTimeout("x"), "connect", Verdict.REFUSED),
    "stale": (Stale("x"), "stale_connection", Verdict.FAILED),  # attempts.py never asks about it
    "502": (rejected(502), "status_502", Verdict.FAILED),
    "503": (rejected(503), "status_503", Verdict.FAILED),
    "504": (rejected(504), "status_504", Verdict.FAILED),
    "500": (rejected(500), None, Verdict.FAILED),
    "first byte timeout": (UpstreamTimeout("x"), None, Verdict.FAILED),
    "cut off": (UpstreamProtocolError("x"), None, Verdict.FAILED),
    "malformed": (UpstreamProtocolError("x", code="malformed_upstream_answer"), None, Verdict.FINE),
    "swallowed call": (UpstreamProtocolError("x", code="tool_call_swallowed"), None, Verdict.FINE),
    **{str(status): (rejected(status), None, Verdict.FINE) for status in (400, 401, 404, 408, 413, 422, 429)},
    "an error in a stream": (UpstreamError("x"), None, Verdict.FINE),
}


@pytest.mark.parametrize(("error", "reason", "_said"), ERRORS.values(), ids=ERRORS)
def test_only_what_did_not_run_is_tried_again(error, reason, _said):
    assert retry_reason(error) == reason


@pytest.mark.parametrize(("error", "_reason", "said"), ERRORS.values(), ids=ERRORS)
def test_4xx_and_the_models_own_mistakes_are_no_failures_of_the_replica(error, _reason, said):
    assert verdict(error) is said


def test_an_answer_is_no_failure():
    assert verdict(None) is Verdict.FINE


@given(st.floats(0, 1), st.lists(st.booleans(), max_size=500))
def test_retries_stay_below_the_share_of_requests_and_the_reserve(share, wants_retry):
    budget = RetryBudget(share)
    taken = 0
    for number, wants in enumerate(wants_retry, 1):
        budget.pay_in()
        taken += wants and budget.take()
        assert taken <= RESERVE + share * number + 1e-6


def test_without_a_share_there_are_no_retries():
    budget = RetryBudget(0)
    budget.pay_in()

    assert not budget.take()
