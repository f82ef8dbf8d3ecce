"""
How much a principal may ask: the limits of a tier and of a model, before a request is sent and after its answer.

    admitted(principal, model, estimate) --+--> Ticket: settle(...) when the usage is known, close() at the end
                                           +--> RateLimited: a limit has no room, and nothing was charged
                                           '--> NotDecided: the shared store is away, and `store_failure` is `closed`

A proxy cannot count tokens before the model server has: it charges an estimate and settles it by the usage.
"""

import math
from enum import IntEnum
from typing import Final, NamedTuple, Protocol, Self

from proxy.access.principal import Principal
from proxy.config import Config, Tier
from proxy.errors import NotDecided, RateLimited
from proxy.store.decision import Charge, Count, Decision, Refusal, Scope, Store, key_of
from proxy.store.gcra import DAY_S, MINUTE_S, NEVER, Limit, Terms, terms_of
from proxy.store.standing import StoreDown

#: Bytes of a request's body for one token of its prompt. 65 recorded requests of agents (of tests/cases/agents.jsonl,
#: those that mistral-common's oldest validator takes) have 3.93, this project's Python files 4.07, its README 3.29:
#: mistral-common 1.13.1 with tekken_240911, 2026-11-26.
BYTES_PER_TOKEN: Final = 4
#: Tokens of a picture. Mistral Small 3.1 makes at most 55 x 55 of one (1,540 pixels, 28 for each); most are smaller.
PICTURE_TOKENS: Final = 1024
#: Arbitrary: what an answer is taken for whose request sets no limit. Agents' answers are mostly shorter.
DEFAULT_ANSWER_TOKENS: Final = 1024
#: The largest that an answer is taken for: what limits reckon with are doubles, which count so far exactly.
_MOST_TOKENS: Final = 2**53

#: Arbitrary: when to look again at a store that is away.
_STORE_RETRY_S: Final = 1.0


class Estimate(NamedTuple):
    """Tokens that a request is charged before it has run."""

    prompt: int
    answer: int


