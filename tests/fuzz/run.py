"""
Look for inputs that break a target, for a bounded time:

    python -m tests.fuzz.run --seconds 60 stream

The inputs are mutations of the target's corpus. The first that fails is made shorter and written to the corpus, where
the tests replay it; the exit code is then 1. The seed is printed, and `--seed` plays the same inputs again.
"""

import argparse
import hashlib
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random, SystemRandom

from tests.fuzz import sse, stream
from tests.fuzz.mutate import mutated

Check = Callable[[bytes], None]

TARGETS: dict[str, Check] = {"sse": sse.check, "stream": stream.check}
CORPUS = Path(__file__).parent / "corpus"
#: Arbitrary: how many shorter inputs are tried for one that fails.
MOST_SHORTENINGS = 2000


def corpus_of(target: str) -> list[Path]:
    """Return the files of a target's corpus, in order."""
    return sorted(path for path in (CORPUS / target).iterdir() if path.is_file())


def failure(check: Check, data: bytes) -> Exception | None:
    """Return what the target says against an input."""
    try:
        check(data)
    except Exception as error:
        return error
    return None


def shortened(check: Check, data: bytes) -> bytes:
    """Return a shorter input that fails as `data` does, by leaving out ever smaller parts of it."""
    kind = type(failure(check, data))
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


def search(check: Check, corpus: Sequence[bytes], seconds: float, chance: Random) -> tuple[int, bytes | None]:
    """Try inputs until one fails or the time is over; return how many were tried, and the one that failed."""
    end = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < end:
        data = mutated(corpus, chance)
        tried += 1
        if failure(check, data) is not None:
            return tried, data
    return tried, None


def main(argv: Sequence[str]) -> int:
    """Fuzz one target; return 1 if an input fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32))
    given = parser.parse_args(argv)
    check = TARGETS[given.target]
    corpus = [path.read_bytes() for path in corpus_of(given.target)]
    tried, data = search(check, corpus, given.seconds, Random(given.seed))
    print(f"{given.target}: {tried} inputs out of a corpus of {len(corpus)}, seed {given.seed}")
    if data is None:
        return 0
    data = shortened(check, data)
    path = CORPUS / given.target / f"found-{hashlib.sha256(data).hexdigest()[:10]}"
    path.write_bytes(data)
    traceback.print_exception(failure(check, data))
    print(f"An input of {len(data)} bytes fails. It is in {path} now, and make test replays it.")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
