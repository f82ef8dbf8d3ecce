"""
How a process that serves comes to its end.

    ready --Drain--> not ready, accepting --drain_delay_s--> draining --nothing runs, or drain_timeout_s--> ended
                         \\------ Drain(at_once), Now ----------^ \\------------- Now ----------------------^
"""

import asyncio
import selectors
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from proxy.config import Config
from proxy.edge.in_flight import InFlight
from proxy.edge.listener import Listener
from proxy.process.address import Address
from proxy.process.channel import Drain, Now

#: Arbitrary: how long requests that were cut off may take to tell their clients.
FAREWELL_S: Final = 6.0
#: Arbitrary: what a process may take to end beyond the limits that it keeps itself.
MARGIN_S: Final = 5.0
#: Arbitrary: how long clients that connected at the last moment have to send what they came for. In several turns of
#: the loop, so that a machine that stalls once does not take it all.
_LAST_COMERS_S: Final = 0.05
_TURNS: Final = 5
#: Arbitrary, and more than a queue holds: a crowd of such clients must not hold up the end for ever.
_MOST_LAST_COMERS: Final = 4096


def longest_end_s(config: Config, *, at_once: bool) -> float:
    """Return how long an end may take, from the signal on, with what a process may take beyond its own limits."""
    return (0.0 if at_once else config.drain_delay_s) + config.drain_timeout_s + FAREWELL_S + MARGIN_S


class Ending:
    """What this process was told about its end so far."""

    def __init__(self) -> None:
        self._drain = asyncio.Event()
        self._at_once = asyncio.Event()
        self._now = asyncio.Event()

    def obey(self, order: Drain | Now) -> None:
        """Take note of an order, of any number of them."""
        self._drain.set()
        if isinstance(order, Now) or order.at_once:
            self._at_once.set()
        if isinstance(order, Now):
            self._now.set()

    async def begins(self) -> None:
        """Return when the process is to end."""
        await self._drain.wait()

    async def delay(self, delay_s: float) -> None:
        """Let balancers see that this process is not ready, unless it is told to go on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._at_once.wait()

    async def drain(self, in_flight: InFlight, timeout_s: float) -> int:
        """Wait until nothing runs; cut off what runs too long, and return how many requests that were."""
        done, hurry = asyncio.ensure_future(in_flight.wait()), asyncio.ensure_future(self._now.wait())
        await asyncio.wait({done, hurry}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        cut_off = len(in_flight)
        in_flight.cut_off()
        await asyncio.wait({done}, timeout=FAREWELL_S)
        done.cancel()
        return cut_off


async def stop_accepting(listener: Listener, address: Address, sockets: Sequence[socket.socket]) -> None:
    """
    Close the listening sockets, and then idle connections, without losing a client that has already connected.

    Closing a socket resets every connection that waits in its queue, and those whose handshake is not over. So new
    ones are turned away first. The loop takes one from the queue at a time, so it gets the time to take them all, and
    then to read what they ask: that counts as running.
    """
    address.turn_away(sockets)
    await _turns()
    with selectors.DefaultSelector() as queues:
        for each in sockets:
            queues.register(each.fileno(), selectors.EVENT_READ)
        for _ in range(_MOST_LAST_COMERS):
            if not queues.select(0):
                break
            await asyncio.sleep(0)
    listener.close()
    await _turns()
    listener.close_idle()


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(_LAST_COMERS_S / _TURNS)
