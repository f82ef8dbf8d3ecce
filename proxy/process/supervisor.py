"""
The process that looks after the workers. It serves nothing itself and runs no event loop: it forks, waits and tells.

    starting --every worker accepts--> serving --first signal--> draining --second signal--> ending

A worker that dies before the end is replaced, at once if it had worked for a while. Its connections close, and nobody
else notices. The first signal drains all workers, the second ends them now; one that does not obey in time is killed.
Until then SIGHUP, or a file that has changed, gives new settings to all of them. SIGHUP also has all of them reopen the
log, at any time.

Where a service manager watches this program, workers say again and again that their loops turn. One that has not said
so for as long as the manager would wait is killed and replaced, which costs its own streams and not those of the
others; the manager is told that all is well as long as at least one has said so.
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
from proxy.observe.logs import finish_log, reopen_log
from proxy.observe.metrics import Metrics
from proxy.process.address import Addresses
from proxy.process.announcements import Announcements
from proxy.process.channel import Drain, Now, Order, Reload, Reopen, SupervisorEnd, Word
from proxy.process.ending import FAREWELL_S, MARGIN_S, longest_end_s
from proxy.process.reload import Settings
from proxy.process.worker import exit_code, serve_supervised, skips_delay
from proxy.store.table import Table

#: Arbitrary: a worker that did not live so long may die of the same cause again.
_YOUNG_S: Final = 30.0
#: Doubled with every young death in a row, from the first to the last.
_FIRST_PAUSE_S: Final = 1.0
_LAST_PAUSE_S: Final = 30.0
#: As long as the service manager would wait: two beats are its limit.
_MOST_SILENT_BEATS: Final = 2

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
    silent_beats: int = 0
    """How many beats in a row it has not said that its loop turns, since it is ready."""
    in_flight: int | None = None
    """How many requests ran when it stopped accepting; None until it has."""


class Supervisor:
    """Forks the workers and keeps their number; `run()` once, before there is an event loop or a thread in here."""

    def __init__(
        self,
        settings: Settings,
        logger: FilteringBoundLogger,
        metrics: Metrics,
        table: Table,
        addresses: Addresses,
        announcements: Announcements,
        count: int,
    ) -> None:
        self._settings = settings
        self._logger = logger
        self._metrics = metrics
        self._table = table
        self._addresses = addresses
        self._announcements = announcements
        self._count = count
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
        self._look_at: float | None = None
        self._beat_at: float | None = None

    def run(self) -> int:
        """Run the workers until SIGTERM or SIGINT; return the exit code when the last one has ended."""
        self._wakeups = _signals_as_bytes()
        self._selector.register(self._wakeups[0], selectors.EVENT_READ, self._receive_signals)
        # What the parent has made is never collected, so its pages stay shared with the workers.
        gc.collect()
        gc.freeze()
        self._plan_look()
        while self._workers or self._due:
            self._start_due()
            self._listen_for_room()
            for key, _ in self._selector.select(self._pause()):
                key.data()
            self._look_if_due()
            self._beat_if_due()
            self._kill_late()
        if self._is_drain_announced:
            self._announcements.ended(self._cut_off)
        return self._exit_code

    def _pause(self) -> float | None:
        """Return how long there is nothing to do unless somebody says something."""
        times = [*self._due.values(), *(at for at in (self._kill_at, self._look_at, self._beat_at) if at is not None)]
        return max(0.0, min(times) - time.monotonic()) if times else None

    # --- signals

    def _receive_signals(self) -> None:
        for number in map(signal.Signals, self._wakeups[0].recv(256)):
            if number == signal.SIGHUP:
                self._reopen_log()
                self._reload()
            elif number not in _SIGNALS:
                continue
            elif self._is_ending:
                self._end(Phase.ENDING, Now(), FAREWELL_S + MARGIN_S)
            else:
                self._drain(number)

    @property
    def _is_ending(self) -> bool:
        return self._phase in (Phase.DRAINING, Phase.ENDING)

    def _drain(self, number: signal.Signals) -> None:
        self._signal = number
        self._exit_code = exit_code(number)
        config = self._settings.config
        at_once = skips_delay(number) or not self._has_served
        limit_s = longest_end_s(config, at_once=at_once)
        self._announcements.ending(number, limit_s)
        self._end(Phase.DRAINING, Drain(at_once=at_once), limit_s)
        if not at_once:
            self._announcements.not_ready(number, config.drain_delay_s)

    def _end(self, phase: Phase, order: Order, limit_s: float) -> None:
        self._phase = phase
        self._due.clear()
        self._look_at = None
        self._kill_at = time.monotonic() + limit_s
        self._order_all(order)

    def _order_all(self, order: Order) -> None:
        for worker in self._workers.values():
            worker.end.order(order)

    def _kill_late(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            for worker in self._workers.values():
                os.kill(worker.pid, signal.SIGKILL)

    # --- whether their loops turn

    def _plan_beat(self) -> None:
        beat_s = self._announcements.manager.beat_s
        self._beat_at = None if beat_s is None else time.monotonic() + beat_s

    def _beat_if_due(self) -> None:
        """Beats are counted and not seconds: when the whole machine was stopped, nobody is late."""
        if self._beat_at is None or time.monotonic() < self._beat_at:
            return
        self._plan_beat()
        ready = [worker for worker in self._workers.values() if worker.is_ready]
        if any(worker.silent_beats < _MOST_SILENT_BEATS for worker in ready):
            self._announcements.manager.turns()
        for worker in ready:
            # at the end `_kill_late()` has its own limit
            if worker.silent_beats >= _MOST_SILENT_BEATS and not self._is_ending:
                self._logger.error("worker_hung", pid=worker.pid)
                os.kill(worker.pid, signal.SIGKILL)
            worker.silent_beats += 1

    # --- the log, and new settings

    def _reopen_log(self) -> None:
        """Also while it ends: that may take long, and a file that was renamed is soon packed or deleted."""
        reopen_log(self._logger)
        self._order_all(Reopen())

    def _plan_look(self) -> None:
        every_s = self._settings.look_every_s
        self._look_at = None if every_s is None else time.monotonic() + every_s

    def _look_if_due(self) -> None:
        if self._look_at is not None and time.monotonic() >= self._look_at:
            self._give(self._settings.look())

    def _reload(self) -> None:
        if not self._is_ending:
            self._announcements.reloading()
            config = self._settings.reload()
            self._give(config)
            self._announcements.reloaded(is_taken=config is not None)

    def _give(self, config: Config | None) -> None:
        """Workers that are started later are forked with them."""
        if config is not None:
            self._order_all(Reload(config))
        self._plan_look()

    # --- what workers say

    def _listen_for_room(self) -> None:
        """Wait also for room in a channel to which there is more to say than it takes."""
        for worker in self._workers.values():
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.end.has_unsent else 0)
            if self._selector.get_key(worker.end.pipe).events != wanted:
                self._selector.modify(worker.end.pipe, wanted, partial(self._listen_to, worker))

    def _listen_to(self, worker: _Worker) -> None:
        worker.end.flush()
        for said in worker.end.hear():
            match said:
                case None:
                    self._bury(worker)
                case Word.READY, _:
                    worker.is_ready = self._has_served = True
                case Word.TURNS, _:
                    worker.silent_beats = 0
                case Word.DRAINING, in_flight:
                    worker.in_flight = in_flight
                case Word.ENDED, cut_off:
                    self._cut_off += cut_off
                case Word.REFUSED, _:
                    self._metrics.count_failed_reload()
        self._announce()

    def _announce(self) -> None:
        workers = self._workers.values()
        if self._phase is Phase.STARTING and len(workers) == self._count and all(w.is_ready for w in workers):
            self._phase = Phase.SERVING
            self._announcements.started(self._addresses.main.port)
            self._plan_beat()
        is_ending = self._is_ending and self._has_served
        if is_ending and not self._is_drain_announced and all(w.in_flight is not None for w in workers):
            self._is_drain_announced = True
            self._addresses.main.close()
            self._announcements.draining(self._signal, sum(w.in_flight or 0 for w in workers))

    def _bury(self, worker: _Worker) -> None:
        """Take note of a worker's death; have it replaced unless the end has come."""
        self._selector.unregister(worker.end.pipe)
        worker.end.pipe.close()
        _, status = os.waitpid(worker.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        del self._workers[worker.number]
        self._metrics.forget(worker.number)
        self._table.forget(worker.number)
        is_expected = self._is_ending
        if not is_expected and code and not self._has_served:
            # What stops the first worker stops them all, as it would stop a process without workers.
            self._exit_code = code if code > 0 else 128 - code
            self._end(Phase.ENDING, Now(), FAREWELL_S + MARGIN_S)
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
        longest_s = _LAST_PAUSE_S if self._workers else _FIRST_PAUSE_S  # else nobody would serve meanwhile
        pause = min(_FIRST_PAUSE_S * 2 ** (deaths - 1), longest_s) if is_young else 0.0
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
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._become_worker(number, theirs)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        worker = _Worker(number=number, pid=pid, end=SupervisorEnd(ours), started_at=time.monotonic())
        self._workers[number] = worker
        self._selector.register(ours, selectors.EVENT_READ, partial(self._listen_to, worker))

    def _become_worker(self, number: int, pipe: socket.socket) -> NoReturn:
        """Serve in a process that was just forked. What the supervisor has to do at its own end is not done here."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number_of_supervisor in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number_of_supervisor, signal.SIG_IGN)
            # Other workers must see the end of their channel when the supervisor dies, so nobody else may hold it.
            self._selector.close()
            for inherited in (*self._wakeups, *(worker.end.pipe for worker in self._workers.values())):
                inherited.close()
            self._metrics.use(number)
            self._table.use(number)
            code = uvloop.run(
                serve_supervised(
                    *(self._settings, self._logger, self._metrics, self._table, self._addresses, pipe),
                    self._announcements.manager.beat_s,
                )
            )
        finally:
            error = sys.exception()
            if error is not None:
                sys.excepthook(type(error), error, error.__traceback__)
            sys.stderr.flush()
            finish_log(self._logger)
            os._exit(code)


def _signals_as_bytes() -> tuple[socket.socket, socket.socket]:
    """Return a pair of sockets; from now on every signal in `_SIGNALS` is a byte that can be read from the first."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in _SIGNALS:
        # the number is written for signals that have a handler; that this one does nothing is enough
        signal.signal(number, lambda *_: None)
    return reader, writer
