"""
Which replica a request goes to: one small function for each named policy.

    least_in_flight   the fewest requests running, for its weight
    round_robin       each in turn
    power_of_two      the less loaded of two that are drawn
    session           the same one for a session, unless it has more than its share
    prefix            the one that ran the conversation's last turn, unless it has more than its share

Nothing here waits, measures time or draws random numbers: a choice follows from what the policy is given. What it
knows of load is this process's own requests, which are never stale; figures that are polled send every process to the
same replica at once.

`session` and `prefix` are bounded-load rendezvous hashing. Rendezvous (Thaler and Ravishankar, 1998): each replica
gets a score from its key and the request's digest, and the highest wins, so a replica that leaves moves its own
requests only; with log(u) / weight for a score each wins in proportion to its weight (Schindelhauer and Schomaker,
2005). Bounded load (Mirrokni, Thorup and Zadimoghaddam, 2018): a replica that already runs `LOAD_FACTOR` times its
share is passed over.

What a choice costs is measured by `python -m benchmarks.balance`: of processor time, with Python 3.11, the dearest
policies took 5 µs among 8 replicas and 265 µs among 1,000, `least_in_flight` 0.6 µs and 77 µs (2026-11-26).
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf, log2
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol, TypeVar

#: How far above its share a replica may be: 1.25 x the mean, rounded up, the request to be placed included.
LOAD_FACTOR: Final = 1.25
#: How many prompts a process remembers the replica of: 5 MB, and at 18 requests a second the last half hour. Arbitrary.
MOST_PROMPTS: Final = 65_536

_MASK: Final = (1 << 64) - 1
_MASK_32: Final = (1 << 32) - 1
#: 2**32 divided by the golden ratio: its multiples, modulo 2**32, are spread evenly however many there are.
_GOLDEN: Final = 0x9E3779B9


class Load(Protocol):
    """What a policy sees of a replica. Every attribute is read once or twice for each request."""

    @property
    def key(self) -> int:
        """`digest` of its name: 64 bits, the same in every process."""

    @property
    def weight(self) -> float:
        """Its share of requests beside the others' weights; more than 0, slow start included."""

    @property
    def in_flight(self) -> int:
        """How many requests of this process run there now."""


L = TypeVar("L", bound=Load)


class Ask(NamedTuple):
    """What a policy sees of a request. `chain` and `root` come from `proxy.upstream.prefix`."""

    #: Counts the requests of this process; processes should not all start at 0.
    number: int = 0
    #: Who it belongs to: the session header, or `user`; b"" if neither is there.
    session: bytes = b""
    #: Hashes of the prompt of the turn before, if there was one, and of this prompt.
    chain: tuple[int, ...] = ()
    #: `digest` of how the conversation began; 0 if that is not known.
    root: int = 0


class Policy(Protocol):
    """Chooses one of `loads`, of which there is at least one."""

    def __call__(self, loads: Sequence[L], ask: Ask, /) -> L: ...