def estimate_of(body: bytes, max_tokens: int | None, choices: int = 1) -> Estimate:
    """Return what a request with this body, which asks for `choices` of at most `max_tokens` each, is taken for."""
    text_bytes, pictures = _without_pictures(body)
    prompt = -(-text_bytes // BYTES_PER_TOKEN) + pictures * PICTURE_TOKENS
    answer = choices * (DEFAULT_ANSWER_TOKENS if max_tokens is None else max_tokens)
    return Estimate(prompt, min(answer, _MOST_TOKENS))


def _without_pictures(body: bytes) -> tuple[int, int]:
    """Return how many bytes are not in pictures, and how many pictures there are: data URLs, up to their quote."""
    text_bytes, pictures = len(body), 0
    start = body.find(_PICTURE)
    while start >= 0:
        end = body.find(b'"', start)
        if end < 0:
            break
        text_bytes -= end - start
        pictures += 1
        start = body.find(_PICTURE, end)
    return text_bytes, pictures


_PICTURE: Final = b"data:image"


class _Phase(IntEnum):
    CHARGED = 0
    SETTLED = 1
    CLOSED = 2


class Ticket:
    """
    A request that was admitted, and what it was charged.

    Settle it once: `settle()` when the usage is known, or `settle_unknown()` for an answer that broke off. Then, in any
    case and any number of times, `close()`; one that was not settled by then keeps its prompt's estimate.
    """

    __slots__ = ("_decision", "_estimate", "_phase", "_store")

    def __init__(self, store: Store | None, decision: Decision, estimate: Estimate) -> None:
        self._store = store
        self._decision = decision
        self._estimate = estimate
        self._phase = _Phase.CHARGED if decision.taken is not None else _Phase.CLOSED

    def headers(self) -> dict[str, str]:
        """Return OpenAI's headers about what is left, of the tightest of the limits."""
        return headers_of(self._decision)

    def settle(self, tokens_in: int, tokens_out: int) -> None:
        """The model server counted so many; 0 and 0 for a request that did not run."""
        self._settle(tokens_in + tokens_out)

    def settle_unknown(self, events: int) -> None:
        """The answer broke off after so many events of its stream, each of which is about one token."""
        self._settle(self._estimate.prompt + events)

    def close(self) -> None:
        """The request is over: its place among the concurrent ones is free."""
        self.settle_unknown(0)
        if self._phase is not _Phase.CLOSED and self._store is not None and self._decision.taken is not None:
            self._phase = _Phase.CLOSED
            self._store.release(self._decision.taken)

    def _settle(self, used: int) -> None:
        if self._phase is _Phase.CHARGED and self._store is not None and self._decision.taken is not None:
            self._phase = _Phase.SETTLED
            self._store.settle(self._decision.taken, used)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


#: The ticket of whoever has no limits: nothing to settle, and nothing to tell.
FREE: Final = Ticket(None, Decision(taken=None, refusal=None, requests=None, tokens=None), Estimate(0, 0))


class Trail(Protocol):
    """Where it is written down that a limit refused a request."""

    limit: str | None


#: What a tier and a model come to: scope by scope the terms, and the name that the account has besides.
_Plan = tuple[tuple[Scope, Terms], ...]


class Limiter:
    """
    Decides by the settings; `apply()` changes them, and what runs keeps the terms that it was charged by.

    `memory` is the store of this instance, `shared` the one of several: None if there is none. Both stay their owner's.
    """

    def __init__(self, config: Config, memory: Store, shared: Store | None, count: Count) -> None:
        self._memory = memory
        self._shared = shared
        self._count = count
        self.apply(config)

    def apply(self, config: Config) -> None:
        """Decide by these settings from now on."""
        self._fails_closed = config.store_failure == "closed"
        tiers = {"default": Tier(), **config.tiers}
        models = {"", *config.models, *(model for tier in tiers.values() for model in tier.per_model)}
        # A client may name any model: those without limits of their own share one row, so the table stays small.
        self._plans = {(name, model): _plan(config, tier, model) for name, tier in tiers.items() for model in models}
        #: whether nobody has limits
        self.is_unlimited = not any(self._plans.values())
        self._config = config

    def charges_of(self, principal: Principal, model: str) -> tuple[Charge, ...]:
        """Return what a request is charged to; empty is no limit, at 0.3 us where nobody has one (2026-11-26)."""
        if self.is_unlimited:
            return ()
        plan = self._plans.get((principal.tier_name, model))
        if plan is None:
            plan = self._plans.get((principal.tier_name, ""))
        if plan is None:  # its tier is gone since it was let in
            plan = _plan(self._config, principal.tier, model)
        if not plan:
            return ()
        return tuple(_charge(scope, terms, principal.name, model) for scope, terms in plan)

    async def admitted(self, principal: Principal, model: str, estimate: Estimate, trail: Trail) -> Ticket:
        """
        Charge a request; return what it is to be settled with.

        Raises:
            RateLimited: a limit has no room; `trail.limit` is its name.
            NotDecided: the shared store is away, and may not be replaced by this instance's memory.
        """
        charges = self.charges_of(principal, model)
        if not charges:
            return FREE
        tokens = estimate.prompt + estimate.answer
        store, decision = await self._decided(charges, tokens)
        if decision.refusal is not None:
            trail.limit = LIMIT_NAMES[decision.refusal.limit]
            raise _refused(decision, decision.refusal, model, tokens)
        return Ticket(store, decision, estimate)

    async def _decided(self, charges: tuple[Charge, ...], tokens: int) -> tuple[Store, Decision]:
        if self._shared is not None:
            try:
                return self._shared, await self._shared.decide(charges, tokens)
            except StoreDown:
                if self._fails_closed:
                    self._count("undecided")
                    raise _undecided() from None
                self._count("alone")
        return self._memory, await self._memory.decide(charges, tokens)


def _plan(config: Config, tier: Tier, model: str) -> _Plan:
    found = (
        (Scope.PRINCIPAL, tier),
        (Scope.PRINCIPAL_MODEL, tier.per_model.get(model)),
        (Scope.MODEL, config.models.get(model)),
    )
    return tuple((scope, terms) for scope, rates in found if rates and not (terms := terms_of(rates)).is_none)


def _charge(scope: Scope, terms: Terms, principal: str, model: str) -> Charge:
    key = key_of(scope, "" if scope is Scope.MODEL else principal, "" if scope is Scope.PRINCIPAL else model)
    return Charge(scope, key, terms)


# --- what clients are told


#: The settings' names of the limits.
LIMIT_NAMES: Final = {
    Limit.REQUESTS: "requests_per_minute",
    Limit.TOKENS: "tokens_per_minute",
    Limit.DAY: "tokens_per_day",
    Limit.CONCURRENT: "max_concurrent",
}

_LIMIT_WORDS: Final = {
    Limit.REQUESTS: "requests per minute",
    Limit.TOKENS: "tokens per minute",
    Limit.DAY: "tokens per day",
    Limit.CONCURRENT: "concurrent requests",
}
_SCOPE_WORDS: Final = {
    Scope.PRINCIPAL: "",
    Scope.PRINCIPAL_MODEL: " of the model {model}",
    Scope.MODEL: " of all clients of the model {model}",
}
#: OpenAI's words: of what there are too many (their rate-limit guide, and the `type` of their 429).
_KINDS: Final = {
    Limit.REQUESTS: "requests",
    Limit.TOKENS: "tokens",
    Limit.DAY: "insufficient_quota",
    Limit.CONCURRENT: "requests",
}


def headers_of(decision: Decision) -> dict[str, str]:
    """Return the `x-ratelimit-*` headers, as OpenAI's guide "Rate limits" has them (platform.openai.com, 2026-06)."""
    headers: dict[str, str] = {}
    for name, room in (("requests", decision.requests), ("tokens", decision.tokens)):
        if room is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(room.limit)
            headers[f"x-ratelimit-remaining-{name}"] = str(room.remaining)
            headers[f"x-ratelimit-reset-{name}"] = duration(room.reset_s)
    return headers


def duration(seconds: float) -> str:
    """Return a time as these headers say it, rounded up to a millisecond, or from a minute on to a second: 6m0s."""
    ms = math.ceil(seconds * 1000 - 1e-3)  # a microsecond is noise
    if ms < 1000:
        return f"{max(ms, 0)}ms"
    if ms < 60_000:
        return f"{ms / 1000:g}s"
    minutes, rest_s = divmod(math.ceil(ms / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest_s}s" if hours else f"{minutes}m{rest_s}s"


def _refused(decision: Decision, refusal: Refusal, model: str, tokens: int) -> RateLimited:
    what = _LIMIT_WORDS[refusal.limit] + _SCOPE_WORDS[refusal.scope].format(model=model)
    most = f"{refusal.most}" if refusal.at_once == refusal.most else f"{refusal.most} ({refusal.at_once} at once)"
    used = f"Limit {most}, Used {refusal.used}, Requested {1 if refusal.limit in _OF_REQUESTS else tokens}."
    wait_s = refusal.wait_s
    if wait_s == NEVER:
        wait_s = MINUTE_S if refusal.limit is Limit.TOKENS else DAY_S
        message = (
            f"Request too large for {what}: Limit {refusal.most}, Requested {tokens}."
            " It must be made smaller, its prompt or its max_tokens; trying again does not help."
        )
    elif refusal.limit is Limit.DAY:
        message = f"The budget of {what} is used up: {used} It begins again in {duration(wait_s)}."
    else:
        message = f"Rate limit reached for {what}: {used} Please try again in {duration(wait_s)}."
    error = RateLimited(message, code="insufficient_quota" if refusal.limit is Limit.DAY else None)
    error.kind = _KINDS[refusal.limit]
    error.headers.update(headers_of(decision) | _retry_headers(wait_s))
    if refusal.wait_s == NEVER or refusal.limit is Limit.DAY:
        # openai-python and openai-node obey it, else they would ask two times more within seconds.
        error.headers["x-should-retry"] = "false"
    return error


_OF_REQUESTS: Final = (Limit.REQUESTS, Limit.CONCURRENT)


def _retry_headers(wait_s: float) -> dict[str, str]:
    """RFC 9110 has whole seconds only; OpenAI's clients look at the milliseconds first."""
    ms = max(1, math.ceil(wait_s * 1000 - 1e-3))
    return {"Retry-After": str(-(-ms // 1000)), "retry-after-ms": str(ms)}


def _undecided() -> NotDecided:
    error = NotDecided("How much may be asked for cannot be found out now. Please try again.")
    error.headers.update(_retry_headers(_STORE_RETRY_S))
    return error
