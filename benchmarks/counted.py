"""
What benchmarks/instructions.py runs under callgrind: one case of the pure core, between two marks.

    python -m benchmarks.counted FILE

It imports little and reads its inputs ready made, because every instruction before the first mark costs fifty times
its time. FILE is a `Work`, written by marshal.
"""

import gc
import marshal
import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypedDict

from proxy.translate.completion import translate_completion
from proxy.translate.expectation import Expectation
from proxy.translate.profile import Profile, build_profile
from proxy.translate.request import translate_request
from proxy.translate.stream import State, StreamTranslator


class Work(TypedDict):
    """
    One case. `does` is a key of `ACTIONS`; `request` is the body that the answers belong to.

    Each of `warm_up` and `counted` is the input of one run: the pieces in which it comes, a single one but for
    streams. `counted` has at least one.
    """

    does: str
    profile: str
    request: bytes
    warm_up: list[list[bytes]]
    counted: list[list[bytes]]


def translated_request(pieces: list[bytes], profile: Profile, expectation: Expectation) -> None:
    translate_request(pieces[0], profile)


def translated_completion(pieces: list[bytes], profile: Profile, expectation: Expectation) -> None:
    translate_completion(pieces[0], expectation)


def translated_stream(pieces: list[bytes], profile: Profile, expectation: Expectation) -> None:
    translator = StreamTranslator(expectation)
    for piece in pieces:
        translator.receive(piece)
    translator.receive_eof()
    assert translator.state is State.CLOSED, translator.error


ACTIONS: Final[Mapping[str, Callable[[list[bytes], Profile, Expectation], None]]] = MappingProxyType(
    {"request": translated_request, "answer": translated_completion, "stream": translated_stream}
)


def mark() -> None:
    """Tell callgrind to begin a new count: the parent watches for this function of libc, which nothing else calls."""
    os.getppid()


def run(work: Work) -> None:
    """Do the warm-up uncounted, then what is counted."""
    profile = build_profile(work["profile"])
    expectation = translate_request(work["request"], profile).expectation
    act = ACTIONS[work["does"]]
    # A collection falls due after so many objects, of whatever the interpreter made before: luck, and not our cost.
    gc.collect()
    gc.disable()
    try:
        for pieces in work["warm_up"]:
            act(pieces, profile, expectation)
        mark()
        for pieces in work["counted"]:
            act(pieces, profile, expectation)
        mark()
    finally:
        gc.enable()


def main() -> None:
    with open(sys.argv[1], "rb") as file:
        work: Any = marshal.load(file)
    run(work)


if __name__ == "__main__":
    main()
