"""
Lines out of files and pipes: from the end backwards, and as they come.

A line is bytes without its newline. One that is longer than `LONGEST` comes in pieces, so that no file, whatever it
holds, has to fit into memory.
"""

import os
import stat
from collections.abc import Iterator
from typing import Final

#: Arbitrary: a line of the proxy has a few hundred bytes, and some thousand with a traceback.
LONGEST: Final = 1024 * 1024

_BLOCK: Final = 64 * 1024


class Splitter:
    """Cuts bytes that come in any pieces into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that end in `data`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST:
            lines.append(self.flush())
        return lines

    def flush(self) -> bytes:
        """Return what came after the last newline; it is taken for a line."""
        rest, self._rest = self._rest, b""
        return rest


def batches(fd: int) -> Iterator[list[bytes]]:
    """Yield the lines of a pipe, a terminal or a file, as many at a time as have come; wait for more, until its end."""
    splitter = Splitter()
    while data := os.read(fd, _BLOCK):
        yield splitter.feed(data)
    if rest := splitter.flush():
        yield [rest]


def is_seekable(fd: int) -> bool:
    """Whether the file can be read from its end."""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def lines_backwards(fd: int, end: int) -> Iterator[tuple[int, bytes]]:
    """
    Yield the lines of a file before the offset `end`, the last one first, each with its own offset.

    Reads no more than is asked for.
    """
    rest: bytes | None = None
    position = end
    while position > 0:
        start = max(0, position - _BLOCK)
        block = os.pread(fd, position - start, start)
        if len(block) < position - start:  # somebody has cut the file meanwhile
            return
        if position == end:
            block = block.removesuffix(b"\n")
        position = start
        whole = block + (rest or b"")
        rest, *lines = whole.split(b"\n")
        offset = start + len(whole)
        for line in reversed(lines):
            offset -= len(line)
            yield offset, line
            offset -= 1
        if len(rest) > LONGEST:
            yield start, rest
            rest = None
    if rest is not None:
        yield position, rest


def end_of_lines(fd: int) -> int:
    """Return the offset after the last newline of a file: what follows is a line that is being written."""
    position = os.fstat(fd).st_size
    while position > 0:
        start = max(0, position - _BLOCK)
        found = os.pread(fd, position - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0
