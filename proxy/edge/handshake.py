"""
Accepting with TLS: from a connection that the kernel has to one that has been agreed on.

    accepted --handshake--> a `Connection`
        |          |
        |          +-- refused, left, or header_timeout_s is over --> closed; one line `tls_refused` in the log
        +-- no more files --> what waits is accepted a second later

Not `loop.create_server(ssl=)`: it keeps its context for ever, and tells nobody which client it has refused, nor the
client why.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

#: Arbitrary: how many are accepted in one turn of the loop, so that a crowd at the door does not hold up streams.
_AT_ONCE: Final = 64
#: As long as asyncio's own servers wait (asyncio.constants.ACCEPT_RETRY_DELAY) until a file may be free again.
_RETRY_S: Final = 1.0
#: Arbitrary, uvloop's own default: how long a client may take to read what was written before the connection's end.
_GOODBYE_S: Final = 30.0
#: What may wait for a slow client: as much as without TLS. uvloop's default with TLS is eight times that.
_WRITE_AHEAD_BYTES: Final = 64 * 1024

_CLIENT: Final[ContextVar[socket.socket]] = ContextVar("client")


class ServerContext(ssl.SSLContext):
    """
    A server's context whose handshakes tell a client why they failed.

    OpenSSL writes an alert ("certificate expired") when it refuses a client; asyncio and uvloop close the connection
    and leave it unsent (uvloop 0.23, sslproto.pyx, `_on_handshake_complete`).
    """

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext`."""
        made = super().wrap_bio(incoming, outgoing, *args, **options)
        if isinstance(made, _Handshake):
            made.outgoing, made.client = outgoing, _CLIENT.get(None)
        return made


class _Handshake(ssl.SSLObject):
    outgoing: ssl.MemoryBIO
    client: socket.socket | None

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            if self.client is not None:
                with suppress(OSError):
                    self.client.send(self.outgoing.read())
            raise


# The standard library's way to say what `wrap_bio` makes, since Python 3.7.
ServerContext.sslobject_class = _Handshake


class Door:
    """Accepts on one socket, from the beginning until `shut()`; `close()` also ends the handshakes that go on."""

    def __init__(
        self,
        bound: socket.socket,
        context: ssl.SSLContext,
        make_connection: Callable[[], asyncio.Protocol],
        *,
        backlog: int,
        handshake_s: float,
        logger: FilteringBoundLogger,
    ) -> None:
        """
        Listen. `bound` is closed by `shut()`.

        Raises:
            OSError: it cannot be listened on.
        """
        self.context = context
        self.handshake_s = handshake_s
        self._bound = bound
        self._make_connection = make_connection
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        bound.setblocking(False)
        bound.listen(backlog)
        self._open()

    def shut(self) -> None:
        """Accept no more."""
        if self._pause is not None:
            self._pause.cancel()
        if self._bound.fileno() >= 0:
            self._loop.remove_reader(self._bound)
            self._bound.close()

    async def close(self) -> None:
        """Accept no more, and end the handshakes that are not over."""
        self.shut()
        await asyncio.sleep(0)  # each has begun by then: one that never did would leave its socket open
        handshakes = set(self._handshakes)
        for handshake in handshakes:
            handshake.cancel()
        if handshakes:
            await asyncio.wait(handshakes)

    def _open(self) -> None:
        self._pause = None
        self._loop.add_reader(self._bound, self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, peer = self._bound.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:  # no more files, or no memory
                self._logger.error("accept_failed", error=exc.strerror)
                self._loop.remove_reader(self._bound)
                self._pause = self._loop.call_later(_RETRY_S, self._open)
                return
            client.setblocking(False)
            handshake = self._loop.create_task(self._agree(client, peer[0]))
            self._handshakes.add(handshake)
            handshake.add_done_callback(self._handshakes.discard)

    async def _agree(self, client: socket.socket, client_ip: str) -> None:
        _CLIENT.set(client)
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                self._make_connection,
                client,
                ssl=self.context,
                ssl_handshake_timeout=self.handshake_s,
                ssl_shutdown_timeout=_GOODBYE_S,
            )
        except OSError as exc:
            self._note(exc, client_ip)
        else:
            transport.set_write_buffer_limits(_WRITE_AHEAD_BYTES)

    def _note(self, error: OSError, client_ip: str) -> None:
        if isinstance(error, ssl.SSLError):
            reason = (error.reason or type(error).__name__).lower()
            detail = {"detail": error.verify_message} if isinstance(error, ssl.SSLCertVerificationError) else {}
            self._logger.info("tls_refused", client_ip=client_ip, reason=reason, **detail)
        elif isinstance(error, ConnectionAbortedError):  # uvloop's word for it
            self._logger.info("tls_refused", client_ip=client_ip, reason="header_timeout_s")
        else:  # as a balancer does that looks whether the port is open
            self._logger.debug("tls_refused", client_ip=client_ip, reason="client_left")
