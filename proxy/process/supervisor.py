"""
The process that looks after the workers. It serves nothing itself and runs no event loop: it forks, waits and tells.

    starting --every worker accepts--> serving --first signal--> draining --second signal--> ending

A worker that dies before the end is replaced, at once if it had worked for a while. Its connections close, and nobody
else notices. The first signal drains all workers, the second ends them now; one that does not obey in time is killed.
"""

import gc
import os
import selectors
import signal
import socket
import sys
import time
from enum import Enum
from functools import partial
from typing import Final, NoReturn

import msgspec
import uvloop
from structlog.typing import FilteringBoundLogger

from proxy.config import Config
from proxy.observe.metrics import Metrics
from proxy.process.address import HeldAddress
from proxy.process.announcements import Announcements
from proxy.process.channel import Order, SupervisorEnd, Word
from proxy.process.worker import FAREWELL_S, cannot_listen, exit_code, serve_supervised

#: Arbitrary: a worker that did not live so long may die of the same cause again.
_YOUNG_S: Final = 30.0
#: Doubled with every young death in a row, from the first to the last.
_FIRST_PAUSE_S: Final = 1.0
_LAST_PAUSE_S: Final = 30.0
#: Arbitrary: what a worker may take to end beyond the limits that it keeps itself.
_MARGIN_S: Final = 5.0

_ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Phase(Enum):
    """Where the whole program is; the picture is at the top."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    ENDING = "ending"


class _Worker(msgspec.Struct, kw_only=True):
    """A living worker. `number` is its row of the metrics, and goes to its successor."""

    number: int
    pid: int
    end: SupervisorEnd
    started_at: float
    is_ready: bool = False
    in_flight: int | None = None
    """How many requests ran when it stopped accepting; None until it has."""


def supervise(config: Config, logger: FilteringBoundLogger, metrics: Metrics, count: int) -> int:
    """
    Run `count` workers until SIGTERM or SIGINT; return the exit code.

    Call it before there is an event loop or a thread: those do not survive a fork.
    """
    try:
        address = HeldAddress(config.host, config.port)
    except OSError as exc:
        return cannot_listen(config, exc)
    return Supervisor(config, logger, metrics, address, count).run()


class Supervisor:
    """Forks the workers and keeps their number; `run()` once."""

    def __init__(
        self, config: Config, logger: FilteringBoundLogger, metrics: Metrics, address: HeldAddress, count: int
    ) -> None:
        self._config = msgspec.structs.replace(config, port=address.port)
        self._logger = logger
        self._metrics = metrics
        self._address = address
        self._count = count
        self._announcements = Announcements(config, logger, workers=count)
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, _Worker] = {}
        #: when a worker is to be started, by its number
        self._due: dict[int, float] = dict.fromkeys(range(count), 0.0)
        self._young_deaths = [0] * count
        self._restarts = 0
        self._phase = Phase.STARTING
        self._has_served = False
        self._signal = signal.SIGTERM
        self._exit_code = os.EX_OK
        self._is_drain_announced = False
        self._cut_off = 0
        self._kill_at: float | None = None

    def run(self) -> int:
        """Return the exit code when the last worker has ended."""
        self._wakeups = _signals_as_bytes()
        self._selector.register(self._wakeups[0], selectors.EVENT_READ, self._receive_signals)
        # What the parent has made is never collected, so its pages stay shared with the workers.
        gc.collect()
        gc.freeze()
        while self._workers or self._due:
            self._start_due()
            for key, _ in self._selector.select(self._pause()):
                key.data()
            self._kill_late()
        if self._is_drain_announced:
            self._announcements.ended(self._cut_off)
        return self._exit_code

    def _pause(self) -> float | None:
        """Return how long there is nothing to do unless somebody says something."""
        times = [*self._due.values()] if self._kill_at is None else [*self._due.values(), self._kill_at]
        return max(0.0, min(times) - time.monotonic()) if times else None

    # --- signals

    def _receive_signals(self) -> None:
        for number in self._wakeups[0].recv(256):
            if number not in _ENDING_SIGNALS:
                continue
            if self._phase in (Phase.STARTING, Phase.SERVING):
                self._signal = signal.Signals(number)
                self._exit_code = exit_code(self._signal)
                self._end(Phase.DRAINING, Order.DRAIN, self._config.drain_timeout_s + FAREWELL_S)
            else:
                self._end(Phase.ENDING, Order.NOW, FAREWELL_S)

    def _end(self, phase: Phase, order: Order, limit_s: float) -> None:
        self._phase = phase
        self._due.clear()
        self._kill_at = time.monotonic() + limit_s + _MARGIN_S
        for worker in self._workers.values():
            worker.end.order(order)

    def _kill_late(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            for worker in self._workers.values():
                os.kill(worker.pid, signal.SIGKILL)

    # --- what workers say

    def _listen_to(self, worker: _Worker) -> None:
        for said in worker.end.hear():
            match said:
                case None:
                    self._bury(worker)
                case Word.READY, _:
                    worker.is_ready = self._has_served = True
                case Word.DRAINING, in_flight:
                    worker.in_flight = in_flight
                case Word.ENDED, cut_off:
                    self._cut_off += cut_off
        self._announce()

    def _announce(self) -> None:
        workers = self._workers.values()
        if self._phase is Phase.STARTING and len(workers) == self._count and all(w.is_ready for w in workers):
            self._phase = Phase.SERVING
            self._announcements.started(self._address.port)
        is_ending = self._phase in (Phase.DRAINING, Phase.ENDING) and self._has_served
        if is_ending and not self._is_drain_announced and all(w.in_flight is not None for w in workers):
            self._is_drain_announced = True
            self._announcements.draining(self._signal, sum(w.in_flight or 0 for w in workers))

    def _bury(self, worker: _Worker) -> None:
        """Take note of a worker's death; have it replaced unless the end has come."""
        self._selector.unregister(worker.end.pipe)
        worker.end.pipe.close()
        _, status = os.waitpid(worker.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        del self._workers[worker.number]
        self._metrics.forget(worker.number)
        is_expected = self._phase in (Phase.DRAINING, Phase.ENDING)
        if not is_expected and code and not self._has_served:
            # What stops the first worker stops them all, as it would stop a process without workers.
            self._exit_code = code if code > 0 else 128 - code
            self._end(Phase.ENDING, Order.NOW, FAREWELL_S)
        elif not is_expected:
            self._metrics.count_death(worker.number)
            self._plan_restart(worker)
        if code or not is_expected:
            self._logger.error(
                "worker_exited",
                pid=worker.pid,
                exit_code=code if code >= 0 else None,
                signal=signal.Signals(-code).name if code < 0 else None,
                restarts=self._restarts,
            )

    # --- birth

    def _plan_restart(self, worker: _Worker) -> None:
        is_young = time.monotonic() - worker.started_at < _YOUNG_S
        deaths = self._young_deaths[worker.number] + 1 if is_young else 0
        self._young_deaths[worker.number] = deaths
        pause = min(_FIRST_PAUSE_S * 2 ** (deaths - 1), _LAST_PAUSE_S) if is_young else 0.0
        self._due[worker.number] = time.monotonic() + pause
        self._restarts += 1

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            try:
                self._start(number)
            except OSError as exc:  # no memory, or no more processes: that may pass
                self._logger.error("worker_not_started", error=exc.strerror)
                self._due[number] = now + _LAST_PAUSE_S
            else:
                del self._due[number]

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        # Until each side has its own way to take signals, none may reach the other's.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._become_worker(number, theirs)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
        theirs.close()
        worker = _Worker(number=number, pid=pid, end=SupervisorEnd(ours), started_at=time.monotonic())
        self._workers[number] = worker
        self._selector.register(ours, selectors.EVENT_READ, partial(self._listen_to, worker))

    def _become_worker(self, number: int, pipe: socket.socket) -> NoReturn:
        """Serve in a process that was just forked. What the supervisor has to do at its own end is not done here."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            # Other workers must see the end of their channel when the supervisor dies, so nobody else may hold it.
            self._selector.close()
            self._address.close()
            for inherited in (*self._wakeups, *(worker.end.pipe for worker in self._workers.values())):
                inherited.close()
            self._metrics.use(number)
            code = uvloop.run(serve_supervised(self._config, self._logger, self._metrics, pipe))
        finally:
            error = sys.exception()
            if error is not None:
                sys.excepthook(type(error), error, error.__traceback__)
            sys.stderr.flush()
            os._exit(code)


def _signals_as_bytes() -> tuple[socket.socket, socket.socket]:
    """Return a pair of sockets; from now on every SIGTERM and SIGINT is a byte that can be read from the first."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in _ENDING_SIGNALS:
        # the number is written for signals that have a handler; that this one does nothing is enough
        signal.signal(number, lambda *_: None)
    return reader, writer
