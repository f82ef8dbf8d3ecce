"""
Which policy keeps conversations where their prompts are cached, and what that costs in balance: a simulation.

    python -m benchmarks.balance [--seed N]

Nothing is served: the policies of proxy/upstream/choice.py choose among simulated replicas, and what depends on them is
counted. The same seed gives the same figures. Requests are those of coding agents:

    a lane      runs one conversation after another, a request at a time, with pauses between: tools and people
    a prompt    is tools and system prompt, which many conversations share, and the conversation, which grows each turn
    hot         an eighth of all lanes belongs to 8 sessions: one session header, one first prompt, then answers differ
    a replica   computes the part of a prompt that it has not cached, one prompt after another; then it writes, all
                answers at once and each the slower the more there are; its cache forgets whole conversations,
                the one not used for longest first, and none that is running
    a worker    is a process that chooses by its own requests alone. A lane's next request comes to the same worker if
                its client still keeps the connection, else to any

In the traffic "one opening" all conversations begin with the same prompt, as samples of one task do; in "questions"
none goes on after its first turn.

The figures of a row are those after `WARM_UP` of its requests:

    cached         tokens of prompts that were found in the cache
    sent_before    tokens of prompts that some request had sent before: no policy can have more cached
    busiest        the largest of the replicas' mean requests in flight, divided by the mean of all
    first_token    seconds until the first token, for one request in two and one in a hundred

What is not in it: memory that runs out while answers are written, a prompt's shared beginnings other than the system
prompt, requests that fail, and the proxy's own time, which `choice_us` of the result has.
"""

import argparse
import heapq
import random
import sys
import time
import timeit
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, product
from typing import Any, Final, NamedTuple

from benchmarks import outcome
from proxy.upstream.choice import POLICIES, Ask, digest, make_policy

SEED: Final = 1
#: 24 billion parameters in 8 bits on a card of 80 GB leave 45 GB, and a token takes 160 KB there.
CACHE_TOKENS: Final = 300_000
#: About 40% of that card's arithmetic, at 2 operations for each parameter and token.
PREFILL_TOKENS_PER_S: Final = 10_000
#: Assumed: what the first answer and each other one adds to the time of a token.
TOKEN_S, TOKEN_S_PER_ANSWER = 0.012, 0.0006
#: Scheduling and the network, for each request.
FIXED_S: Final = 0.03

LANES_PER_REPLICA: Final = 8
HOT_SESSIONS: Final = 8
HOT_LANES: Final = 0.125
#: How long a client keeps an idle connection: the default of httpx and httpx2, which openai-python uses.
KEEP_ALIVE_S: Final = 5.0
LONGEST_PROMPT: Final = 120_000
WARM_UP: Final = 0.3
REPLICAS: Final = (2, 4, 16, 100, 1000)
#: The policy without what it remembers: every turn goes to where the conversation's root points.
FORGETFUL: Final = "prefix, no memory"


#: Kinds of traffic.
AGENTS, ONE_OPENING, QUESTIONS = "agents", "one opening", "questions"


class Plan(NamedTuple):
    """One simulation."""

    policy: str
    replicas: int
    workers: int = 1
    traffic: str = AGENTS
    hot_lanes: float = HOT_LANES
    seed: int = SEED

    @property
    def requests(self) -> int:
        """How many requests there are: enough for caches to fill, and no more than take a few seconds."""
        return min(max(10_000, 150 * self.replicas), 40_000)


# --- the requests


@dataclass(slots=True)
class Conversation:
    """`tokens` are those after the system prompt. `sent` of them were in a request or an answer before."""

    number: int
    system: int
    opening: int
    turns: int
    tokens: int
    turn: int = 0
    sent: int = 0

    def ask(self, number: int, session: int, *, remembers: bool) -> Ask:
        """Return what a policy sees: the digests that proxy/upstream/prefix.py would make."""
        root = _digest("root", self.opening) if not self.turn else _digest("answer", self.number)
        chain = [_hash(self.number, self.turn)]
        if self.turn:
            chain.insert(0, _hash(self.number, self.turn - 1))
        return Ask(number, session.to_bytes(8, "big"), tuple(chain) if remembers else (), root)


