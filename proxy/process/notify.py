"""
What the service manager that started this program is told: systemd's protocol, sd_notify(3) and sd_watchdog_enabled(3).

    READY=1      every worker listens                  RELOADING=1   SIGHUP came; READY=1 again when it is done
    STOPPING=1   the end has begun                     WATCHDOG=1    the loops of this program turn
    STATUS=...   a sentence for `systemctl status`     EXTEND_TIMEOUT_USEC=...   the end may take so long

A message is one datagram to the socket that `NOTIFY_SOCKET` names. Without that variable nothing happens, and nothing
that happens here is an error: a program does its work whether anybody hears of it or not.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Final

#: As `sd_watchdog_enabled(3)` advises: two pings in the time in which one must come.
_PINGS: Final = 2


class Manager:
    """The service manager, if there is one. Every method tells it something, and returns at once."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        """`address` is a path, or a name that begins with @; `watchdog_s` is the longest it may hear no `turns()`."""
        # An address of another kind (vsock: of a virtual machine) is as good as none.
        self._address = {"/": address, "@": "\0" + address[1:]}.get(address[:1], "")
        self.watchdog_s = watchdog_s if self._address else None

    @property
    def beat_s(self) -> float | None:
        """How often to call `turns()`; None is never."""
        return self.watchdog_s and self.watchdog_s / _PINGS

    def ready(self, status: str) -> None:
        """Every worker accepts connections, or goes on after `reloading()`."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """The settings are being read again. `ready()` must follow."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, limit_s: float) -> None:
        """The end has begun, and takes `limit_s` at the longest, whatever the manager's own limit is."""
        self._tell("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int(limit_s * 1e6)}")

    def status(self, status: str) -> None:
        """Say what this program does now, in a sentence."""
        self._tell(f"STATUS={status}")

    def turns(self) -> None:
        """The loops of this program turn."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if self._address:
            # Not kept open: a worker that is forked must not have it, and there are few messages.
            with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)


def manager_of(environ: MutableMapping[str, str]) -> Manager:
    """Return the one that `environ` tells of; its variables are taken out, as they are for this process alone."""
    address = environ.pop("NOTIFY_SOCKET", "")
    limit_us, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    is_meant = pid in ("", str(os.getpid())) and limit_us.isdecimal() and int(limit_us)
    return Manager(address, int(limit_us) / 1e6 if is_meant else None)


@contextmanager
def beating(beat_s: float | None, beat: Callable[[], None]) -> Iterator[None]:
    """Call `beat` so often for as long as the running loop turns; None is never."""
    if beat_s is None:
        yield
        return
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def again() -> None:
        nonlocal timer
        beat()
        timer = loop.call_later(beat_s, again)

    timer = loop.call_later(beat_s, again)
    try:
        yield
    finally:
        timer.cancel()
