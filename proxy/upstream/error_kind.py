"""
What went wrong with a model server, in one word for metrics and the log.

    no connection   connect_refused · connect_timeout · connect_failed · dns · tls · stale_connection
    no answer       no_answer · first_byte_timeout · status_429 · status_4xx · status_5xx
    a bad answer    between_bytes_timeout · cut · malformed · error_in_answer · swallowed_call
    at any time     total_timeout
"""

import errno
from typing import Final

import aiohttp

from proxy.errors import (
    UpstreamDisconnected,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.translate.answer_finish import SwallowedToolCall
from proxy.upstream.route import ConnectTimeout, Stale

KINDS: Final = (
    *("connect_refused", "connect_timeout", "connect_failed", "dns", "tls", "stale_connection"),
    *("no_answer", "first_byte_timeout", "status_429", "status_4xx", "status_5xx"),
    *("between_bytes_timeout", "cut", "malformed", "error_in_answer", "swallowed_call", "total_timeout"),
)

#: A timer is named where its error's message begins (timers.py).
_TIMERS: Final = {
    "first_byte_timeout_s": "first_byte_timeout",
    "between_bytes_timeout_s": "between_bytes_timeout",
    "timeout_s": "total_timeout",
}


def error_kind(error: UpstreamError, *, has_begun: bool) -> str:
    """Return one of `KINDS`; `has_begun` is whether an answer of status 200 had begun."""
    if isinstance(error, UpstreamTimeout):
        is_connecting = isinstance(error, ConnectTimeout)
        return "connect_timeout" if is_connecting else _TIMERS[error.message.partition(":")[0]]
    if isinstance(error, UpstreamUnavailable):
        return _of_connecting(error.__cause__)
    if isinstance(error, UpstreamRejected):
        return "error_in_answer" if has_begun else _of_status(error.status)
    if isinstance(error, Stale):
        return "stale_connection"
    if isinstance(error, UpstreamDisconnected):
        return "cut" if has_begun else "no_answer"
    if isinstance(error, SwallowedToolCall):
        return "swallowed_call"
    return "malformed" if isinstance(error, UpstreamProtocolError) else "error_in_answer"


def _of_connecting(cause: BaseException | None) -> str:
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(cause, aiohttp.ClientSSLError):
        return "tls"
    is_refused = isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED
    return "connect_refused" if is_refused else "connect_failed"


def _of_status(status: int) -> str:
    if status == 429:
        return "status_429"
    return "status_4xx" if status < 500 else "status_5xx"