def digest(text: bytes) -> int:
    """Return 64 bits that depend on `text` alone: every process, instance and version makes the same."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def make_policy(name: str) -> Policy:
    """
    Return the policy of this name, with a memory of its own if it needs one: one process takes one.

    Raises:
        KeyError: there is none; `POLICIES` has the names.
    """
    return POLICIES[name]()


# --- the policies


def least_in_flight(loads: Sequence[L], ask: Ask) -> L:
    """Choose the replica that would have the fewest requests for its weight; of equals, each in turn."""
    least, equals = inf, []
    for load in loads:
        pressure = (load.in_flight + 1) / load.weight
        if pressure < least:
            least, equals = pressure, [load]
        elif pressure == least:
            equals.append(load)
    return equals[ask.number % len(equals)]


def round_robin(loads: Sequence[L], ask: Ask) -> L:
    """
    Choose in order, in proportion to the weights.

    On a line where each replica takes a part as long as its weight, a round of as many requests as there are replicas
    is a row of evenly spaced points, and each round begins a little further on. Equal weights get one point each.
    """
    rounds, place = divmod(ask.number, len(loads))
    shift = ((rounds * _GOLDEN & _MASK_32) + 0.5) / 2**32  # never 0 or 1: at an end, rounding would decide
    chosen, _ = _at(loads, (place + shift) / len(loads) * _total_weight(loads))
    return chosen


def power_of_two(loads: Sequence[L], ask: Ask) -> L:
    """Draw two different replicas, in proportion to the weights; choose the one with fewer requests for its weight."""
    total, drawn = _total_weight(loads), _mixed(ask.number)
    first, end = _at(loads, (drawn >> 32) / 2**32 * total)
    others = total - first.weight
    second, _ = _at(loads, (end + (drawn & _MASK_32) / 2**32 * others) % total)
    is_second = (second.in_flight + 1) / second.weight < (first.in_flight + 1) / first.weight
    return second if is_second else first


def session(loads: Sequence[L], ask: Ask) -> L:
    """Choose by the session, among replicas below their bound; without a session by `least_in_flight`."""
    if not ask.session:
        return least_in_flight(loads, ask)
    return _nearest(loads, digest(ask.session), _bound(loads))


class PromptMemory:
    """
    Which replica ran which prompt, for at least the last `most` / 2 prompts and at most the last `most`.

    Two generations: when the young one is full it becomes the old one. A prompt is asked for by the conversation's
    next turn, which then is a prompt of its own, so it is not kept longer for having been asked for.
    """

    def __init__(self, most: int = MOST_PROMPTS) -> None:
        self._generation = max(1, most // 2)
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def find(self, chain: Sequence[int]) -> int | None:
        """Return the key of the replica that ran the longest known prompt of `chain`, None if none is known."""
        for prompt in reversed(chain):
            key = self._young.get(prompt)
            if key is None:
                key = self._old.get(prompt)
            if key is not None:
                return key
        return None

    def put(self, prompt: int, key: int) -> None:
        """Remember that `prompt` runs on the replica with this key."""
        if len(self._young) >= self._generation:
            self._old, self._young = self._young, {}
        self._young[prompt] = key


def prefix(memory: PromptMemory, loads: Sequence[L], ask: Ask) -> L:
    """
    Choose the replica whose cache holds the most of the prompt, among replicas below their bound.

    That is the one that ran the turn before. If it has too much to do, or this process did not see that turn, the
    conversation's root decides, on which all processes agree; without a root `least_in_flight` does. A conversation
    that was moved stays while there is room, since what it left behind is a turn too short, and goes by its root again
    when there is none. By the root alone, less is found in the caches: 68% of prompts' tokens and not 77% with 16
    replicas, with four processes 63% and not 68% (benchmarks/results/balance.json, 2026-11-26).
    """
    if not ask.root:
        return least_in_flight(loads, ask)
    bound = _bound(loads)
    key = memory.find(ask.chain)
    ran_before = (load for load in loads if load.key == key and load.in_flight < bound * load.weight)
    chosen = next(ran_before, None) if key is not None else None
    if chosen is None:
        chosen = _nearest(loads, ask.root, bound)
    if ask.chain:
        memory.put(ask.chain[-1], chosen.key)
    return chosen


#: Makes each policy, by its name in the configuration.
POLICIES: Final[Mapping[str, Callable[[], Policy]]] = MappingProxyType(
    {
        "least_in_flight": lambda: least_in_flight,
        "round_robin": lambda: round_robin,
        "power_of_two": lambda: power_of_two,
        "session": lambda: session,
        "prefix": lambda: partial(prefix, PromptMemory()),
    }
)


# --- what they share


_weight: Final[Callable[[Load], float]] = attrgetter("weight")
_in_flight: Final[Callable[[Load], int]] = attrgetter("in_flight")


def _total_weight(loads: Sequence[Load]) -> float:
    return sum(map(_weight, loads))


def _bound(loads: Sequence[Load]) -> float:
    """
    Return how many requests a weight of 1 may have: a replica with fewer than this times its weight takes another.

    Fewer than x is fewer than x rounded up, for a whole number. One replica always has fewer: if all had this many,
    they would together have `LOAD_FACTOR` times what they have.
    """
    return LOAD_FACTOR * (sum(map(_in_flight, loads)) + 1) / _total_weight(loads)


def _nearest(loads: Sequence[L], digest: int, bound: float) -> L:
    """Return the replica with the highest score for `digest` of those below their bound."""
    highest, nearest = -inf, loads[0]
    for load in loads:
        # Multiply-shift hashing: both factors are digests, so the upper half of the product is as good as one. It
        # takes a third of the time of a mixer (0.1 µs, not 0.3).
        score = (log2(load.key * digest & _MASK | 1) - 64) / load.weight
        if score > highest and load.in_flight < bound * load.weight:
            highest, nearest = score, load
    return nearest


def _at(loads: Sequence[L], point: float) -> tuple[L, float]:
    """Return the replica at `point` of the line on which each has a part as long as its weight; and the part's end."""
    end = 0.0
    for load in loads:
        end += load.weight
        if point < end:
            return load, end
    return loads[-1], end


def _mixed(number: int) -> int:
    """Return 64 bits that look random, others for each number: the finalizer of SplitMix64 (Steele et al., 2014)."""
    number = (number + 1) * 0x9E3779B97F4A7C15 & _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
