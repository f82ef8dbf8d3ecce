"""
One line of the log as one line for people.

    10:04:31.218 200    1.24s  180ms  devstral        1.2k>340  gpu-1     stop stream rules=nine_char_tool_ids id=…
    10:04:35.900 info   config_reloaded changed=keep_alive_s

A terminal gets as many columns as fit, the most telling ones first, and each request takes one line of it. What is no
terminal gets all columns, and nothing is cut.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from proxy.tail.amounts import count, duration
from proxy.tail.paint import Ink, cells, cut, padded, painted, safe
from proxy.tail.select import Line, is_error

#: The event of the lines that are requests.
REQUEST: Final = "request"
#: The path that goes without saying.
_USUAL_PATH: Final = "/v1/chat/completions"
#: Cells that are kept for what no column has.
_DETAILS_LEAST: Final = 24
#: Fields with a place of their own in every line.
_PLACED: Final = frozenset({"timestamp", "level", "event", "exception"})


class Column(NamedTuple):
    """`rank` is which columns stay where there is not room for all: the lowest."""

    title: str
    rank: int
    least: int
    most: int
    text: Callable[[Line], str]


class Place(NamedTuple):
    """A column that is shown, and how many cells it has."""

    column: Column
    width: int


def _word(line: Line, name: str) -> str:
    value = line.get(name)
    return "-" if value is None or value == "" else _value(value)


def _model(line: Line) -> str:
    """Return the model, or for a request without one what it was."""
    if line.get("model"):
        return _word(line, "model")
    return f"{_word(line, 'method')} {_word(line, 'path')}"


def _tokens(line: Line) -> str:
    given, made = count(line.get("tokens_in")), count(line.get("tokens_out"))
    return "-" if given == made == "-" else f"{given}>{made}"


def _status(line: Line) -> str:
    return _word(line, "status" if line.get("event") == REQUEST else "level")


COLUMNS: Final = (
    Column("DATE", 7, 5, 5, lambda line: _word(line, "timestamp")[5:10]),
    Column("TIME", 1, 12, 12, lambda line: _word(line, "timestamp")[11:23].removesuffix("Z")),
    Column("STATUS", 0, 7, 7, _status),
    Column("TOOK", 2, 6, 6, lambda line: duration(line.get("duration_ms"))),
    Column("FIRST", 4, 6, 6, lambda line: duration(line.get("ttft_ms"))),
    Column("MODEL", 3, 14, 32, _model),
    Column("TOKENS", 5, 9, 11, _tokens),
    Column("REPLICA", 6, 10, 24, lambda line: _word(line, "replica")),
)
#: Those that lines have which are not requests.
_OF_EVENTS: Final = frozenset({"DATE", "TIME", "STATUS"})


def places(width: int | None) -> Sequence[Place]:
    """Return the columns for a terminal so wide, in their order; None is no terminal."""
    if width is None:
        return [Place(column, column.most) for column in COLUMNS]
    room = width - _DETAILS_LEAST
    widths: dict[str, int] = {}
    by_rank = sorted(COLUMNS, key=lambda column: column.rank)
    for column in by_rank:
        if column.least + 1 > room:
            break
        widths[column.title] = column.least
        room -= column.least + 1
    for column in by_rank:
        if column.title in widths:
            # the details grow as well
            more = min(column.most - column.least, max(0, room // 2))
            widths[column.title] += more
            room -= more
    return [Place(column, widths[column.title]) for column in COLUMNS if column.title in widths]


class Renderer:
    """Makes lines for one kind of output: `width()` is asked again for every line, since a terminal may be resized."""

    def __init__(self, width: Callable[[], int | None], *, has_colours: bool) -> None:
        """`width()` is in cells; None is that the output is no terminal."""
        self._width_now = width
        self._has_colours = has_colours
        self._width = width()
        self._places = places(self._width)

    def header(self) -> str:
        """Return the titles of the columns."""
        titles = " ".join(padded(place.column.title, place.width) for place in self._places)
        return self._painted(f"{titles} DETAILS", Ink.DIM)

    def line(self, line: Line) -> str:
        """Return a line without its newline. A traceback follows on lines of its own."""
        width = self._width_now()
        if width != self._width:
            self._width, self._places = width, places(width)
        is_request = line.get("event") == REQUEST
        shown = [place for place in self._places if is_request or place.column.title in _OF_EVENTS]
        parts, used = [], 0
        for column, cells_there in shown:
            text = safe(column.text(line))
            text = padded(text if width is None else cut(text, cells_there), cells_there)
            used += cells(text) + 1
            parts.append(self._painted(text, _ink(column.title, line)))
        details = _request_details(line) if is_request else _event_details(line)
        room = width - used if is_request and width is not None else None
        return " ".join([*parts, self._details(details, room)]) + _traceback(line)

    def text(self, text: bytes) -> bytes:
        """Return what is no line of a proxy's log: as it is, but a terminal does not obey it."""
        if self._width_now() is None:
            return text
        return safe(text.decode(errors="backslashreplace").expandtabs()).encode()

    def _painted(self, text: str, ink: Ink) -> str:
        return painted(text, ink) if self._has_colours else text

    def _details(self, details: Sequence[tuple[str, Ink]], room: int | None) -> str:
        parts = []
        for words, ink in details:
            text = safe(words)
            if room is not None:
                text = cut(text, max(room, 0))
                room -= cells(text) + 1
            if not text:
                break
            parts.append(self._painted(text, ink))
        return " ".join(parts)


