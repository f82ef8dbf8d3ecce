"""What processes that are forked later share: rows of numbers, and a lock."""

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


def shared_rows(count: int, size: int) -> list["memoryview[float]"]:
    """Return rows of zeros that processes forked later share with this one."""
    step = -(-size // _ROW_UNIT) * _ROW_UNIT
    numbers = memoryview(mmap.mmap(-1, count * step * _NUMBER_BYTES)).cast(_NUMBER)
    return [numbers[start : start + size] for start in range(0, count * step, step)]


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
