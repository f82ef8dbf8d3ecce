"""
A client that does not read what it asked for, or by a few bytes at a time.

    connection pauses --write_timeout_s--> 16 KiB less to send? --no--> the connection is cut
            ^                                      |
            +------------- yes: once more ---------+

It costs nothing while clients read: a connection is watched only while its bytes pile up.
"""

import asyncio
import socket
import struct
from typing import Final

from proxy.upstream.sweep import Sweep

#: Arbitrary: with the default of `write_timeout_s`, a client must read 273 bytes a second.
_LEAST_READ: Final = 16 * 1024
_NOT_AT_ALL: Final = struct.pack("ii", 1, 0)


class Stall:
    """Looks at one connection while its client is slow."""

    __slots__ = ("_left", "_limit_s", "_loop", "_sweep", "_transport", "due_at")

    def __init__(self, sweep: Sweep, limit_s: float) -> None:
        self._sweep = sweep
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._left = 0
        self.due_at = 0.0

    def begin(self, transport: asyncio.Transport) -> None:
        """The client is slow: what was sent to it waits in the transport."""
        self._transport = transport
        self._left = transport.get_write_buffer_size()
        self.due_at = self._loop.time() + self._limit_s
        self._sweep.add(self)

    def end(self) -> None:
        """It has read, or has left."""
        self._transport = None
        self._sweep.discard(self)

    def ring(self, now: float) -> None:
        """See the module. What is answered on the connection ends as if the client had left."""
        transport = self._transport
        if transport is None:
            return
        left = transport.get_write_buffer_size()
        if self._left - left >= _LEAST_READ:
            self._left = left
            self.due_at = now + self._limit_s
        else:
            # With a reset: else the kernel would go on offering what it holds, for minutes.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOT_AT_ALL)
            transport.abort()
