"""
The command `tail`: the log for people, of a file or of what another program writes.

    0 done, also when whoever reads the output has gone   1 the file cannot be read   2 wrong usage   130 Ctrl-C
"""

import argparse
import os
import select
import shutil
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

from proxy.tail.following import Follower
from proxy.tail.output import Output
from proxy.tail.reading import batches, end_of_lines, is_seekable, lines_backwards
from proxy.tail.render import Renderer
from proxy.tail.select import Filters, fields_of, is_before, seconds, since, statuses
from proxy.usage import Usage, parser_for

#: The variable that names the file, for this command and for the proxy.
VARIABLE: Final = "LOG_FILE"
STANDARD_INPUT: Final = "-"
_STDIN: Final = 0

_USAGE: Final = Usage(
    command="tail",
    about="The log of a proxy for people: one line for each request, in columns.",
    examples="""\
devstral-proxy tail proxy.log                        the last 10 lines
devstral-proxy tail -f proxy.log                     and those that come, also after the file was rotated
devstral-proxy tail --errors --since 1h proxy.log    what went wrong in the last hour
devstral-proxy tail -f --status 5xx,429 --slow 2s proxy.log
devstral-proxy tail -n 100 --rule 'recover_*' --json proxy.log | jq .request_id
devstral-proxy demo | devstral-proxy tail -          what a proxy writes to standard output
docker compose logs -f --no-log-prefix proxy | devstral-proxy tail -""",
    notes="""\
Filters of different kinds must all hold; one may be given several times, and then one of its values must hold.
Names may hold the wildcards *, ? and [...]. With a filter other than --since, or with --json, text that is not a line
of the log is left out. Times are UTC, as in the log. TOOK is from the request's head to the end of the answer, FIRST to
its first byte.""",
    codes={0: "done", 1: "the file cannot be read", 130: "Ctrl-C"},
)

#: Arbitrary, and what tail and journalctl show.
_LINES: Final = 10
#: Seconds between looks at a file that is followed; as long as people take for at once.
_LOOK_EVERY_S: Final = 0.2
#: Arbitrary: processes that share a file write a little out of order, so that one older line is not yet the end.
_OLD_IN_A_ROW: Final = 100

T = TypeVar("T")