@dataclass(slots=True)
class Lane:
    """Who sends one conversation after another; `hot` is the number of its session's opening, None if it has none."""

    session: int
    hot: Conversation | None
    conversation: Conversation
    worker: int = 0
    idle_since: float = -KEEP_ALIVE_S


class Traffic:
    """Draws conversations, answers and pauses. Sizes are log-normal: a few are large, most are not."""

    def __init__(self, plan: Plan) -> None:
        self.random = random.Random(plan.seed)
        self._plan = plan
        self._numbers = count(1)
        self.system_tokens = [self.random.randrange(4_000, 14_000) for _ in range(8)]

    def lanes(self) -> Iterator[Lane]:
        """Yield all lanes, each somewhere in its first conversation."""
        lanes = self._plan.replicas * LANES_PER_REPLICA
        hot = [self._conversation(None) for _ in range(HOT_SESSIONS)]
        for index in range(lanes):
            of = hot[index % HOT_SESSIONS] if index < lanes * self._plan.hot_lanes else None
            lane = Lane(of.number if of else next(self._numbers), of, self._conversation(of))
            for _ in range(self.random.randrange(lane.conversation.turns)):
                self.answered(lane.conversation, self.answer_tokens())
            lane.conversation.sent = 0
            yield lane

    def next_conversation(self, lane: Lane) -> None:
        """Go on, or begin anew when the conversation is over; a session that is not hot is one conversation's."""
        now = lane.conversation
        if now.turn < now.turns and now.tokens + self.system_tokens[now.system] <= LONGEST_PROMPT:
            return
        lane.conversation = self._conversation(lane.hot)
        if lane.hot is None:
            lane.session = lane.conversation.number

    def answered(self, conversation: Conversation, answer: int) -> None:
        """An answer came; the next turn sends it, and the result of a tool or what a person says."""
        conversation.sent = conversation.tokens + answer
        conversation.tokens = conversation.sent + int(self.random.lognormvariate(6.5, 1.0))
        conversation.turn += 1

    def answer_tokens(self) -> int:
        return min(4_000, max(10, int(self.random.lognormvariate(5.3, 0.8))))

    def pause_s(self) -> float:
        """Nine of ten are tools that run, the others people who read."""
        return self.random.expovariate(1 / 6 if self.random.random() < 0.9 else 1 / 48)

    def _conversation(self, like: Conversation | None) -> Conversation:
        number = next(self._numbers)
        # The first system prompts are those of most conversations.
        system = like.system if like else min(int(self.random.expovariate(0.5)), len(self.system_tokens) - 1)
        opening = like.number if like else number
        turns = max(2, int(self.random.expovariate(1 / 20)))
        tokens = int(self.random.lognormvariate(7.0, 0.8))
        if self._plan.traffic == ONE_OPENING:
            opening = system
        return Conversation(number, system, opening, 1 if self._plan.traffic == QUESTIONS else turns, tokens)


def _digest(what: str, number: int) -> int:
    return digest(f"{what} {number}".encode())


def _hash(conversation: int, turn: int) -> int:
    return conversation << 16 | turn


# --- the replicas


