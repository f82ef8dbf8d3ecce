"""
The log: one JSON object per line, to standard output or to a file.

    {"level": "info", "timestamp": "2026-01-31T12:00:00.000000Z", "event": "request", ...}

A line is a constant event name and fields. Three things never reach it: the upstream's key, the local
variables of a traceback, and the text of an exception that may quote what a client or a model wrote.
"""

import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, Literal, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from proxy.config import MASK, Config, secrets_of
from proxy.errors import ProxyError, UpstreamRejected
from proxy.observe.sink import Sink, open_sink

#: Libraries that log through the standard library; their warnings and errors join the same stream of lines.
LIBRARIES: Final = ("aiohttp", "asyncio")

#: Arbitrary: a shorter key is a placeholder such as EMPTY, and replacing it would spoil ordinary words.
_SHORTEST_SECRET: Final = 8

#: Arbitrary: how long the end of a process may wait for a slow reader of its log.
_LAST_LINES_S: Final = 1.0


def configure_logs(config: Config) -> FilteringBoundLogger:
    """
    Return the process's logger; route the libraries' warnings and errors to it.

    The logger belongs to this call: two configurations in one process keep two logs.

    Raises:
        ConfigError: the log file cannot be opened for appending.
    """
    level = "debug" if config.debug else config.log_level
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.BytesLogger(open_sink(config.log_file)),
        processors=_processors(secrets_of(config)),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    ).bind()
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers = [_LibraryHandler(logger)]
        library.setLevel(logging.WARNING)
        library.propagate = False
    return logger


def reopen_log(logger: FilteringBoundLogger) -> None:
    """
    Go on in the file that now has the log's name, which is created if there is none; standard output stays.

    No line is lost or waits: each goes to the one file or to the other. If the file cannot be opened, the old one
    stays, and both it and standard error say so.
    """
    sink = _sink_of(logger)
    try:
        sink.reopen()
    except OSError as exc:
        logger.error("log_reopen_failed", pid=os.getpid(), error=exc.strerror)
        # The old file may have been deleted, so that nobody reads in it what became of the new one.
        print(
            f"devstral-proxy: log_file: cannot reopen {sink.path}: {exc.strerror}; the old file stays",
            file=sys.stderr,
            flush=True,
        )


def finish_log(logger: FilteringBoundLogger) -> None:
    """Give whoever reads the log a moment to take the last lines. Call it when nothing logs any more."""
    _sink_of(logger).finish(_LAST_LINES_S)


def _sink_of(logger: FilteringBoundLogger) -> Sink:
    return cast("Sink", cast("structlog.BoundLoggerBase", logger)._logger._file)


class Lines:
    """
    Writes lines as `logger` does, without its chain of processors, for the one line that every request has.

    4 us of CPU instead of 13 (2026-11-23, structlog 26.1); the same bytes, which a test compares.
    """

    def __init__(self, logger: FilteringBoundLogger) -> None:
        bound = cast("structlog.BoundLoggerBase", logger)
        self._write = bound._logger.msg
        self._render = list(bound._processors)[-1]
        self._lowest = logger.get_effective_level()

    def hide(self, secrets: Iterable[str]) -> None:
        """Mask these too from now on, in the logger's own lines as well."""
        cast("_Renderer", self._render).hide(secrets)

    def mask(self, text: bytes) -> bytes:
        """Return other JSON text with the same secrets masked: a model server may repeat its key in an error."""
        return cast("_Renderer", self._render).mask(text)

    def write(self, level: Literal["info", "warning"], event: str, fields: EventDict) -> None:
        """Write a line if its level is one that is logged. `fields` is given away."""
        if _LEVELS[level] < self._lowest:
            return
        fields["event"] = event
        fields["level"] = level
        fields["timestamp"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._write(self._render(None, level, fields))


_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING}


def _processors(secrets: Iterable[str]) -> list[Processor]:
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(lambda exc_info: render_exception(exc_info[1])),
        _Renderer(secrets),
    ]


# --- what a line looks like


class _Renderer:
    """The last processor: from fields to the bytes of a line, without its newline."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets: tuple[bytes, ...] = ()
        self.hide(secrets)

    def hide(self, secrets: Iterable[str]) -> None:
        """Mask these too, as they stand inside a JSON string; the longest first, since one may hold another."""
        more = {orjson.dumps(secret)[1:-1] for secret in secrets if len(secret) >= _SHORTEST_SECRET}
        self._secrets = tuple(sorted(more.union(self._secrets), key=len, reverse=True))

    def __call__(self, _logger: WrappedLogger, _method: str, fields: EventDict) -> bytes:
        try:
            line = orjson.dumps(fields, default=_type_name)
        except TypeError:  # a lone surrogate from undecodable header bytes, or an integer over 64 bits
            line = orjson.dumps({name: _tame(value) for name, value in fields.items()})
        return self.mask(line)

    def mask(self, line: bytes) -> bytes:
        """Return JSON text without the secrets."""
        for secret in self._secrets:
            line = line.replace(secret, MASK.encode())
        return line


def _type_name(value: object) -> str:
    """Stand in for a value that has no JSON form. Its repr might hold content."""
    return f"<{type(value).__name__}>"


def _tame(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value if value is None or isinstance(value, bool | float) else str(value).encode("utf-8", "replace").decode()


def render_exception(error: BaseException | None) -> str:
    """
    Return a traceback, causes first: files, lines and types.

    The message is added where it is this project's own or the operating system's. Others are withheld:
    KeyError, ValueError, aiohttp's BadHttpMessage and an upstream's own errors quote the input they stumbled over.
    """
    return "\n".join(reversed([_render_one(link) for link in _chain(error)]))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _render_one(error: BaseException) -> str:
    is_ours = isinstance(error, ProxyError | OSError) and not isinstance(error, UpstreamRejected)
    message = f": {error}" if is_ours else ""
    kind = type(error)
    return f"{''.join(traceback.format_tb(error.__traceback__))}{kind.__module__}.{kind.__qualname__}{message}"


# --- the standard library's loggers


class _LibraryHandler(logging.Handler):
    """Turns a record of the standard library's logging into a line: event `library`, first line of its message."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        # asyncio appends the repr of tasks and exceptions, which may hold content, on further lines
        message = record.getMessage().partition("\n")[0]
        error = record.exc_info[1] if record.exc_info else None
        self._logger.log(record.levelno, "library", library=record.name, message=message, exc_info=error)
