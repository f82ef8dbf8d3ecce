"""
The lines that are added to a file, by whatever file has its name.

    renamed and created anew   the old file is read on until it has been quiet for a while, the new one from its start:
                               the writers change over one by one
    cut to nothing             read from its start again, which is what logrotate's `copytruncate` and `>` do
    gone                       the old file is read on until there is another one
"""

import os
import time
from typing import Final

import msgspec

from proxy.tail.reading import Splitter

#: Arbitrary: logrotate sends its signal right after it has renamed the file, and then each process reopens it.
QUIET_S: Final = 5.0
_BLOCK: Final = 64 * 1024
#: Arbitrary: how many bytes of lines are held in memory at once.
_MOST: Final = 4 * 1024 * 1024
#: Bytes at the start of a file by which it is told from another one in its place: they hold the first request's id.
_MARK: Final = 128


class _Source(msgspec.Struct):
    """An open file, and how far it was read."""

    fd: int
    position: int
    splitter: Splitter
    mark: bytes
    read_at: float

    def read(self) -> list[bytes]:
        """Return the lines that have come since, some `_MOST` bytes of them at a time."""
        if self._is_cut():
            self.position, self.mark, self.splitter = 0, b"", Splitter()
        if len(self.mark) < _MARK:
            self.mark = os.pread(self.fd, _MARK, 0)
        lines = []
        last = self.position + _MOST
        while self.position < last and (data := os.pread(self.fd, _BLOCK, self.position)):
            self.position += len(data)
            self.read_at = time.monotonic()
            lines += self.splitter.feed(data)
        return lines

    def _is_cut(self) -> bool:
        # One that was cut and has grown past the old place since begins with something else.
        if os.fstat(self.fd).st_size < self.position:
            return True
        return os.pread(self.fd, len(self.mark), 0) != self.mark

    def is_at(self, path: str) -> bool | None:
        """Whether the file still has this name; None is that no file has."""
        try:
            there = os.stat(path)
        except OSError:
            return None
        return os.path.samestat(there, os.fstat(self.fd))


class Follower:
    """Follows a name; `poll()` from time to time."""

    def __init__(self, path: str, fd: int, position: int) -> None:
        """`fd` is the file that has the name now, read up to `position`; it belongs to the follower from now on."""
        self._path = path
        self._current = _source(fd, position)
        #: renamed, and perhaps still written to
        self._former: list[_Source] = []

    def poll(self) -> list[bytes]:
        """
        Return the lines that have come since the last call, in order within each file.

        None have come if there are none; else there may be more at once.
        """
        lines = [line for source in self._former for line in source.read()]
        lines += self._let_go()
        lines += self._current.read()
        if self._current.is_at(self._path) is False:
            lines += self._change_over()
        return lines

    def close(self) -> None:
        """Let go of all files."""
        for source in (*self._former, self._current):
            os.close(source.fd)

    def _change_over(self) -> list[bytes]:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:  # gone again, or not to be read yet: the next call sees
            return []
        self._current.read_at = time.monotonic()
        self._former.append(self._current)
        self._current = _source(fd, 0)
        return self._current.read()

    def _let_go(self) -> list[bytes]:
        """Close the files that have been quiet; return what they ended in without a newline."""
        now = time.monotonic()
        lines = []
        for source in [source for source in self._former if now - source.read_at > QUIET_S]:
            self._former.remove(source)
            os.close(source.fd)
            if rest := source.splitter.flush():
                lines.append(rest)
        return lines


def _source(fd: int, position: int) -> _Source:
    return _Source(fd, position, Splitter(), os.pread(fd, _MARK, 0), time.monotonic())
