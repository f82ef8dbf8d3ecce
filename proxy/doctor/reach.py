"""Checks on the way to a server, layer by layer: name, connection, TLS, HTTP; then idle connections, and its clock."""

import asyncio
import email.utils
import math
import socket
import ssl
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.doctor.asking import Server, Streams
from proxy.doctor.case import Case
from proxy.doctor.outcome import Outcome, failed, ok, quoted, skipped, warning

#: So much of an answer is read to tell what it is.
_FIRST_BYTES: Final = 4096
#: The longest that an idle connection is watched.
_LONGEST_WATCH_S: Final = 6.0
#: The proxy's own default for tokens' times (`clock_skew_s`): clocks further apart are not kept by NTP.
_MOST_SKEW_S: Final = 30
#: A TLS record of an alert begins so (RFC 8446, 5.1).
_TLS_ALERT: Final = b"\x15\x03"

_VERIFY_CODES: Final = {  # x509_vfy.h
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    19: "its authority is not trusted here",
    20: "its authority is not trusted here",
    21: "its authority is not trusted here",
    62: "it is for another host name",
    64: "it is for another address",
}


async def address(case: Case) -> Outcome:
    """The host's name stands for an address, or the socket is there."""
    server = case.server
    if server.socket_path:
        return _socket(server.socket_path)
    try:
        async with asyncio.timeout(server.short_s):
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return failed(
            f"the name server did not say within {server.short_s:g} s what {server.host} is",
            f"getent hosts {server.host}",
        )
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else None
        return failed(
            f"the name {server.host} cannot be resolved: {reason or 'it is no host name'}",
            f"getent hosts {server.host}",
        )
    case.addresses = tuple(dict.fromkeys(str(place[0]) for *_, place in found))
    return ok(f"{server.host} is {', '.join(case.addresses)}" if case.addresses != (server.host,) else server.host)


def _socket(path: str) -> Outcome:
    try:
        is_socket = stat.S_ISSOCK(Path(path).stat().st_mode)
    except OSError as exc:
        return failed(f"there is no socket {path}: {exc.strerror or type(exc).__name__}", f"ls -l {path}")
    return ok(path) if is_socket else failed(f"{path} is no socket", f"ls -l {path}")


async def connection(case: Case) -> Outcome:
    """Something accepts connections there."""
    server, started, reasons = case.server, time.monotonic(), []
    for place in case.addresses or ("",):
        try:
            _, writer = await server.connect(place)
        except OSError as exc:
            reasons.append(exc)
        else:
            writer.transport.abort()
            return ok(f"accepted after {(time.monotonic() - started) * 1000:.1f} ms")
    return _not_connected(server, reasons)


def _not_connected(server: Server, reasons: list[OSError]) -> Outcome:
    where = server.socket_path or f"{server.host}:{server.port}"
    if any(isinstance(reason, TimeoutError) for reason in reasons):
        return failed(
            f"{where} does not answer within {server.short_s:g} s: a firewall drops it, or the address is another's",
            f"nc -vz {server.host} {server.port}",
        )
    if all(isinstance(reason, ConnectionRefusedError) for reason in reasons):
        fix = [f"vllm serve MODEL --host {server.host} --port {server.port}"] if not server.socket_path else []
        says = f"nothing listens at {where}: the connection is refused"
        if server.host in ("127.0.0.1", "localhost", "::1") and not server.socket_path:
            says += " (inside a container, loopback is the container itself)"
        return failed(says, *fix)
    return failed(f"no connection to {where}: {quoted(reasons[-1].strerror or type(reasons[-1]).__name__)}")


async def tls(case: Case) -> Outcome:
    """Its certificate is one that the proxy would trust."""
    server = case.server
    if server.trusts is None:
        return ok("not used: the URL is not https://")
    try:
        _, writer = await server.connect(context=server.trusts)
    except ssl.SSLCertVerificationError as exc:
        reason = _VERIFY_CODES.get(exc.verify_code, quoted(exc.verify_message))
        fix = "the URL with the name in the certificate" if exc.verify_code in (62, 64) else "--ca-file FILE"
        return failed(f"its certificate is refused: {reason}", fix)
    except ssl.SSLError as exc:
        problem = f"TLS cannot be agreed on: {quoted(exc.reason or type(exc).__name__)}"
    except TimeoutError:
        problem = f"no answer to TLS within {server.short_s:g} s"
    except OSError:
        problem = "the connection was closed during TLS"
    else:
        version = writer.get_extra_info("ssl_object").version()
        writer.transport.abort()
        return ok(f"{version}, and the certificate is trusted")
    if await _speaks_http(server):
        return failed("the port does not speak TLS, and the URL says https://", f"http://{server.url.authority}")
    return failed(problem)


