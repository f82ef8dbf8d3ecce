"""
Which lines are shown: the values of the filters, and the question that they ask of a line together.

Several values of one filter are alternatives; different filters must all hold. A line is what JSON gave: any field may
be missing, or be of another type, and then the filter does not hold.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec
import orjson

Line = Mapping[str, Any]

_UNITS_S: Final[Mapping[str, float]] = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", re.ASCII)
_STATUS: Final = re.compile(r"([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?", re.IGNORECASE | re.ASCII)
#: As far as time stamps have the same form whether they have a fraction or not.
_TO_THE_SECOND: Final = len("2026-01-31T12:00:00")


def fields_of(text: bytes) -> Line | None:
    """Return the fields of a line that a proxy has written; None is that it is something else."""
    if not text.startswith(b"{"):
        return None
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return line if "event" in line else None


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What a line must be to be shown. Names may hold the wildcards of a shell: `*`, `?` and `[...]`."""

    statuses: tuple[range, ...] = ()
    slow_ms: float = 0
    models: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    replicas: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    request_ids: tuple[str, ...] = ()
    errors: bool = False
    #: UTC, as the log writes it, to the second
    since: str = ""

    @property
    def wants_all(self) -> bool:
        """Whether nothing but the time is asked for, so that text without fields may be shown as well."""
        return msgspec.structs.replace(self, since="") == Filters()

    def match(self, line: Line) -> bool:
        """Return whether all filters hold."""
        return (
            (not self.since or not is_before(line, self.since))
            and (not self.statuses or _is_in(line.get("status"), self.statuses))
            and (not self.slow_ms or _is_at_least(line.get("duration_ms"), self.slow_ms))
            and (not self.errors or is_error(line))
            and _is_like(line.get("model"), self.models)
            and _is_like(line.get("principal"), self.principals)
            and _is_like(line.get("replica"), self.replicas)
            and _is_like(line.get("event"), self.events)
            and _is_like(line.get("request_id"), self.request_ids)
            and (not self.rules or _has_one_like(line.get("rules"), self.rules))
        )


def is_before(line: Line, since: str) -> bool:
    """Return whether a line is older than a time in the form of `Filters.since`; one without a time is not."""
    timestamp = line.get("timestamp")
    return isinstance(timestamp, str) and timestamp[:_TO_THE_SECOND] < since


def is_error(line: Line) -> bool:
    """Return whether a line tells of a failure: a status from 400 on, an error in a stream, or its level."""
    return (
        line.get("level") in ("warning", "error", "critical")
        or bool(line.get("error"))
        or _is_at_least(line.get("status"), 400)
    )


def _is_at_least(value: object, least: float) -> bool:
    return isinstance(value, int | float) and value >= least


def _is_in(value: object, ranges: tuple[range, ...]) -> bool:
    return isinstance(value, int) and any(value in each for each in ranges)


def _is_like(value: object, patterns: tuple[str, ...]) -> bool:
    return not patterns or (isinstance(value, str) and any(fnmatchcase(value, each) for each in patterns))


def _has_one_like(values: object, patterns: tuple[str, ...]) -> bool:
    return isinstance(values, list) and any(_is_like(value, patterns) for value in values)


# --- from the text of a flag


def statuses(text: str) -> tuple[range, ...]:
    """
    Return the statuses that `5xx`, `429`, `200-299`, or several of them with commas between, stand for.

    Raises:
        ValueError: it is none of that.
    """
    return tuple(_status_range(part.strip()) for part in text.split(","))


def _status_range(text: str) -> range:
    found = _STATUS.fullmatch(text)
    if found is None:
        raise ValueError("use 5xx, 429 or 200-299, commas between them")
    hundreds, first, last = found.groups()
    if hundreds:
        return range(int(hundreds) * 100, int(hundreds) * 100 + 100)
    return range(int(first), int(last or first) + 1)


def seconds(text: str) -> float:
    """
    Return how many seconds `500ms`, `2s`, `10m`, `1.5h`, `2d` or a plain number of seconds are.

    Raises:
        ValueError: it is none of that.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError("use 500ms, 2s, 10m, 1.5h or 2d")
    return float(found[1]) * _UNITS_S[found[2]]


def since(text: str, now: datetime) -> str:
    """
    Return the time that is so long before `now`, or that ISO 8601 text names, in the form of `Filters.since`.

    A time without an offset is UTC, as in the log.

    Raises:
        ValueError: it is neither.
    """
    try:
        then = now - timedelta(seconds=seconds(text))
    except OverflowError:
        return ""
    except ValueError:
        try:
            then = datetime.fromisoformat(text.strip())
        except ValueError:
            raise ValueError("use 10m, 2h, or a time such as 2026-01-31T12:00:00Z") from None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return then.astimezone(UTC).isoformat()[:_TO_THE_SECOND]
