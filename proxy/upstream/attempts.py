"""
The one owner of retries: a request goes to a replica, and at most once more to another one.

    choose -> translate for it -> send -+- 200 ------------------------------------> the answer
                ^                       +- may be tried again, budget left ---------+
                |                       +- 400 that a rule would have avoided --+   |
                +-------------------------- the same replica, with the rule ----+---+- another replica
                                        +- anything else ---------------------------> the error

Nothing is sent again after the first byte of an answer; what can be done then is in edge/streaming.py.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, Protocol, Self

import msgspec

from proxy.errors import ProxyError, UpstreamError, UpstreamProtocolError, UpstreamRejected
from proxy.translate.failure import translate_failure
from proxy.translate.profile import Profile
from proxy.translate.request import UpstreamRequest
from proxy.upstream.answer import Answer, Limits, read_at_most
from proxy.upstream.choice import Ask
from proxy.upstream.error_kind import error_kind
from proxy.upstream.pool import Pool
from proxy.upstream.replica import Replica
from proxy.upstream.retry import REJECTED_SHAPE, Verdict, retry_reason, verdict
from proxy.upstream.route import Asking, Leg, Stale

LONGEST_FAILURE: Final = 1024 * 1024
#: Arbitrary: the longest pause that a replica's Retry-After gives it.
_LONGEST_REST_S: Final = 60.0


class Trail(Protocol):
    """What is written down of an errand, also of one that fails."""

    attempts: int
    replica: str | None
    retried: tuple[str, ...]
    upstream_errors: tuple[str, ...]
    connect_ms: float | None


#: Returns what an attempt at the replica of that name and URL is to say, and where it is written down.
NewLeg = Callable[[str, str], Leg]


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is to be asked: `translate` gives the request for a replica's profile; None asks for the list of models.
    With `counts` the replica is asked how many tokens the request has, and not for its answer.

    `first` is the replica that `Pool.choose()` gave for it; `avoid` are those that have failed at it before.
    `trail` gets the number of attempts, the last replica, how long it took to have a connection to it, why there was
    another attempt, and what went wrong, once for each.
    """

    first: Replica
    translate: Callable[[Profile], Awaitable[UpstreamRequest]] | None
    request_id: str
    limits: Limits
    started_at: float
    trail: Trail
    model: str = ""
    ask: Ask = Ask()
    new_leg: NewLeg = Leg
    avoid: Collection[Replica] = ()
    counts: bool = False


