"""
The life of the process that serves: the only one, or one of several workers.

    start -> accepting --DRAIN--> draining --nothing runs, NOW or drain_timeout_s--> ended
"""

import asyncio
import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

import msgspec
from structlog.typing import FilteringBoundLogger

from proxy.config import Config
from proxy.edge.in_flight import InFlight
from proxy.edge.server import listening, opened
from proxy.observe.loop_lag import watch_loop_lag
from proxy.observe.metrics import Metrics
from proxy.process.announcements import Announcements
from proxy.process.channel import Order, Word, WorkerEnd

#: Arbitrary: how long requests that were cut off may take to tell their clients.
FAREWELL_S: Final = 6.0
#: Arbitrary: how long clients that connected at the last moment have to send what they came for. In several turns of
#: the loop, so that a machine that stalls once does not take it all.
_LAST_COMERS_S: Final = 0.05
_TURNS: Final = 5
#: Arbitrary, and more than a queue holds: a crowd of such clients must not hold up the end for ever.
_MOST_LAST_COMERS: Final = 4096

Say = Callable[[Word, int], None]


async def serve_alone(config: Config, logger: FilteringBoundLogger, metrics: Metrics) -> int:
    """
    Serve in this process until SIGTERM or SIGINT; return the process's exit code.

    The first signal stops accepting and waits up to `drain_timeout_s` for running requests; the second ends them now.
    """
    orders: asyncio.Queue[Order] = asyncio.Queue()
    received: list[signal.Signals] = []
    announcements = Announcements(config, logger, workers=1)

    def note(number: signal.Signals) -> None:
        orders.put_nowait(Order.NOW if received else Order.DRAIN)
        received.append(number)

    def say(word: Word, number: int) -> None:
        if word is Word.READY:
            announcements.started(number)
        elif word is Word.DRAINING:
            announcements.draining(received[0], number)
        else:
            announcements.ended(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, note, number)
    failure = await _work(config, logger, metrics, orders, say)
    return failure or exit_code(received[0])


async def serve_supervised(config: Config, logger: FilteringBoundLogger, metrics: Metrics, pipe: socket.socket) -> int:
    """
    Serve as one of several workers, until the supervisor at the other end of `pipe` says so; return the exit code.

    SIGTERM is the same as the order to drain, any number of times: who ends a group of processes means the supervisor
    too, and only it may count signals.
    """
    orders: asyncio.Queue[Order] = asyncio.Queue()
    channel = WorkerEnd(pipe, orders, logger)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, orders.put_nowait, Order.DRAIN)
    # blocked since before the fork, so that none was lost until now
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    return await _work(config, logger, metrics, orders, channel.say, reuse_port=True)


def exit_code(number: signal.Signals) -> int:
    """Return the code of a process that ended because of a signal: after SIGTERM it has done what it should."""
    return 128 + signal.SIGINT if number == signal.SIGINT else os.EX_OK


#: Seconds: a tenth of what a stream's event may be late.
_TURN_S: Final = 0.001


async def _work(
    config: Config,
    logger: FilteringBoundLogger,
    metrics: Metrics,
    orders: asyncio.Queue[Order],
    say: Say,
    *,
    reuse_port: bool = False,
) -> int:
    """Serve until it is ordered to end; return the exit code of a start that failed, or 0."""
    async with AsyncExitStack() as stack:
        if not config.vllm_base:
            config = msgspec.structs.replace(config, vllm_base=await _start_demo(stack))
        edge = await stack.enter_async_context(opened(config, logger, metrics))
        try:
            server = await stack.enter_async_context(listening(edge, config.host, config.port, reuse_port=reuse_port))
        except OSError as exc:
            return cannot_listen(config, exc)
        # Threads that translate large bodies let the loop have its turn so often; the default is 5 ms.
        sys.setswitchinterval(_TURN_S)
        # What is loaded by now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        stack.enter_context(watch_loop_lag(metrics.observe_loop_lag))
        say(Word.READY, server.sockets[0].getsockname()[1])
        while await orders.get() is not Order.DRAIN:
            pass
        edge.in_flight.is_draining = True
        await _stop_accepting(server)
        say(Word.DRAINING, len(edge.in_flight))
        say(Word.ENDED, await _drain(edge.in_flight, orders, config.drain_timeout_s))
    return os.EX_OK


def cannot_listen(config: Config, error: OSError) -> int:
    """Say that the address cannot be listened on; return the exit code for it."""
    print(f"devstral-proxy: cannot listen on {config.host}:{config.port}: {error.strerror}", file=sys.stderr)
    return os.EX_UNAVAILABLE


async def _start_demo(stack: AsyncExitStack) -> str:
    from proxy.demo import DemoUpstream

    demo = DemoUpstream()
    await demo.start()
    stack.push_async_callback(demo.close)
    return demo.url


async def _stop_accepting(server: asyncio.Server) -> None:
    """
    Close the listening sockets without losing a client that has already connected.

    Closing one resets every connection that waits in its queue. The loop takes one from it at a time, so it gets the
    time to take them all, and then to read what they ask: that counts as running.
    """
    with selectors.DefaultSelector() as queues:
        for listener in server.sockets:
            queues.register(listener.fileno(), selectors.EVENT_READ)
        for _ in range(_MOST_LAST_COMERS):
            if not queues.select(0):
                break
            await asyncio.sleep(0)
    server.close()
    for _ in range(_TURNS):
        await asyncio.sleep(_LAST_COMERS_S / _TURNS)


async def _drain(in_flight: InFlight, orders: asyncio.Queue[Order], timeout_s: float) -> int:
    """Wait until nothing runs; cut off what runs too long, and return how many requests that were."""
    done, hurry = asyncio.ensure_future(in_flight.wait()), asyncio.ensure_future(_ordered_now(orders))
    await asyncio.wait({done, hurry}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    cut_off = len(in_flight)
    in_flight.cut_off()
    await asyncio.wait({done}, timeout=FAREWELL_S)
    done.cancel()
    return cut_off


async def _ordered_now(orders: asyncio.Queue[Order]) -> None:
    while await orders.get() is not Order.NOW:
        pass