def tail(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run `tail ARGUMENTS`; return the exit code. `--help` and wrong usage leave by SystemExit, Ctrl-C as itself."""
    parser = tail_parser()
    options = parser.parse_args(arguments)
    path = options.file or environ.get(VARIABLE) or ("" if os.isatty(_STDIN) else STANDARD_INPUT)
    if not path:
        parser.error(f"which file? FILE, {VARIABLE}, or - for standard input")
    try:
        _run(path, options, Output(_renderer(options, environ), _filters(options), is_json=options.json))
    except BrokenPipeError:  # whoever reads has had enough
        return 0
    except OSError as exc:
        print(f"devstral-proxy: tail {path}: {exc.strerror or type(exc).__name__}", file=sys.stderr)
        return 1
    return 0


def tail_parser() -> argparse.ArgumentParser:
    """Return what reads the arguments; `--since` counts from now."""
    parser = parser_for(_USAGE)
    parser.add_argument("file", metavar="FILE", nargs="?", help=f"the log, or - for standard input [{VARIABLE}]")
    parser.add_argument("-f", "--follow", action="store_true", help="wait for more lines, also across rotation")
    parser.add_argument(
        *("-n", "--lines"),
        metavar="LINES",
        type=_typed(_whole_number),
        help=f"how many of the last lines that match; else {_LINES}, with --since or - all",
    )
    parser.add_argument("--json", action="store_true", help="print the lines as they are in the log")
    parser.add_argument("--no-color", action="store_true", help="no colours, as with NO_COLOR in the environment")
    _add_filters(parser.add_argument_group("filters"))
    return parser


def _add_filters(group: argparse._ArgumentGroup) -> None:
    now = datetime.now(UTC)
    add = partial(group.add_argument, action="append", default=[])
    add("--status", type=_typed(statuses), metavar="CODES", help="5xx, 429, 200-299, commas between them")
    group.add_argument("--slow", type=_typed(seconds), metavar="TIME", default=0.0, help="took so long, e.g. 2s, 500ms")
    add("--model", metavar="M", help="asked for this model")
    add("--rule", metavar="R", help="this rule was applied")
    add("--principal", metavar="P", help="came from this principal")
    add("--replica", metavar="URL", help="went to this replica")
    add("--event", metavar="E", help="lines of this event: request, startup, config_reloaded, ...")
    add("--id", metavar="ID", help="the request with this x-request-id")
    group.add_argument("--errors", action="store_true", help="a status from 400, an error, or a level from warning")
    group.add_argument(*("--since",), type=_typed(partial(since, now=now)), metavar="TIME", help="10m, 2h, or ISO 8601")


def _typed(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return `read` with its message where argparse would have only said that the value is invalid."""

    def typed(text: str) -> T:
        try:
            return read(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from None

    return typed


def _whole_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError("use a whole number")
    return int(text)


def _filters(options: argparse.Namespace) -> Filters:
    return Filters(
        statuses=tuple(each for codes in options.status for each in codes),
        slow_ms=options.slow * 1000,
        models=tuple(options.model),
        rules=tuple(options.rule),
        principals=tuple(options.principal),
        replicas=tuple(options.replica),
        events=tuple(options.event),
        request_ids=tuple(options.id),
        errors=options.errors,
        since=options.since or "",
    )


def _renderer(options: argparse.Namespace, environ: Mapping[str, str]) -> Renderer:
    is_terminal = sys.stdout.isatty()
    is_plain = options.no_color or environ.get("NO_COLOR") or environ.get("TERM") == "dumb"
    return Renderer(
        lambda: shutil.get_terminal_size().columns if is_terminal else None,
        has_colours=is_terminal and not is_plain,
    )


# --- where lines come from


def _run(path: str, options: argparse.Namespace, output: Output) -> None:
    fd = _STDIN if path == STANDARD_INPUT else os.open(path, os.O_RDONLY)
    if path == STANDARD_INPUT or not is_seekable(fd):
        _show_stream(fd, options.lines, output)
        return
    count = options.lines if options.lines is not None or options.since else _LINES
    end = end_of_lines(fd) if options.follow else os.fstat(fd).st_size
    start = _start(fd, end, count, output)
    output.begin()
    if options.follow:
        _follow(Follower(path, fd, start), output)
    else:
        os.lseek(fd, start, os.SEEK_SET)
        for lines in batches(fd):
            output.show(lines)
        os.close(fd)


def _show_stream(fd: int, count: int | None, output: Output) -> None:
    output.begin()
    if count is None:
        for lines in batches(fd):
            output.show(lines)
        return
    last: deque[bytes] = deque(maxlen=count)
    for lines in batches(fd):
        last.extend(line for line in lines if output.is_shown(fields_of(line)))
    output.show(last)


def _start(fd: int, end: int, count: int | None, output: Output) -> int:
    """Return where the last `count` lines begin that are shown, or all that are new enough."""
    start, found, old = end, 0, 0
    if count == 0:
        return end
    for offset, text in lines_backwards(fd, end):
        line = fields_of(text)
        old = old + 1 if line is not None and is_before(line, output.filters.since) else 0
        if old > _OLD_IN_A_ROW:
            break
        if output.is_shown(line):
            start, found = offset, found + 1
        if found == count:
            break
    return start


def _follow(follower: Follower, output: Output) -> None:
    """Show what comes, until nobody reads it any more."""
    reader = select.poll()
    with suppress(OSError):
        reader.register(sys.stdout.fileno(), 0)  # no event but that the other end of a pipe was closed
    try:
        while True:
            lines = follower.poll()
            output.show(lines)
            if not lines and reader.poll(_LOOK_EVERY_S * 1000):
                return
    finally:
        follower.close()