class Sending:
    """
    One errand: `async with Sending(pool, errand) as sent`, then `sent.answer`, which has status 200.

    Raises:
        UpstreamError: on entering or inside, by cause.
        ClientError: on entering: no replica is there for the model, or the request cannot be translated.
    """

    __slots__ = (
        *("_attempts", "_errand", "_exchange", "_leg", "_pool", "_profile", "_tried"),
        *("answer", "failure", "replica", "request"),
    )

    answer: Answer
    replica: Replica
    request: UpstreamRequest

    def __init__(self, pool: Pool, errand: Errand) -> None:
        self._pool = pool
        self._errand = errand
        self._tried = list(errand.avoid)
        self._attempts = 0
        #: what the owner found wrong with an answer that did not raise
        self.failure: UpstreamError | None = None

    async def __aenter__(self) -> Self:
        self._pool.budget.pay_in()
        replica, is_fresh = self._errand.first, False
        while True:
            try:
                await self._begin(replica, is_fresh)
            except UpstreamError as exc:
                again = self._next(replica, exc)
                if again is None:
                    raise
                replica, is_fresh = again
            else:
                return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._exchange.__aexit__(kind, error, trace)
        except BaseException as exc:
            self._end_leg(exc)
            if isinstance(exc, UpstreamError):
                self._judge(exc, has_begun=True)
            else:
                self._pool.untold(self.replica)
            raise
        else:
            self._end_leg(self.failure or error)
            if error is None or isinstance(error, UpstreamError):
                self._judge(self.failure or error, has_begun=True)
            else:  # the client left, or this process is at fault
                self._pool.untold(self.replica)
        finally:
            self._pool.ended(self.replica)

    async def _begin(self, replica: Replica, is_fresh: bool) -> None:
        """
        Send to `replica`; return when an answer of status 200 has begun.

        Raises:
            UpstreamError, ClientError: none has.
        """
        self.replica = replica
        pool = self._pool
        try:
            exchange = await self._exchange_with(replica, is_fresh)
        except BaseException:
            pool.dropped(replica)
            raise
        self._attempts += 1
        if self._attempts == 1:
            pool.sent(replica)
        self._errand.trail.attempts += 1
        self._errand.trail.replica = replica.name
        replica.tally.began()
        try:
            self.answer = await _entered(exchange, self._leg)
        except BaseException as exc:
            try:
                self._end_leg(exc)
                if isinstance(exc, UpstreamError):
                    self._judge(exc, has_begun=False)
                else:
                    pool.untold(replica)
            finally:
                pool.ended(replica)
            raise
        finally:
            self._note_connection()
        self._exchange = exchange

    async def _exchange_with(self, replica: Replica, is_fresh: bool) -> AbstractAsyncContextManager[Answer]:
        errand = self._errand
        is_limited = errand.limits.total_s != math.inf
        passed_s = asyncio.get_running_loop().time() - errand.started_at if is_limited else 0.0
        if errand.translate is not None:
            self._profile = replica.profile
            self.request = await errand.translate(self._profile)
        leg = self._leg = errand.new_leg(replica.name, replica.backend.url)
        leg.began_at = time.perf_counter()
        asking = Asking(None, errand.request_id, errand.limits, leg, is_fresh, passed_s)
        if errand.translate is None:
            return replica.connections.models(asking)
        if errand.counts:
            return replica.connections.tokenize(self.request, asking)
        return replica.connections.send(self.request, asking)

    def _end_leg(self, error: BaseException | None) -> None:
        leg = self._leg
        leg.ended_at = time.perf_counter()
        if isinstance(error, ProxyError):
            leg.error = str(error.code or error.kind)

    def _note_connection(self) -> None:
        leg = self._leg
        if leg.connected_at is not None:
            self._errand.trail.connect_ms = int((leg.connected_at - leg.began_at) * 1e6) / 1000

    def _judge(self, error: UpstreamError | None, *, has_begun: bool) -> None:
        pool, replica = self._pool, self.replica
        if error is not None:
            self._errand.trail.upstream_errors += (error_kind(error, has_begun=has_begun),)
        if isinstance(error, Stale):
            pool.untold(replica)
            return
        found = verdict(error)
        if found is Verdict.FINE:
            pool.succeeded(replica)
        else:
            assert error is not None
            pool.failed(replica, error.message, at_once=found is Verdict.REFUSED)

    # --- once more

    def _next(self, replica: Replica, error: UpstreamError) -> tuple[Replica, bool] | None:
        """Return where the request goes next, and whether on a connection of its own; None if it does not."""
        pool, errand = self._pool, self._errand
        self._let_rest(replica, error)
        has_learned = (
            errand.translate is not None
            and isinstance(error, UpstreamRejected)
            and pool.learn(replica, error, self._profile)
        )
        if self._attempts >= pool.config.max_attempts:
            return None
        if has_learned:
            errand.trail.retried += (REJECTED_SHAPE,)
            return pool.take(replica), False
        reason = retry_reason(error)
        if reason is None:
            return None
        self._tried.append(replica)
        lost = replica if isinstance(error, Stale) or verdict(error) is Verdict.REFUSED else None
        other = pool.choose_other(errand.ask, errand.model, self._tried, lost=lost)
        if other is None:
            is_stale = isinstance(error, Stale)
            other = pool.take(replica) if is_stale else pool.choose_desperately(errand.model, self._tried)
        if other is None or not pool.budget.take():
            if other is not None:
                pool.dropped(other)
            return None
        errand.trail.retried += (reason,)
        # Where one pooled connection was stale, others may be.
        return other, isinstance(error, Stale)

    def _let_rest(self, replica: Replica, error: UpstreamError) -> None:
        """Honour the Retry-After of a replica that is overloaded, if others can have the requests meanwhile."""
        pause = error.headers.get("Retry-After", "")
        if isinstance(error, UpstreamRejected) and error.status in (429, 503) and pause.isdecimal():
            now = asyncio.get_running_loop().time()
            replica.resting_until = now + min(float(pause), _LONGEST_REST_S)
            self._pool.refresh()


async def _entered(exchange: AbstractAsyncContextManager[Answer], leg: Leg) -> Answer:
    answer = await exchange.__aenter__()
    leg.status = answer.status
    try:
        return await _accepted(answer)
    except BaseException as exc:
        await exchange.__aexit__(type(exc), exc, exc.__traceback__)  # may say that a timer ended it
        raise


async def _accepted(answer: Answer) -> Answer:
    """
    Return `answer` if the model server took the request.

    Raises:
        UpstreamError: the error that any other status than 200 stands for.
    """
    if answer.status == 200:
        return answer
    if answer.status < 400:
        raise UpstreamProtocolError(f"The model server answered with status {answer.status}, which is not followed.")
    error = translate_failure(answer.status, await read_at_most(answer, LONGEST_FAILURE))
    if answer.retry_after is not None:
        error.headers["Retry-After"] = answer.retry_after
    raise error
