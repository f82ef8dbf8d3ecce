"""Where exchanges go, on which connections, and what happened when none came about."""

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import aiohttp
import msgspec
from yarl import URL

from proxy.errors import (
    UpstreamDisconnected,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.upstream.answer import Answer, Limits


class ConnectTimeout(UpstreamTimeout):
    """The timer for connecting fired: nothing was sent, so another replica may be asked."""


class Stale(UpstreamDisconnected):
    """A connection that had been used before closed without a byte: the race with a server that ends an idle one."""


class Target(NamedTuple):
    """What every request of one kind has in common. `server_name` is what TLS asks for, if it is not the URL's host."""

    method: str
    url: URL
    headers: Mapping[str, str]
    server_name: str | None = None


class Leg(msgspec.Struct):
    """
    One attempt: at which replica, what it says of the trace that it is part of, and when what happened.

    Times are seconds of `time.perf_counter()`, None is "did not happen"; `connected_at` is when it had a connection,
    old or new, `first_byte_at` when the answer's body began. `error` is the code of what went wrong.
    """

    replica: str = ""
    url: str = ""
    traceparent: str | None = None
    tracestate: str | None = None
    began_at: float = 0.0
    connected_at: float | None = None
    first_byte_at: float | None = None
    ended_at: float | None = None
    status: int | None = None
    error: str | None = None


class Asking(NamedTuple):
    """
    What one request adds: its body, its ids, its timers, and whether its connection has to be a new one.

    `passed_s` is how much of the limit in total is over. In `leg` it is written down when what happened.
    """

    body: bytes | None
    request_id: str
    limits: Limits
    leg: Leg
    is_fresh: bool = False
    passed_s: float = 0.0


class Sessions(NamedTuple):
    """The pool that is used, and one whose connections are used once."""

    pool: aiohttp.ClientSession
    fresh: aiohttp.ClientSession


class Route(Protocol):
    """A way to a target: `async with route.send(asking) as answer`."""

    def send(self, asking: Asking) -> AbstractAsyncContextManager[Answer]:
        """
        Return the exchange, to be entered. On leaving, the connection is closed, unless the answer was read to its end.

        Raises:
            Stale: on entering, if the connection had been used before and broke without a byte of an answer.
            UpstreamError: on entering or inside, by cause.
        """


class Progress:
    """When a replica last sent a byte of any answer, in the loop's time."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = 0.0


class Server(NamedTuple):
    """The model server as messages name it, how long connecting to it may take, and when it last moved."""

    host: str
    connect_timeout_s: float
    progress: Progress

    def failure(self, exc: Exception) -> UpstreamError:
        """Return the error that one of aiohttp's stands for."""
        if isinstance(exc, aiohttp.ConnectionTimeoutError):
            return self.cannot_connect_in_time()
        if isinstance(exc, aiohttp.ClientConnectorError):
            return UpstreamUnavailable(f"Cannot connect to the model server at {self.host}: {_reason(exc)}.")
        if isinstance(exc, aiohttp.ClientResponseError):
            return self.not_http()
        return self.no_answer()

    def no_answer(self) -> UpstreamDisconnected:
        """Return the error of a connection that closed before an answer's status line had come."""
        return UpstreamDisconnected(f"The model server at {self.host} closed the connection without an answer.")

    def stale(self) -> Stale:
        """Return the same for a connection that had been used before."""
        return Stale(self.no_answer().message)

    def broken_off(self) -> UpstreamDisconnected:
        """Return the error of an answer that did not come to its end."""
        return UpstreamDisconnected(f"The model server at {self.host} broke off its answer.")

    def not_http(self) -> UpstreamProtocolError:
        """Return the error of an answer that is none."""
        return UpstreamProtocolError(f"The model server at {self.host} did not answer in HTTP.")

    def cannot_connect_in_time(self) -> ConnectTimeout:
        """Return the error of the timer for connecting."""
        return ConnectTimeout(
            f"connect_timeout_s: no connection to the model server at {self.host} within {self.connect_timeout_s:g} s"
        )


def _reason(exc: aiohttp.ClientConnectorError) -> str:
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "the name cannot be resolved"
    if isinstance(exc, aiohttp.ClientSSLError):
        return "TLS failed"
    return os.strerror(exc.errno).lower() if exc.errno else "no connection"