@dataclass(slots=True)
class Replica:
    """A model server: a queue of prompts, a cache, and answers being written."""

    cached: OrderedDict[int, int] = field(default_factory=OrderedDict)
    held: int = 0
    pins: dict[int, int] = field(default_factory=dict)
    prefills_until: float = 0.0
    in_flight: int = 0
    in_flight_seconds: float = 0.0
    counted_until: float = 0.0

    def found(self, conversation: Conversation, system_tokens: int) -> int:
        """Return how many tokens of a prompt are cached; without its system prompt the rest is of no use."""
        system = self.cached.get(-1 - conversation.system, 0)
        return system and system_tokens + min(self.cached.get(conversation.number, 0), conversation.tokens)

    def begin(self, conversation: Conversation, system_tokens: int, answer: int, now: float) -> tuple[float, float]:
        """Take a request; return when its first and last token are there."""
        new = system_tokens + conversation.tokens - self.found(conversation, system_tokens)
        for name, tokens in _parts(conversation, system_tokens, answer):
            self._hold(name, tokens)
        self._forget()
        self.count(now)
        self.in_flight += 1
        self.prefills_until = max(now, self.prefills_until) + new / PREFILL_TOKENS_PER_S
        first = self.prefills_until + FIXED_S
        return first, first + answer * (TOKEN_S + TOKEN_S_PER_ANSWER * self.in_flight)

    def end(self, conversation: Conversation, now: float) -> None:
        """A request is over; what it left in the cache may be forgotten from now on."""
        self.count(now)
        self.in_flight -= 1
        for name, _ in _parts(conversation, 0, 0):
            self.pins[name] -= 1
            if not self.pins[name]:
                del self.pins[name]

    def count(self, now: float) -> None:
        """Bring the sum of seconds of requests in flight up to `now`."""
        self.in_flight_seconds += self.in_flight * (now - self.counted_until)
        self.counted_until = now

    def _hold(self, name: int, tokens: int) -> None:
        before = self.cached.pop(name, 0)
        self.cached[name] = max(before, tokens)
        self.held += self.cached[name] - before
        self.pins[name] = self.pins.get(name, 0) + 1

    def _forget(self) -> None:
        if self.held > CACHE_TOKENS:
            for name in [name for name in self.cached if name not in self.pins]:
                self.held -= self.cached.pop(name)
                if self.held <= CACHE_TOKENS:
                    return


