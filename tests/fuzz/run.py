"""
Look for inputs that break a target, for a bounded time or a number of inputs:

    python -m tests.fuzz.run --seconds 60 stream
    python -m tests.fuzz.run --inputs 1000000 request

Where both bounds are given, the first that is reached ends the run. The inputs are mutations of the target's corpus.
The first that fails is made shorter and written to the corpus, where the tests replay it; the exit code is then 1. One
that fails only after others is written as it was. The seed is printed, and `--seed` plays the same inputs again.
"""

import argparse
import hashlib
import math
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from random import Random, SystemRandom
from typing import NamedTuple

from tests.fuzz import edge, json_edits, mutate, request, sse, stream

#: Raises where an input breaks what must hold; may say what became of it, which is counted.
Check = Callable[[bytes], str | None]


class Target(NamedTuple):
    """What is fuzzed: `opened()` gives the check while whatever it needs is there; `corpus` is the folder's name."""

    opened: Callable[[], AbstractContextManager[Check]]
    corpus: str
    mutated: Callable[[Sequence[bytes], Random], bytes]


TARGETS: Mapping[str, Target] = {
    "sse": Target(lambda: nullcontext(sse.check), "sse", mutate.mutated),
    "stream": Target(lambda: nullcontext(stream.check), "stream", mutate.mutated),
    "request": Target(lambda: nullcontext(request.check), "request", json_edits.mutated),
    "edge": Target(edge.opened, "request", json_edits.mutated),
}
CORPUS = Path(__file__).parent / "corpus"
#: How long a run is that is given no bound.
SECONDS = 60
#: Arbitrary: how many shorter inputs are tried for one that fails.
MOST_SHORTENINGS = 2000


def corpus_of(target: str) -> list[Path]:
    """Return the files of a target's corpus, in order."""
    return sorted(path for path in (CORPUS / TARGETS[target].corpus).iterdir() if path.is_file())


def failure(check: Check, data: bytes) -> Exception | None:
    """Return what the target says against an input."""
    try:
        check(data)
    except Exception as error:
        return error
    return None


def shortened(check: Check, data: bytes) -> bytes:
    """Return a shorter input that fails as `data` does, by leaving out ever smaller parts of it, or `data` itself."""
    kind = type(failure(check, data))
    if kind is type(None):
        return data
    size, tries = len(data) // 2, 0
    while size and tries < MOST_SHORTENINGS:
        at = 0
        while at < len(data) and tries < MOST_SHORTENINGS:
            shorter, tries = data[:at] + data[at + size :], tries + 1
            if type(failure(check, shorter)) is kind:
                data = shorter
            else:
                at += size
        size //= 2
    return data


class Bounds(NamedTuple):
    """How long to look: the first bound that is reached ends it."""

    inputs: float
    seconds: float


class Search(NamedTuple):
    """How many inputs were tried, what became of how many, and the one that failed, with what was said against it."""

    tried: int
    outcomes: Mapping[str | None, int]
    failing: bytes | None = None
    error: Exception | None = None


def search(check: Check, mutated: Callable[[], bytes], bounds: Bounds) -> Search:
    """Try inputs until one fails or a bound is reached."""
    end = time.monotonic() + bounds.seconds
    tried, outcomes = 0, Counter[str | None]()
    while tried < bounds.inputs and time.monotonic() < end:
        data = mutated()
        tried += 1
        try:
            outcomes[check(data)] += 1
        except Exception as error:
            return Search(tried, outcomes, data, error)
    return Search(tried, outcomes)


def main(argv: Sequence[str]) -> int:
    """Fuzz one target; return 1 if an input fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--inputs", type=int)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32))
    given = parser.parse_args(argv)
    with TARGETS[given.target].opened() as check:
        return _fuzzed(check, given.target, _bounds(given.inputs, given.seconds), given.seed)


def _bounds(inputs: int | None, seconds: float | None) -> Bounds:
    if inputs is None:
        return Bounds(math.inf, SECONDS if seconds is None else seconds)
    return Bounds(inputs, math.inf if seconds is None else seconds)


def _fuzzed(check: Check, name: str, bounds: Bounds, seed: int) -> int:
    target, chance = TARGETS[name], Random(seed)
    corpus = [path.read_bytes() for path in corpus_of(name)]
    started = time.monotonic()
    tried, outcomes, data, error = search(check, lambda: target.mutated(corpus, chance), bounds)
    took = time.monotonic() - started
    parts = "".join(f", {number} {outcome}" for outcome, number in sorted(outcomes.items(), key=str) if outcome)
    print(f"{name}: {tried} inputs in {took:.0f} s out of a corpus of {len(corpus)}, seed {seed}{parts}", flush=True)
    if data is None:
        return 0
    data = shortened(check, data)
    path = CORPUS / target.corpus / f"found-{hashlib.sha256(data).hexdigest()[:10]}"
    path.write_bytes(data)
    traceback.print_exception(failure(check, data) or error)
    print(f"An input of {len(data)} bytes fails. It is in {path} now, and make test replays it.")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
