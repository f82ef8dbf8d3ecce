"""
What is counted of each model, by all workers together: what chat costs in time and in tokens.

The names stand in shared memory beside their numbers, as replicas' names do (replicas.py). Only a model that the
configuration names, or that a model server has listed, gets a place: the label's values are never a client's own words.
The others, and those for which there is no place any more, share the first, which is called `other`. A place is kept.

The bounds are all those that any told metric has (genai.py, metrics.py), so that each time is counted once, however
many metrics tell it.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from proxy.observe.layout import Layout
from proxy.observe.shared import LONGEST_NAME, OTHER, Names, SharedLock, shared_rows

#: Arbitrary: more models than one proxy stands in front of.
PLACES: Final = 64

#: OpenTelemetry's word for an error that has no other (semantic-conventions-genai, gen-ai-metrics.md, 2026-11).
OTHER_ERROR: Final = "_OTHER"
CLIENT_LEFT: Final = "client_disconnect"
#: Paths that name a model and run none.
NO_CHATS: Final = frozenset({"/v1/messages/count_tokens"})

#: The convention's, doubled from 10 ms on, and five more: an agent's calls run for minutes, and the convention ends at
#: 81.92 s.
DOUBLED_MS: Final = tuple(10 * 2**power for power in range(19))
#: The convention's for the first token, and some more for the same reason.
FIRST_TOKENS_MS: Final = (
    *(1, 5, 10, 20, 40, 60, 80, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000),
    *(30_000, 60_000, 120_000, 300_000),
)
#: The convention's for each token after it, and more.
PER_TOKEN_MS: Final = (
    *(10, 25, 50, 75, 100, 150, 200, 300, 400, 500, 750, 1000, 2500),
    *(5000, 10_000, 30_000, 120_000),
)
TOKENS: Final = tuple(4**power for power in range(14))

#: Ours: from a probe's answer to a long generation's.
WAITS_MS: Final = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000, 300_000)
#: Whole milliseconds below 10: a gap is told by uvloop's clock, which has no others.
GAPS_MS: Final = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 120_000)

_FIRSTS_MS: Final = tuple(sorted({*WAITS_MS, *DOUBLED_MS, *FIRST_TOKENS_MS}))
_GAPS_MS: Final = tuple(sorted({*GAPS_MS, *DOUBLED_MS, *PER_TOKEN_MS}))


class Asked(Protocol):
    """What is read of a request that is over and has named a model. Times are milliseconds."""

    model: str | None
    stream: bool | None
    status: int
    error: str | int | None
    error_type: str | None
    duration_ms: float
    ttft_ms: float | None
    tokens_in: int | None
    tokens_out: int | None


class ModelCounts:
    """The numbers of all models. Build it before forking; a worker calls `use()` first."""

    def __init__(self, workers: int, error_types: Sequence[str]) -> None:
        layout = Layout()
        errors = ("", *error_types, CLIENT_LEFT, OTHER_ERROR)
        layout.histogram("durations", "", DOUBLED_MS, error_type=errors)
        layout.histogram("firsts", "", _FIRSTS_MS)
        layout.histogram("gaps", "", _GAPS_MS)
        layout.histogram("tokens", "", TOKENS, token_type=("input", "output"))
        #: what stands in a place; `blocks()` of each reads it from a row that `summed()` returns
        self.families: Final = {family.name: family for family in layout.families}
        self._size: Final = layout.size
        durations, self._firsts, self._gaps, self._tokens_in = (family.at for family in layout.families)
        self._tokens_out: Final = self._tokens_in + self.families["tokens"].step
        step = self.families["durations"].step
        self._durations: Final = {error: durations + number * step for number, error in enumerate(errors)}
        self._other_error: Final = self._durations[OTHER_ERROR]
        self._lock = SharedLock()
        self._names = Names(PLACES)
        self._rows: Final = shared_rows(workers, PLACES * layout.size)
        self._row = self._rows[0]
        self._empty: Final = bytes(layout.size * 8)
        #: where each known model's place begins; None is a request that names none
        self._places: dict[str | None, int] = {}
        #: the first place whose name is not known here yet
        self._next = 1

    def use(self, worker: int) -> None:
        """Count as this worker from now on; the first is 0."""
        self._row = self._rows[worker]

    def learn(self, models: Iterable[str]) -> None:
        """Give these models places of their own, as long as there are any."""
        for model in models:
            name = model.encode("utf-8", "replace")
            if not 0 < len(name) <= LONGEST_NAME or b"\0" in name or model in self._places or model == OTHER:
                continue
            with self._lock.held():
                free = self._catch_up()
                if model not in self._places and free < PLACES:
                    self._names.give(free, name)
                    self._catch_up()

    def observe(self, record: Asked) -> None:
        """Count a request that is over."""
        row = self._row
        at = self._places.get(record.model)
        if at is None:
            at = self._place(record.model)
        if record.error is None:
            durations = at
        else:
            durations = at + self._durations.get(record.error_type or CLIENT_LEFT, self._other_error)
        row[durations] += record.duration_ms
        row[durations + 1 + bisect_left(DOUBLED_MS, record.duration_ms)] += 1
        has_begun = record.status == 200 or record.error == CLIENT_LEFT
        if record.stream and record.ttft_ms is not None and has_begun:  # an error's body is no token
            firsts = at + self._firsts
            row[firsts] += record.ttft_ms
            row[firsts + 1 + bisect_left(_FIRSTS_MS, record.ttft_ms)] += 1
        if record.tokens_in is not None:
            tokens = at + self._tokens_in
            row[tokens] += record.tokens_in
            row[tokens + 1 + bisect_left(TOKENS, record.tokens_in)] += 1
        if record.tokens_out is not None:
            tokens = at + self._tokens_out
            row[tokens] += record.tokens_out
            row[tokens + 1 + bisect_left(TOKENS, record.tokens_out)] += 1

    def gaps_of(self, model: str | None) -> Callable[[float, float], None]:
        """Return what counts the time between two writes to a streamed answer of this model."""
        row, gaps = self._row, self._place(model) + self._gaps

        def observe_gap(since_s: float, now_s: float) -> None:
            gap_ms = (now_s - since_s) * 1000
            row[gaps] += gap_ms
            row[gaps + 1 + bisect_left(_GAPS_MS, gap_ms)] += 1

        return observe_gap

    def summed(self) -> list[tuple[str, Sequence[float]]]:
        """Return each model of which anything was counted, with the sums over all workers of what its place holds."""
        places = self._catch_up()
        found: list[tuple[str, Sequence[float]]] = []
        for place in range(places):
            start = place * self._size
            blocks = [row[start : start + self._size] for row in self._rows]
            if used := [block for block in blocks if block.tobytes() != self._empty]:
                found.append((self._names.get(place) or OTHER, [sum(column) for column in zip(*used, strict=True)]))
        return found

    # --- places

    def _place(self, model: str | None) -> int:
        at = self._places.get(model)
        if at is None:
            self._catch_up()
            at = self._places.get(model, 0)
        return at

    def _catch_up(self) -> int:
        """Take note of names that other workers have learned; return the first free place. Two threads may do it."""
        place = self._next
        while place < PLACES and self._names.has(place):
            self._places[self._names.get(place)] = place * self._size
            place += 1
        self._next = place
        return place
