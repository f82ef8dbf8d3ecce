"""Where exchanges go, on which connections, and what happened when none came about."""

import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import aiohttp
from yarl import URL

from proxy.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from proxy.upstream.answer import Answer


class Target(NamedTuple):
    """What every request of one kind has in common."""

    method: str
    url: URL
    headers: Mapping[str, str]


class Sessions(NamedTuple):
    """The pool that is used, and one whose connections are used once."""

    pool: aiohttp.ClientSession
    fresh: aiohttp.ClientSession


class Route(Protocol):
    """A way to a target: `async with route.send(body, request_id, traceparent) as answer`."""

    def send(self, body: bytes | None, request_id: str, traceparent: str | None) -> AbstractAsyncContextManager[Answer]:
        """
        Return the exchange, to be entered. On leaving, the connection is closed, unless the answer was read to its end.

        Raises:
            UpstreamError: on entering or inside, by cause.
        """


class Server(NamedTuple):
    """The model server as messages name it, and how long connecting to it may take."""

    host: str
    connect_timeout_s: float

    def failure(self, exc: Exception) -> UpstreamError:
        """Return the error that one of aiohttp's stands for."""
        if isinstance(exc, aiohttp.ConnectionTimeoutError):
            return self.cannot_connect_in_time()
        if isinstance(exc, aiohttp.ClientConnectorError):
            return UpstreamUnavailable(f"Cannot connect to the model server at {self.host}: {_reason(exc)}.")
        if isinstance(exc, aiohttp.ClientResponseError):
            return self.not_http()
        return self.no_answer()

    def no_answer(self) -> UpstreamProtocolError:
        """Return the error of a connection that closed before an answer's status line had come."""
        return UpstreamProtocolError(f"The model server at {self.host} closed the connection without an answer.")

    def broken_off(self) -> UpstreamProtocolError:
        """Return the error of an answer that did not come to its end."""
        return UpstreamProtocolError(f"The model server at {self.host} broke off its answer.")

    def not_http(self) -> UpstreamProtocolError:
        """Return the error of an answer that is none."""
        return UpstreamProtocolError(f"The model server at {self.host} did not answer in HTTP.")

    def cannot_connect_in_time(self) -> UpstreamTimeout:
        """Return the error of the timer for connecting."""
        return UpstreamTimeout(
            f"connect_timeout_s: no connection to the model server at {self.host} within {self.connect_timeout_s:g} s"
        )


def _reason(exc: aiohttp.ClientConnectorError) -> str:
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "the name cannot be resolved"
    if isinstance(exc, aiohttp.ClientSSLError):
        return "TLS failed"
    return os.strerror(exc.errno).lower() if exc.errno else "no connection"
