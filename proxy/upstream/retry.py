"""
Which failures may be tried again, and how often.

There is one owner of retries (attempts.py). A client, an SDK and a balancer with three tries each make 27 requests of
one (litellm#7130); here it is two at the most, and over time one in five.

    may be tried again    the connection was refused or did not come about · a pooled connection was stale
                          502, 503, 504: the replica did not take the request
    never                 429, 500 · a timeout: the request may still run · anything after the first byte of an answer
"""

from enum import Enum, auto
from typing import Final

from proxy.errors import UpstreamError, UpstreamProtocolError, UpstreamRejected, UpstreamTimeout, UpstreamUnavailable
from proxy.upstream.route import ConnectTimeout, Stale

_STATUSES: Final = frozenset({502, 503, 504})

#: Arbitrary: so many retries are allowed before there have been any requests, and saved up at the most.
RESERVE: Final = 10.0


def retry_reason(error: UpstreamError) -> str | None:
    """Return why a request that ended in `error` may be sent once more, as a word for metrics; None if it may not."""
    if isinstance(error, Stale):
        return "stale_connection"
    if isinstance(error, UpstreamUnavailable | ConnectTimeout):
        return "connect"
    if isinstance(error, UpstreamRejected) and error.status in _STATUSES:
        return f"status_{error.status}"
    return None


#: A request that was refused for its shape, and is sent once more with the rule that it lacked.
REJECTED_SHAPE: Final = "rejected_shape"

#: Why requests are sent again.
REASONS: Final = ("stale_connection", "connect", *(f"status_{status}" for status in sorted(_STATUSES)), REJECTED_SHAPE)


class Verdict(Enum):
    """What the end of a request says about the replica that it ran on."""

    FINE = auto()
    """It works: an answer came, or an error that is the client's, or the model's own."""
    FAILED = auto()
    """It failed; so many in a row mean that it does not work."""
    REFUSED = auto()
    """Nothing listens there."""


def verdict(error: UpstreamError | None) -> Verdict:
    """Return what an error, or None for a whole answer, says. Only what breaks for every request is a failure."""
    if isinstance(error, UpstreamUnavailable | ConnectTimeout):
        return Verdict.REFUSED
    is_server_error = isinstance(error, UpstreamRejected) and error.status >= 500
    is_cut = isinstance(error, UpstreamProtocolError) and error.code == UpstreamProtocolError.code
    return Verdict.FAILED if is_server_error or is_cut or isinstance(error, UpstreamTimeout) else Verdict.FINE


class RetryBudget:
    """
    Lets a share of requests be sent again, so that retries do not add to an overload (Finagle's and Envoy's idea).

    Every request pays in `share`, every retry takes 1; what is saved up is at most `RESERVE`.
    """

    __slots__ = ("_balance", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        self._balance = RESERVE if share else 0.0

    def pay_in(self) -> None:
        """A request is sent for the first time."""
        if self._balance < RESERVE:
            self._balance = min(RESERVE, self._balance + self.share)

    def take(self) -> bool:
        """Return whether a request may be sent again, and count it if so."""
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
