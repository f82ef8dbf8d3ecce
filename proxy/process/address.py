"""The address that several workers share."""

import socket
from contextlib import ExitStack
from typing import Final

#: What `loop.create_server` passes as well, so that the parent and its workers mean the same addresses.
_FLAGS: Final = socket.AI_PASSIVE


class HeldAddress:
    """
    An address that this process keeps for its workers without listening on it; close it at the end.

    Workers bind sockets of their own beside the held ones (SO_REUSEPORT), and the kernel deals connections out to those
    that listen. While no worker listens the port is still taken, for this user's other processes too.
    """

    def __init__(self, host: str, port: int) -> None:
        """
        Hold every address that `host` stands for.

        Raises:
            OSError: one of them is in use, by another instance of this program too, or cannot be bound.
        """
        self.port = port
        with ExitStack() as opened:
            # "" is every address, as it is for `loop.create_server`
            infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=_FLAGS)
            for family, *_, (address, *_) in dict.fromkeys(infos):
                _check_free(family, str(address), self.port)
                held = opened.enter_context(_bound(family, str(address), self.port, is_shared=True))
                self.port = held.getsockname()[1]
            self._sockets = opened.pop_all()

    def close(self) -> None:
        """Let go of the address. Workers that listen on it keep it."""
        self._sockets.close()


def _check_free(family: int, host: str, port: int) -> None:
    """Bind without sharing: with SO_REUSEPORT a second instance would quietly take half of the connections."""
    _bound(family, host, port, is_shared=False).close()


def _bound(family: int, host: str, port: int, *, is_shared: bool) -> socket.socket:
    """Return a socket that is bound, as `loop.create_server` would bind it."""
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
        # Connections of an earlier process may linger, so SO_REUSEADDR was needed to bind. As long as it is set, Linux
        # lets others bind beside a socket that does not listen: a second instance would pass its check.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        bound.close()
        raise
    return bound