# --- what the columns leave over


def _request_details(line: Line) -> list[tuple[str, Ink]]:
    details: list[tuple[str, Ink]] = []
    if line.get("error"):
        details.append((_value(line["error"]), Ink.RED if _ink_of_status(line) is Ink.RED else Ink.YELLOW))
    if line.get("model") and line.get("path") != _USUAL_PATH:
        details.append((_word(line, "path"), Ink.PLAIN))
    details += [(_value(line[name]), Ink.PLAIN) for name in ("finish_reason",) if line.get(name)]
    if line.get("stream"):
        details.append(("stream", Ink.DIM))
    for name, ink in _NAMED:
        if line.get(name):
            details.append((f"{_SHORT.get(name, name)}={_value(line[name])}", ink))
    if line.get("queue_ms"):
        details.append((f"queue={duration(line['queue_ms'])}", Ink.PLAIN))
    details.append((f"id={_word(line, 'request_id')}", Ink.DIM))
    return details


#: Further fields of a request in the order in which they are of interest, where there is a value.
_NAMED: Final = (
    ("retried", Ink.YELLOW),
    ("failover", Ink.YELLOW),
    ("limit", Ink.YELLOW),
    ("cache", Ink.PLAIN),
    ("principal", Ink.PLAIN),
    ("rules", Ink.CYAN),
)
_SHORT: Final[Mapping[str, str]] = {"principal": "by"}


def _event_details(line: Line) -> list[tuple[str, Ink]]:
    fields = ((name, value) for name, value in line.items() if name not in _PLACED and value not in (None, []))
    ink = Ink.RED if line.get("level") == "error" else Ink.PLAIN
    return [(_word(line, "event"), Ink.BOLD), *((f"{name}={_value(value)}", ink) for name, value in fields)]


def _traceback(line: Line) -> str:
    text = line.get("exception")
    if not isinstance(text, str):
        return ""
    return "".join(f"\n    {safe(each)}" for each in text.splitlines())


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ",".join(value)
    return orjson.dumps(value).decode()


# --- colours


def _ink(title: str, line: Line) -> Ink:
    if title in ("DATE", "TIME"):
        return Ink.DIM
    return _ink_of_status(line) if title == "STATUS" else Ink.PLAIN


def _ink_of_status(line: Line) -> Ink:
    status = line.get("status")
    if line.get("level") in ("warning", "error", "critical"):
        return Ink.YELLOW if line.get("event") != REQUEST and line.get("level") == "warning" else Ink.RED
    if is_error(line):
        return Ink.YELLOW
    return Ink.GREEN if isinstance(status, int) and status else Ink.PLAIN