def _parts(conversation: Conversation, system_tokens: int, answer: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (-1 - conversation.system, system_tokens), (conversation.number, conversation.tokens + answer)


@dataclass(slots=True)
class Seat:
    """What one worker knows of a replica: what a policy chooses."""

    index: int
    key: int
    weight: float = 1.0
    in_flight: int = 0


# --- the simulation


@dataclass(slots=True)
class Counts:
    """What is counted after the warm-up."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    sent_before: int = 0
    first_token_s: list[float] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)


class Simulation:
    """One plan's run. Events are tuples (when, number, what happens), so no two compare equal."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.traffic = Traffic(plan)
        self.replicas = [Replica() for _ in range(plan.replicas)]
        self.counts = Counts()
        policy = "prefix" if plan.policy == FORGETFUL else plan.policy
        self._policies = [make_policy(policy) for _ in range(plan.workers)]
        keys = [digest(f"replica-{index}".encode()) for index in range(plan.replicas)]
        self._seats = [[Seat(index, key) for index, key in enumerate(keys)] for _ in self._policies]
        # Workers that all began at 0 would choose the same replicas at the same time.
        self._numbers = [count(self.traffic.random.randrange(1 << 20)) for _ in self._policies]
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._event_numbers = count()
        self._requests = 0
        self._counted_from = 0.0

    def run(self) -> dict[str, Any]:
        """Return the row of the plan."""
        for lane in self.traffic.lanes():
            self._at(self.traffic.random.random() * 12, partial(self._send, lane))
        now = 0.0
        while self._requests < self.plan.requests:
            now, _, happens = heapq.heappop(self._events)
            happens(now)
        return self._row(now)

    def _at(self, when: float, happens: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._event_numbers), happens))

    def _send(self, lane: Lane, now: float) -> None:
        traffic, conversation = self.traffic, lane.conversation
        if now - lane.idle_since >= KEEP_ALIVE_S:
            lane.worker = traffic.random.randrange(self.plan.workers)
        worker = lane.worker
        remembers = self.plan.policy != FORGETFUL
        ask = conversation.ask(next(self._numbers[worker]), lane.session, remembers=remembers)
        seat = self._policies[worker](self._seats[worker], ask)
        system_tokens, answer = traffic.system_tokens[conversation.system], traffic.answer_tokens()
        replica = self.replicas[seat.index]
        found = replica.found(conversation, system_tokens)
        first, last = replica.begin(conversation, system_tokens, answer, now)
        seat.in_flight += 1
        self._count(conversation, system_tokens, found, first - now, seat.index, now)

        def end(now: float) -> None:
            seat.in_flight -= 1
            replica.end(conversation, now)
            traffic.answered(conversation, answer)
            traffic.next_conversation(lane)
            lane.idle_since = now
            self._at(now + traffic.pause_s(), partial(self._send, lane))

        self._at(last, end)

    def _count(
        self, talk: Conversation, system_tokens: int, found: int, first_s: float, index: int, now: float
    ) -> None:
        self._requests += 1
        begins = int(self.plan.requests * WARM_UP)
        if self._requests == begins:
            self._counted_from = now
            for replica in self.replicas:
                replica.in_flight_seconds, replica.counted_until = 0.0, now
        if self._requests > begins:
            counts = self.counts
            counts.prompt_tokens += system_tokens + talk.tokens
            counts.cached_tokens += found
            counts.sent_before += system_tokens + talk.sent
            counts.first_token_s.append(first_s)
            counts.chosen.append(index)

    def _row(self, now: float) -> dict[str, Any]:
        for replica in self.replicas:
            replica.count(now)
        counts, plan, seconds = self.counts, self.plan, now - self._counted_from
        times = sorted(counts.first_token_s)
        busy = [replica.in_flight_seconds / seconds for replica in self.replicas]
        mean = sum(busy) / len(busy)
        return {
            "traffic": plan.traffic,
            "replicas": plan.replicas,
            "workers": plan.workers,
            "policy": plan.policy,
            "cached": round(counts.cached_tokens / counts.prompt_tokens, 3),
            "sent_before": round(counts.sent_before / counts.prompt_tokens, 3),
            "busiest": round(max(busy) / mean, 2),
            "first_token_p50_s": round(times[len(times) // 2], 3),
            "first_token_p99_s": round(times[len(times) * 99 // 100], 2),
            "in_flight": round(mean, 2),
            "requests_per_s": round(len(times) / seconds / plan.replicas, 3),
        }


def run(plan: Plan) -> dict[str, Any]:
    """Simulate, and return the row that the report has of it."""
    return Simulation(plan).run()


def plans(seed: int) -> list[Plan]:
    """Return all that is published: every policy and size; several workers; no memory; other traffic."""
    names = [*POLICIES, FORGETFUL]
    return [
        *(Plan(name, size, seed=seed) for size, name in product(REPLICAS, POLICIES)),
        *(Plan(FORGETFUL, size, seed=seed) for size in (16, 100)),
        *(Plan(name, size, workers=4, seed=seed) for size, name in product((16, 100), names)),
        *(Plan(name, 16, traffic=ONE_OPENING, seed=seed) for name in names),
        *(Plan(name, size, traffic=QUESTIONS, seed=seed) for size, name in product((16, 100), POLICIES)),
    ]


# --- what a choice costs


def choice_us(replicas: int) -> dict[str, float]:
    """Return microseconds of processor time that each policy takes for a conversation's first turn, the dearest."""
    seats = [Seat(index, digest(f"replica-{index}".encode()), in_flight=index % 3) for index in range(replicas)]
    times = max(20, 20_000 // replicas)
    asks = [Ask(i, b"session %d" % i, (i,), _digest("root", i)) for i in range(times)]
    return {name: round(_quickest_s(name, seats, asks) / times * 1e6, 1) for name in POLICIES}


def _quickest_s(name: str, seats: Sequence[Seat], asks: Sequence[Ask]) -> float:
    def choose_all() -> None:
        policy = make_policy(name)  # a new one, that remembers nothing yet
        for ask in asks:
            policy(seats, ask)

    return min(timeit.repeat(choose_all, timer=time.process_time, number=1, repeat=5))


def main() -> int:
    """Simulate, print, write results/balance.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.balance")
    parser.add_argument("--seed", type=int, default=SEED)
    seed = parser.parse_args().seed
    rows = [run(plan) for plan in plans(seed)]
    costs = {str(size): choice_us(size) for size in (1, 8, 100, 1000)}
    outcome.keep("balance", rows, seed=seed, choice_us=costs)
    print(outcome.table(rows))
    print("\nMicroseconds of processor time of a choice:\n")
    print(outcome.table([{"replicas": size, **found} for size, found in costs.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
