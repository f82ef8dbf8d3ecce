"""
What translation costs by itself: no network, no event loop, one thread of this process.

    python -m benchmarks.translate                        a table for people
    python -m benchmarks.translate --json                 the same as JSON
    python -m benchmarks.translate --exchanges BODY...    request and whole answer together, default profile, JSON

Everything is repeated on the same input, so the processor's caches are warm: in a proxy that does other things in
between, the same work costs somewhat more.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks.answers import STREAMS, whole_answer
from benchmarks.bodies import all_bodies
from benchmarks.tables import translation_table
from proxy.config import Config
from proxy.translate.completion import translate_completion
from proxy.translate.profile import PROFILE_NAMES, Profile, build_profile
from proxy.translate.request import translate_request
from proxy.translate.stream import State, StreamTranslator

REPEATS: Final = 20
PIECES: Final = 200
BODIES: Final = ("short", "agentic-clean", "agentic", "huge-clean", "huge")
DEFAULT_PROFILE: Final = Config().profile

#: One measurement is made at least this long by repeating what it measures.
_SHORTEST_S: Final = 0.002


class Timing(NamedTuple):
    """CPU-microseconds of one run; the smallest is nearest to the cost without disturbance."""

    smallest: float
    median: float


class Row(NamedTuple):
    """One line of the table; `unit` is what is counted."""

    what: str
    profile: str
    unit: str
    cpu_us: Timing
    rules: int


def measure(action: Callable[[], Any]) -> Timing:
    """Return what one call of `action` costs this process."""
    calls = _calls_for(action)
    costs = []
    for _ in range(REPEATS):
        started = time.process_time()
        for _ in range(calls):
            action()
        costs.append((time.process_time() - started) / calls * 1e6)
    return Timing(min(costs), median(costs))


def _calls_for(action: Callable[[], Any]) -> int:
    """Return how often to call; on the way the code is warmed up."""
    calls = 1
    while True:
        started = time.process_time()
        for _ in range(calls):
            action()
        if time.process_time() - started >= _SHORTEST_S:
            return calls
        calls *= 2


def request_rows(profile: Profile) -> Iterable[Row]:
    """Measure `translate_request` on every body."""
    bodies = all_bodies()
    for name in BODIES:
        body = bodies[name]
        rules = len(translate_request(body, profile).rules_applied)
        cost = measure(lambda body=body: translate_request(body, profile))  # type: ignore[misc]
        yield Row(f"request, {name}", profile.name, "request", cost, rules)


def answer_row(profile: Profile) -> Row:
    """Measure `translate_completion` on a text answer."""
    expectation = translate_request(all_bodies()["short"], profile).expectation
    answer = whole_answer()
    cost = measure(lambda: translate_completion(answer, expectation))
    rules = len(translate_completion(answer, expectation).rules_applied)
    return Row("whole answer", profile.name, "answer", cost, rules)


def stream_rows(profile: Profile) -> Iterable[Row]:
    """Measure `StreamTranslator`, one event at a time, on every kind of stream."""
    expectation = translate_request(all_bodies()["call-burst"], profile).expectation

    def play(events: list[bytes]) -> StreamTranslator:
        translator = StreamTranslator(expectation)
        for event in events:
            translator.receive(event)
        translator.receive_eof()
        return translator

    for kind, make in STREAMS.items():
        events = make(PIECES)
        done = play(events)
        assert done.state is State.CLOSED, f"{kind}: {done.error}"
        cost = measure(lambda events=events: play(events))  # type: ignore[misc]
        per_event = Timing(cost.smallest / len(events), cost.median / len(events))
        yield Row(f"stream, {kind}", profile.name, "event", per_event, len(done.rules_applied))


def all_rows() -> list[Row]:
    """Measure everything for every profile."""
    rows: list[Row] = []
    for name in PROFILE_NAMES:
        profile = build_profile(name)
        rows += [*request_rows(profile), answer_row(profile), *stream_rows(profile)]
    return rows


def exchange_us(body_name: str) -> float:
    """Return the CPU-microseconds for one request with that body and its whole answer."""
    profile, body, answer = build_profile(DEFAULT_PROFILE), all_bodies()[body_name], whole_answer()

    def exchange() -> None:
        request = translate_request(body, profile)
        translate_completion(answer, request.expectation)

    return measure(exchange).median


def as_data(row: Row) -> dict[str, Any]:
    return {
        "what": row.what,
        "profile": row.profile,
        "unit": row.unit,
        "smallest_us": round(row.cpu_us.smallest, 2),
        "median_us": round(row.cpu_us.median, 2),
        "rules": row.rules,
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.translate")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--exchanges", nargs="+", metavar="BODY")
    arguments = parser.parse_args()
    if arguments.exchanges:
        print(json.dumps({name: exchange_us(name) for name in arguments.exchanges}))
        return
    rows = [as_data(row) for row in all_rows()]
    print(json.dumps(rows) if arguments.json else translation_table(rows))


if __name__ == "__main__":
    main()
