"""
What a supervisor and its workers say to each other, over a socket pair for each worker.

    supervisor -> worker   frames: a length and an `Order`. The end of the stream (the supervisor is dead) is a Drain.
    worker -> supervisor   lines: `Word` and a number. The end of the stream is the end of the worker.
"""

import asyncio
import pickle
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from typing import Final

import msgspec
from structlog.typing import FilteringBoundLogger

from proxy.config import Config

_READ: Final = 65_536
#: A frame's length, in front of it.
_LENGTH: Final = struct.Struct(">I")


class Drain(msgspec.Struct, frozen=True):
    """
    Be not ready at once, go on accepting for `drain_delay_s`, then end when what runs is over, or `drain_timeout_s` is.
    """

    at_once: bool = False
    """Without the delay."""


class Now(msgspec.Struct, frozen=True):
    """Cut off what still runs, and end."""


class Reload(msgspec.Struct, frozen=True):
    """Serve by these settings from now on."""

    config: Config


class Reopen(msgspec.Struct, frozen=True):
    """Go on in the log file that has the name now."""


Order = Drain | Now | Reload | Reopen


class Word(Enum):
    """What a worker says; with it goes a number. But for REFUSED and TURNS it says each once, in this order."""

    REFUSED = "refused"
    """It could not take new settings, and goes on with those that it has. The number means nothing."""
    TURNS = "turns"
    """Its loop turns. It says so only where a service manager wants to know. The number means nothing."""
    READY = "ready"
    """It accepts connections, on this port."""
    DRAINING = "draining"
    """It accepts no more, and so many requests run."""
    ENDED = "ended"
    """It is about to end, and has cut off so many requests."""


class WorkerEnd:
    """The worker's end."""

    def __init__(self, pipe: socket.socket, logger: FilteringBoundLogger) -> None:
        pipe.setblocking(False)
        self._pipe = pipe
        self._logger = logger
        self._received = bytearray()

    def listen(self, obey: Callable[[Order], None]) -> None:
        """Give what the supervisor orders to `obey`, from now on."""
        asyncio.get_running_loop().add_reader(self._pipe, self._receive, obey)

    def say(self, word: Word, number: int) -> None:
        """Tell the supervisor, if there still is one."""
        with suppress(OSError):
            self._pipe.send(f"{word.value} {number}\n".encode())

    def _receive(self, obey: Callable[[Order], None]) -> None:
        data = _received(self._pipe)
        self._received += data
        while (frame := _taken(self._received)) is not None:
            # An order comes from the process that this one was forked from, through a socket that nobody else has.
            obey(pickle.loads(frame))  # noqa: S301
        if not data:
            asyncio.get_running_loop().remove_reader(self._pipe)
            self._logger.error("supervisor_lost")
            obey(Drain(at_once=True))


class SupervisorEnd:
    """The supervisor's end of one worker's channel. It waits for nobody: a worker may be stuck."""

    def __init__(self, pipe: socket.socket) -> None:
        pipe.setblocking(False)
        self.pipe = pipe
        self._rest = b""
        self._unsent = bytearray()

    @property
    def has_unsent(self) -> bool:
        """Whether to call `flush()` when the pipe takes more."""
        return bool(self._unsent)

    def order(self, order: Order) -> None:
        """Tell the worker, if it still lives."""
        # Not msgpack or JSON: a profile's options may hold any value, and must arrive as what they are.
        frame = pickle.dumps(order)
        self._unsent += _LENGTH.pack(len(frame)) + frame
        self.flush()

    def flush(self) -> None:
        """Send what could not be sent yet, as far as the worker takes it."""
        try:
            while self._unsent:
                del self._unsent[: self.pipe.send(self._unsent)]
        except BlockingIOError:
            return
        except OSError:  # the worker is dead, which `hear()` says
            self._unsent.clear()

    def hear(self) -> Iterator[tuple[Word, int] | None]:
        """Yield what has come: words with their numbers, and None at the end."""
        try:
            data = _received(self.pipe)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, _, number = line.decode().partition(" ")
            yield Word(word), int(number)
        if not data:
            yield None


def _received(pipe: socket.socket) -> bytes:
    try:
        return pipe.recv(_READ)
    except ConnectionResetError:  # the other side ended without having read everything
        return b""


def _taken(received: bytearray) -> bytes | None:
    """Take the first whole frame out of what was received."""
    if len(received) < _LENGTH.size:
        return None
    end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
    if len(received) < end:
        return None
    frame = bytes(received[_LENGTH.size : end])
    del received[:end]
    return frame
