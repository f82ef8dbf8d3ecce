"""
Where connections come from: an address of this process's own, which several workers may share and, with `reuse_port`,
another instance too; or sockets that a service manager has opened and passes on.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import MutableMapping, Sequence
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple, Protocol

#: What `loop.create_server` passes as well, so that the parent and its workers mean the same addresses.
_FLAGS: Final = socket.AI_PASSIVE

#: The first file descriptor that is passed. Source: sd_listen_fds(3).
_FIRST_PASSED: Final = 3


class Address(Protocol):
    """What is listened on. Whoever serves calls `listeners()`; whoever only looks after workers calls `close()`."""

    host: str
    port: int
    #: every address that is listened on
    hosts: Sequence[str]

    def listeners(self) -> Sequence[socket.socket]:
        """
        Return sockets for this process to listen on; they are its own to close. Nothing else is left open of this.

        Raises:
            OSError: one cannot be bound.
        """

    def turn_away(self, listeners: Sequence[socket.socket]) -> None:
        """Have new clients go to others that listen here, if that can be done; what has begun is still accepted."""

    def close(self) -> None:
        """Let go of the address. Workers that listen on it keep it."""


class Addresses(NamedTuple):
    """What one program listens on; `metrics` is None where they have no listener of their own."""

    main: Address
    metrics: Address | None = None


class HeldAddress:
    """
    An address that is kept without listening on it.

    Workers bind sockets of their own beside the held ones (SO_REUSEPORT), and the kernel deals connections out to those
    that listen. While no worker listens the port is still taken, for this user's other processes too.
    """

    def __init__(self, host: str, port: int, *, is_shared: bool = False) -> None:
        """
        Hold every address that `host` stands for. `is_shared` is with other instances that share it as well.

        Raises:
            OSError: one of them is in use, by another instance of this program too, or cannot be bound.
        """
        self.host = host
        self.hosts: Sequence[str] = (host,)
        self.port = port
        self._places: list[tuple[int, str]] = []
        with ExitStack() as opened:
            # "" is every address, as it is for `loop.create_server`
            infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=_FLAGS)
            for family, *_, (address, *_) in dict.fromkeys(infos):
                if not is_shared:
                    _check_free(family, str(address), self.port)
                held = opened.enter_context(_bound(family, str(address), self.port, reuse_port=True))
                # Connections of an earlier process may linger, so SO_REUSEADDR was needed to bind. As long as it is
                # set, Linux lets others bind beside a socket that does not listen: a second instance would pass.
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                self.port = held.getsockname()[1]
                self._places.append((family, str(address)))
            self._sockets = opened.pop_all()

    def listeners(self) -> Sequence[socket.socket]:
        """See `Address`."""
        with ExitStack() as opened:
            made = [
                opened.enter_context(_bound(family, address, self.port, reuse_port=True))
                for family, address in self._places
            ]
            opened.pop_all()
        self.close()
        return made

    def turn_away(self, listeners: Sequence[socket.socket]) -> None:
        """
        See `Address`: the kernel drops the first packet of new connections, so that the clients send it again, after a
        second, and it comes to a socket that is still open then.

        Without that, a connection whose handshake is under way when its socket closes is reset.
        """
        for listener in listeners:
            # Only Linux can, and some sandboxes cannot; then those connections are lost, which are few.
            with suppress(OSError):
                _drop_first_packets(listener)

    def close(self) -> None:
        """See `Address`."""
        self._sockets.close()


class PassedSockets:
    """
    Sockets that a service manager listens on as well. Clients that nobody has accepted yet wait in them for whoever
    comes next, so nothing is lost between one process and its successor.
    """

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        """
        Take the sockets over.

        Raises:
            OSError: one of them does not listen on a TCP port.
        """
        self._sockets = sockets
        if not all(map(_is_listening, sockets)):
            self.close()
            raise OSError(errno.EINVAL, "a socket of LISTEN_FDS does not listen on a TCP port")
        self.host, self.port = sockets[0].getsockname()[:2]
        self.hosts: Sequence[str] = [listening.getsockname()[0] for listening in sockets]

    def listeners(self) -> Sequence[socket.socket]:
        """See `Address`."""
        return self._sockets

    def turn_away(self, listeners: Sequence[socket.socket]) -> None:
        """See `Address`: the queue outlives this process."""

    def close(self) -> None:
        """See `Address`."""
        for passed in self._sockets:
            passed.close()


def address_of(host: str, port: int, environ: MutableMapping[str, str], *, is_shared: bool) -> Address:
    """
    Return the sockets that `environ` says were passed to this process, else the address, which is held from now on.

    Raises:
        OSError: it cannot be listened on.
    """
    count = environ.pop("LISTEN_FDS", "")
    if environ.pop("LISTEN_PID", "") == str(os.getpid()) and count.isdecimal() and int(count):
        passed = [socket.socket(fileno=_FIRST_PASSED + i) for i in range(int(count))]
        for each in passed:
            each.set_inheritable(False)
        return PassedSockets(passed)
    return HeldAddress(host, port, is_shared=is_shared)


def _is_listening(passed: socket.socket) -> bool:
    is_tcp = passed.family in (socket.AF_INET, socket.AF_INET6) and passed.type == socket.SOCK_STREAM
    return is_tcp and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def _check_free(family: int, host: str, port: int) -> None:
    """Bind without sharing: with SO_REUSEPORT a second instance would quietly take half of the connections."""
    _bound(family, host, port, reuse_port=False).close()


def _bound(family: int, host: str, port: int, *, reuse_port: bool) -> socket.socket:
    """Return a socket that is bound, as `loop.create_server` would bind it."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


#: Linux, asm-generic/socket.h; Python has no name for it.
_SO_ATTACH_FILTER: Final = 26
#: A filter in classic BPF (code, jump if true, jump if false, operand), which sees a packet from its TCP header on.
_NO_FIRST_PACKETS: Final = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFF_FFFF),  # take all of it
)


def _drop_first_packets(listener: socket.socket) -> None:
    program = b"".join(struct.pack("HBBI", *line) for line in _NO_FIRST_PACKETS)
    lines = ctypes.create_string_buffer(program)
    head = struct.pack("HP", len(_NO_FIRST_PACKETS), ctypes.addressof(lines))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