async def http(case: Case) -> Outcome:
    """What answers there speaks HTTP."""
    server = case.server
    started = time.monotonic()
    try:
        begin = await _beginning(server, server.trusts)
    except TimeoutError:
        return failed(
            f"it accepts connections and says nothing for {server.short_s:g} s: it is stuck, or still starting",
            f"curl -v {server.url.joinpath('health')}",
        )
    except OSError as exc:
        begin, reason = b"", quoted(exc.strerror or type(exc).__name__)
    else:
        reason = "closed without an answer"
    if begin.startswith(b"HTTP/1."):
        return ok(f"answered after {(time.monotonic() - started) * 1000:.1f} ms")
    if server.trusts is None and (begin.startswith(_TLS_ALERT) or await _speaks_tls(server)):
        return failed("the port speaks TLS, and the URL says http://", f"https://{server.url.authority}")
    if not begin:
        return failed(f"the connection was {reason}" if reason.startswith("closed") else f"no answer: {reason}")
    return failed(f"what answers is not HTTP; it begins with {quoted(repr(begin[:24]))}")


async def _beginning(server: Server, context: ssl.SSLContext | None) -> bytes:
    """Return the first bytes of an answer; b"" is a connection that was closed. Raises: OSError."""
    reader, writer = await server.connect(context=context)
    try:
        async with asyncio.timeout(server.short_s):
            writer.write(server.plain_question())
            return await reader.read(_FIRST_BYTES)
    finally:
        writer.transport.abort()


async def _speaks_http(server: Server) -> bool:
    """Whether HTTP is spoken there without TLS."""
    try:
        return (await _beginning(server, None)).startswith(b"HTTP/1.")
    except OSError:
        return False


async def _speaks_tls(server: Server) -> bool:
    """Whether TLS can be begun there; nothing is sent over it, so nobody has to be trusted."""
    if server.socket_path:
        return False
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        _, writer = await server.connect(context=context)
    except ssl.SSLError as exc:
        return exc.reason not in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
    except OSError:
        return False
    writer.transport.abort()
    return True


async def keep_alive(case: Case) -> Outcome:
    """An idle connection lives longer than the proxy keeps it: else requests go out on a dead one."""
    kept_s = case.config.pool_idle_s
    watched_s = min(kept_s * 4 / 3, _LONGEST_WATCH_S)
    try:
        lived_s = await _life_of_idle(case.server, await case.server.connect(context=case.server.trusts), watched_s)
    except OSError as exc:
        return warning(f"an idle connection cannot be watched: {quoted(exc.strerror or type(exc).__name__)}")
    kept = f"the proxy keeps them {kept_s:g} s (pool_idle_s)"
    if lived_s is None:
        unseen = "" if watched_s > kept_s else ", longer than was watched"
        return ok(f"an idle connection is open after {watched_s:.1f} s; {kept}{unseen}")
    if lived_s < 0.05:
        return warning("it closes each connection after one answer: every request pays for a new connection")
    if lived_s > kept_s:
        return ok(f"an idle connection is closed after {lived_s:.1f} s; {kept}")
    shorter = max(0.1, math.floor(lived_s * 6) / 10)
    return warning(
        f"it closes idle connections after {lived_s:.1f} s, and {kept}",
        f"devstral-proxy … --pool-idle-s {shorter:g}",
        f"VLLM_HTTP_TIMEOUT_KEEP_ALIVE={math.ceil(kept_s * 2)} vllm serve …",
    )


async def _life_of_idle(server: Server, streams: Streams, watched_s: float) -> float | None:
    """
    Return how long a connection was left open after an answer; None is longer than `watched_s`.

    Raises:
        OSError: no answer came.
    """
    reader, writer = streams
    try:
        writer.write(server.plain_question())
        async with asyncio.timeout(server.short_s):
            if not await reader.read(_FIRST_BYTES):
                raise ConnectionResetError
        idle_since = time.monotonic()
        with suppress(TimeoutError, ConnectionResetError):
            async with asyncio.timeout(watched_s) as limit:
                while await reader.read(_FIRST_BYTES):
                    idle_since = time.monotonic()
        return None if limit.expired() else time.monotonic() - idle_since
    finally:
        writer.transport.abort()


async def clock(case: Case) -> Outcome:
    """Its clock agrees with ours: logs of both can be laid side by side."""
    asked_at = time.time()
    answer = await case.server.ask("GET", "/version")
    date = email.utils.parsedate_tz(answer.headers.get("Date", ""))
    if date is None:
        return skipped("it sends no Date")
    # A Date has whole seconds, and was written between the question and the answer.
    ahead = email.utils.mktime_tz(date) + 0.5 - (asked_at + time.time()) / 2
    if abs(ahead) <= _MOST_SKEW_S:
        return ok("within a second of ours" if abs(ahead) < 1.5 else f"{abs(ahead):.0f} s from ours")
    which = "ahead of" if ahead > 0 else "behind"
    return warning(f"its clock is {abs(ahead):.0f} s {which} ours", "timedatectl, on both machines")
