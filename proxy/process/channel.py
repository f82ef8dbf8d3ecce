"""
What a supervisor and its workers say to each other, over a socket pair for each worker.

    supervisor -> worker   one byte: `Order`. The end of the stream (the supervisor is dead) is DRAIN.
    worker -> supervisor   lines: `Word` and a number. The end of the stream is the end of the worker.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from typing import Final

from structlog.typing import FilteringBoundLogger

#: Longer than everything that one side says in its life.
_READ: Final = 256


class Order(Enum):
    """What a worker is told."""

    DRAIN = b"d"
    """Accept nothing more; end when what runs is over, or when `drain_timeout_s` is."""
    NOW = b"n"
    """Cut off what still runs, and end."""


class Word(Enum):
    """What a worker says, once each, in this order; with it goes a number."""

    READY = "ready"
    """It accepts connections, on this port."""
    DRAINING = "draining"
    """It accepts no more, and so many requests run."""
    ENDED = "ended"
    """It is about to end, and has cut off so many requests."""


class WorkerEnd:
    """The worker's end. What the supervisor orders comes out of `orders`."""

    def __init__(self, pipe: socket.socket, orders: asyncio.Queue[Order], logger: FilteringBoundLogger) -> None:
        pipe.setblocking(False)
        self._pipe = pipe
        self._orders = orders
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pipe, self._receive)

    def say(self, word: Word, number: int) -> None:
        """Tell the supervisor, if there still is one."""
        with suppress(OSError):
            self._pipe.send(f"{word.value} {number}\n".encode())

    def _receive(self) -> None:
        data = self._pipe.recv(_READ)
        for byte in data:
            self._orders.put_nowait(Order(bytes((byte,))))
        if not data:
            self._loop.remove_reader(self._pipe)
            self._logger.error("supervisor_lost")
            self._orders.put_nowait(Order.DRAIN)


class SupervisorEnd:
    """The supervisor's end of one worker's channel."""

    def __init__(self, pipe: socket.socket) -> None:
        self.pipe = pipe
        self._rest = b""

    def order(self, order: Order) -> None:
        """Tell the worker, if it still lives."""
        with suppress(OSError):
            self.pipe.send(order.value)

    def hear(self) -> Iterator[tuple[Word, int] | None]:
        """Read what has come: words with their numbers, and None at the end. Call it when there is something."""
        try:
            data = self.pipe.recv(_READ)
        except ConnectionResetError:  # the worker ended without having read its orders
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, _, number = line.decode().partition(" ")
            yield Word(word), int(number)
        if not data:
            yield None
