"""What processes that are forked later share: rows of numbers, names, and a lock."""

import fcntl
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: The type code of the numbers, a double, and its size.
_NUMBER: Final = "d"
_NUMBER_BYTES: Final = 8
#: Rows begin at multiples of 128 bytes, so that no two workers write to one cache line.
_ROW_UNIT: Final = 16
#: The most bytes of a name, of a replica or a model.
LONGEST_NAME: Final = 128
#: What a label says of all that have no place of their own.
OTHER: Final = "other"


def shared_rows(count: int, size: int) -> list["memoryview[float]"]:
    """Return rows of zeros that processes forked later share with this one."""
    step = -(-size // _ROW_UNIT) * _ROW_UNIT
    numbers = memoryview(mmap.mmap(-1, count * step * _NUMBER_BYTES)).cast(_NUMBER)
    return [numbers[start : start + size] for start in range(0, count * step, step)]


class Names:
    """The names of a fixed number of places. Who writes one holds a lock; who reads one need not."""

    def __init__(self, places: int) -> None:
        self._letters: Final = mmap.mmap(-1, places * LONGEST_NAME)

    def has(self, place: int) -> bool:
        """Whether the place has a name."""
        return self._letters[place * LONGEST_NAME] != 0

    def get(self, place: int) -> str:
        """Return its name, "" if it has none."""
        start = place * LONGEST_NAME
        return self._letters[start : start + LONGEST_NAME].rstrip(b"\0").decode("utf-8", "replace")

    def give(self, place: int, name: bytes) -> None:
        """Name the place; `name` has from one byte to `LONGEST_NAME`."""
        start = place * LONGEST_NAME
        # who sees the first letter must see the others
        self._letters[start + 1 : start + LONGEST_NAME] = name[1:].ljust(LONGEST_NAME - 1, b"\0")
        self._letters[start] = name[0]


class SharedLock:
    """A lock between processes; the kernel opens it when one dies. Make it before forking."""

    def __init__(self) -> None:
        # A lock of a file is one between processes.
        self._file, path = tempfile.mkstemp()
        os.unlink(path)
        weakref.finalize(self, os.close, self._file)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for it, and hold it inside."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
