"""
The life of the process that serves: the only one, or one of several workers.

    start -> serving, and taking new settings -> the end, which ending.py has
"""

import asyncio
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, NamedTuple

import msgspec
from structlog.typing import FilteringBoundLogger

from proxy.config import Config
from proxy.edge.listener import Listener, listening
from proxy.edge.routes import dispatch, dispatch_apart
from proxy.edge.server import opened
from proxy.edge.tls import server_context
from proxy.observe.logs import reopen_log
from proxy.observe.loop_lag import watch_loop_lag
from proxy.observe.metrics import Metrics
from proxy.process.address import Address, Addresses
from proxy.process.announcements import Announcements
from proxy.process.channel import Drain, Now, Order, Reload, Reopen, Word, WorkerEnd
from proxy.process.ending import Ending, longest_end_s, stop_accepting
from proxy.process.notify import beating
from proxy.process.reload import Settings
from proxy.process.swap import Swap
from proxy.store.table import Table

Say = Callable[[Word, int], None]


class Alone:
    """What stands in for a supervisor where there is none: signals and files give orders, the log gets the words."""

    def __init__(self, settings: Settings, metrics: Metrics, announcements: Announcements) -> None:
        self._settings = settings
        self._metrics = metrics
        self._announcements = announcements
        self._has_started = False
        self._hangup = asyncio.Event()
        self.received: list[signal.Signals] = []

    def listen(self, obey: Callable[[Order], None]) -> None:
        """Take signals from now on; the orders go to `obey`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._note, number, obey)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, obey)

    def _note(self, number: signal.Signals, obey: Callable[[Order], None]) -> None:
        if self.received:
            obey(Now())
        else:
            at_once = skips_delay(number) or not self._has_started
            self._announcements.ending(number, longest_end_s(self._settings.config, at_once=at_once))
            obey(Drain(at_once=at_once))
            if not at_once:
                self._announcements.not_ready(number, self._settings.config.drain_delay_s)
        self.received.append(number)

    def _hang_up(self, obey: Callable[[Order], None]) -> None:
        obey(Reopen())
        if not self.received:
            self._announcements.reloading()
        self._hangup.set()

    async def watch(self, obey: Callable[[Order], None]) -> None:
        """Read the settings again whenever that is due, for ever. In a thread: a file may be on a slow network."""
        while True:
            try:
                async with asyncio.timeout(self._settings.look_every_s):
                    await self._hangup.wait()
            except TimeoutError:
                config = await asyncio.to_thread(self._settings.look)
            else:
                self._hangup.clear()
                config = await asyncio.to_thread(self._settings.reload)
                if not self.received:
                    self._announcements.reloaded(is_taken=config is not None)
            if config is not None:
                obey(Reload(config))

    def say(self, word: Word, number: int) -> None:
        """Do what a supervisor would do when it hears this."""
        match word:
            case Word.READY:
                self._has_started = True
                self._announcements.started(number)
            case Word.DRAINING:
                self._announcements.draining(self.received[0], number)
            case Word.ENDED:
                self._announcements.ended(number)
            case Word.REFUSED:
                self._metrics.count_failed_reload()
            case Word.TURNS:
                self._announcements.manager.turns()


async def serve_alone(
    settings: Settings,
    logger: FilteringBoundLogger,
    metrics: Metrics,
    table: Table,
    addresses: Addresses,
    announcements: Announcements,
) -> int:
    """
    Serve in this process until SIGTERM or SIGINT; return the process's exit code.

    The first signal begins the end, the second cuts off what still runs. SIGHUP reopens the log and reads the
    settings again.
    """
    alone = Alone(settings, metrics, announcements)
    life = _Life(logger, metrics, table, alone.say, announcements.manager.beat_s)
    alone.listen(life.obey)
    watch = asyncio.ensure_future(alone.watch(life.obey))
    failure = await life.live(settings.config, addresses, settings.context)
    watch.cancel()
    await asyncio.wait({watch})
    return failure or exit_code(alone.received[0])


async def serve_supervised(
    settings: Settings,
    logger: FilteringBoundLogger,
    metrics: Metrics,
    table: Table,
    addresses: Addresses,
    pipe: socket.socket,
    beat_s: float | None,
) -> int:
    """
    Serve as one of several workers, until the supervisor at the other end of `pipe` says so; return the exit code.

    It begins with the supervisor's settings and certificates, which could be used when they were read: what has become
    of the files since then stops no worker that takes the place of another.

    `beat_s` is how often to say that the loop turns; None is never.

    SIGTERM is the same as the order to drain, any number of times: who ends a group of processes means the supervisor
    too, and only it may count signals.
    """
    channel = WorkerEnd(pipe, logger)
    life = _Life(logger, metrics, table, channel.say, beat_s)
    channel.listen(life.obey)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, life.obey, Drain())
    # blocked since before the fork, so that none was lost until now
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    return await life.live(settings.config, addresses, settings.context)


def exit_code(number: signal.Signals) -> int:
    """Return the code of a process that ended because of a signal: after SIGTERM it has done what it should."""
    return 128 + signal.SIGINT if number == signal.SIGINT else os.EX_OK


def skips_delay(number: signal.Signals) -> bool:
    """Whether a signal comes from a person, at a terminal, and not from what also tells a balancer."""
    return number == signal.SIGINT


def cannot_listen(host: str, port: int, error: OSError) -> int:
    """Say that an address cannot be listened on; return the exit code for it."""
    print(f"devstral-proxy: cannot listen on {host}:{port}: {error.strerror}", file=sys.stderr)
    return os.EX_UNAVAILABLE


#: Seconds: a tenth of what a stream's event may be late.
_TURN_S: Final = 0.001


class _Listening(NamedTuple):
    listener: Listener
    address: Address
    sockets: Sequence[socket.socket]


class _Life:
    """One life: `obey()` at any time, `live()` once."""

    def __init__(
        self, logger: FilteringBoundLogger, metrics: Metrics, table: Table, say: Say, beat_s: float | None
    ) -> None:
        self._logger = logger
        self._metrics = metrics
        self._table = table
        self._say = say
        self._beat_s = beat_s
        self._ending = Ending()
        self._swap = Swap(logger, partial(say, Word.REFUSED, 0))
        self._demo_url = ""

    def obey(self, order: Order) -> None:
        """Do what a signal, a file or the supervisor orders."""
        if isinstance(order, Reload):
            self._swap.take(order.config)
        elif isinstance(order, Reopen):
            reopen_log(self._logger)
        else:
            self._ending.obey(order)

    async def live(self, config: Config, addresses: Addresses, context: ssl.SSLContext | None) -> int:
        """
        Serve until it is ordered to end; return the exit code of a start that failed, or 0.

        With a context it speaks TLS.
        """
        async with AsyncExitStack() as stack:
            edge = await stack.enter_async_context(
                opened(await self._with_upstream(config, stack), self._logger, self._metrics, self._table)
            )
            listeners: list[_Listening] = []
            for address, answers in ((addresses.main, dispatch), (addresses.metrics, dispatch_apart)):
                if address is None:
                    continue
                try:
                    sockets = address.listeners()
                    listener = await stack.enter_async_context(listening(edge, sockets, context, answers))
                except OSError as exc:
                    return cannot_listen(address.host, address.port, exc)
                listeners.append(_Listening(listener, address, sockets))
            # Threads that translate large bodies let the loop have its turn so often; the default is 5 ms.
            sys.setswitchinterval(_TURN_S)
            # What is loaded by now stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()

            def look(late_ms: float) -> None:
                self._metrics.observe_loop_lag(late_ms)
                edge.tell()

            stack.enter_context(watch_loop_lag(look))

            async def apply(config: Config) -> None:
                context = await asyncio.to_thread(server_context, config)
                await edge.reload(await self._with_upstream(config, stack))
                if context is not None:
                    for each in listeners:
                        each.listener.use(context)

            stack.push_async_callback(self._swap.close)
            self._say(Word.READY, addresses.main.port)
            stack.enter_context(beating(self._beat_s, partial(self._say, Word.TURNS, 0)))
            self._swap.begin(apply)
            await self._ending.begins()
            edge.in_flight.is_draining = True
            await self._ending.delay(edge.config.drain_delay_s)
            # The metrics of the end are told to its end, unless another instance has come to tell its own.
            for each in listeners if config.reuse_port else listeners[:1]:
                await stop_accepting(*each)
            self._say(Word.DRAINING, len(edge.in_flight))
            self._say(Word.ENDED, await self._ending.drain(edge.in_flight, edge.config.drain_timeout_s))
        return os.EX_OK

    async def _with_upstream(self, config: Config, stack: AsyncExitStack) -> Config:
        """Return the settings with the demo model's address if they have none; it is started for the first."""
        if config.vllm_base or config.backends:
            return config
        if not self._demo_url:
            from proxy.demo import DemoUpstream

            demo = DemoUpstream()
            await demo.start()
            stack.push_async_callback(demo.close)
            self._demo_url = demo.url
        return msgspec.structs.replace(config, vllm_base=self._demo_url)
