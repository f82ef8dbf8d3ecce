"""
Where log lines go: a file, or standard output, and what happens when it does not take them.

    file, terminal            one write(2) for a line; a failure costs the line
    pipe, socket              the same without waiting; what is not taken at once waits here, at most 1 MiB, and is
                              poured by a thread as the reader reads; more is dropped, and a line says how much

A program that reads a log and stops (a container runtime, `| less`) must not stop answers.
"""

import contextlib
import io
import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.config import ConfigError

_STDOUT: Final = 1
#: Arbitrary: some thousand lines.
_MOST_WAITING: Final = 1024 * 1024
#: How often a thread that pours looks whether it is still wanted.
_LOOK_MS: Final = 500


class Sink(io.FileIO):
    """
    A file whose failures and waits cost the line, not the request.

    Unbuffered and opened for appending, so that a line is one write(2) and several processes may share it.
    """

    def __init__(self, path: str) -> None:
        """
        `path` is the file's; "" is standard output.

        Raises:
            OSError: it cannot be opened for appending.
        """
        super().__init__(path or os.dup(_STDOUT), "ab")
        self.path = path
        self._waiting = _Waiting(self.fileno(), self._put)
        self._socket: socket.socket | None = None
        self._choose_way()

    def reopen(self) -> None:
        """
        Write to the file that has the name now.

        Raises:
            OSError: it cannot be opened; the old one stays.
        """
        if not self.path:
            return
        # Without waiting: a pipe that nobody reads would hold up this process until somebody does.
        opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
        # One step for the kernel, under the same number: a thread that writes meanwhile hits the old or the new file.
        os.dup2(opened, self.fileno(), inheritable=False)
        os.close(opened)

    def write(self, line: Any) -> int:
        """Write a line, or see to it that it is written; the length of it."""
        if self._waiting.is_empty:
            try:
                done = self._put(line)
            except OSError:
                return 0
            if done == len(line):
                return done
            self._waiting.begin(line[done:])
        else:
            self._waiting.add(line)
        return len(line)

    def finish(self, wait_s: float) -> None:
        """Give a reader that is slow so long to take what waits."""
        self._waiting.join(wait_s)

    def _put(self, data: bytes) -> int:
        """Write what is taken at once, and return how much that was."""
        if self._socket is None:
            return super().write(data) or 0  # None: it would have to wait
        with contextlib.suppress(BlockingIOError):
            return self._socket.send(data, socket.MSG_DONTWAIT)
        return 0

    def _choose_way(self) -> None:
        mode = os.fstat(self.fileno()).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(self.fileno()))
        elif stat.S_ISFIFO(mode):
            # A description of its own: O_NONBLOCK on the one that was inherited would hit other programs that have it.
            # Without /proc, or without a reader, writes wait or fail as they always did.
            with contextlib.suppress(OSError):
                opened = os.open(f"/proc/self/fd/{self.fileno()}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
                os.dup2(opened, self.fileno(), inheritable=False)
                os.close(opened)

    def __del__(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self.close()


class _Waiting:
    """Lines that a reader has not taken yet, and the thread that pours them. A forked process begins with none."""

    def __init__(self, number: int, put: Callable[[bytes], int]) -> None:
        self._number = number
        self._put = put
        self._pid = os.getpid()
        self._clear()

    def _clear(self) -> None:
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the next line may go out at once."""
        return self._thread is None

    def begin(self, rest: bytes) -> None:
        """Pour `rest`, the end of a line or the whole of it, and what is added meanwhile."""
        self._lines.append(rest)
        self._bytes = len(rest)
        self._thread = threading.Thread(target=self._pour, name="log", daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """Let a line wait behind the others, if there is room."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._clear()
        with self._lock:
            if self._thread is not None:
                self._append(line)
                return
        self.begin(line)

    def _append(self, line: bytes) -> None:
        if self._bytes + len(line) > _MOST_WAITING:
            self._dropped += 1
            return
        self._lines.append(line)
        self._bytes += len(line)

    def join(self, wait_s: float) -> None:
        """Wait until nothing waits, at most so long."""
        thread = self._thread
        if thread is not None and self._pid == os.getpid():
            thread.join(wait_s)

    def _pour(self) -> None:
        poll = select.poll()
        poll.register(self._number, select.POLLOUT)
        while True:
            with self._lock:
                if not self._lines:
                    if not self._dropped:
                        self._thread = None
                        return
                    line = _dropped_line(self._dropped)
                    self._lines.append(line)
                    self._bytes, self._dropped = len(line), 0
                line = self._lines[0]
            try:
                done = self._put(line)
            except OSError:  # nobody will read it
                done = len(line)
            if not done:
                poll.poll(_LOOK_MS)
            with self._lock:
                self._bytes -= done
                if done == len(line):
                    self._lines.popleft()
                else:
                    self._lines[0] = line[done:]


def _dropped_line(count: int) -> bytes:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    fields = {"lines": count, "pid": os.getpid(), "event": "log_lines_dropped", "level": "warning", "timestamp": now}
    return orjson.dumps(fields) + b"\n"


def open_sink(path: str) -> Sink:
    """
    Open the log that the setting `log_file` names; "" is standard output.

    Raises:
        ConfigError: it cannot be opened for appending.
    """
    check_log_file(path)
    try:
        return Sink(path)
    except OSError as exc:
        raise ConfigError(f"log_file: cannot open {path or 'standard output'}: {exc.strerror}") from None


def check_log_file(path: str) -> None:
    """
    Check that a log file can be created where `path` says; "" is standard output.

    Raises:
        ConfigError: its directory does not exist, or it is a directory itself.
    """
    if path and not Path(path).parent.is_dir():
        raise ConfigError(f"log_file: the directory {Path(path).parent} does not exist")
    if path and Path(path).is_dir():
        raise ConfigError(f"log_file: {path} is a directory")
