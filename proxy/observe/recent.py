"""The last requests of this process, kept for people who look at the status page: records, which hold no content."""

import time
from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any, Final, NamedTuple

#: Arbitrary: what one page shows.
_REQUESTS: Final = 50
_ERRORS: Final = 20

#: Paths of the API that is proxied; looks at health and metrics would push everything else out.
_API: Final = "/v1/"


class Ended(NamedTuple):
    """A request that is over. `number` grows with each that was kept, `at` is when it ended, in seconds since 1970."""

    number: int
    at: float
    record: Any


class Recent:
    """
    The last requests to the API, and the last requests of any kind that ended in an error.

    `add()` costs 0.7 µs, also while nobody looks: who opens the page because something failed wants to see it
    (CPython 3.11.7, 2026-11-26, two shared cores with a load of 12).
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._requests: deque[Ended] = deque(maxlen=_REQUESTS)
        self._errors: deque[Ended] = deque(maxlen=_ERRORS)

    def add(self, record: Any) -> None:
        """Keep a request that has ended. Its record (edge/record.py) must not change any more."""
        is_api = record.path.startswith(_API)
        if not is_api and record.error is None:
            return
        ended = Ended(next(self._numbers), time.time(), record)
        if is_api:
            self._requests.append(ended)
        if record.error is not None:
            self._errors.append(ended)

    @property
    def requests(self) -> Sequence[Ended]:
        """The last first."""
        return tuple(reversed(self._requests))

    @property
    def errors(self) -> Sequence[Ended]:
        """The last first."""
        return tuple(reversed(self._errors))
