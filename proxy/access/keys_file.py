"""
The file of keys: read, changed and written whole.

    lock FILE.lock -> read FILE -> change -> write a new file beside it -> rename it to FILE -> unlock

A reader sees the old file or the new one, never a half of either, and two who change it at once wait for each other.
The lock is a file of its own, because the rename replaces the one that holds the keys.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from proxy.access.keys import Entry, decode_entries, encode_entries
from proxy.config import ConfigError

T = TypeVar("T")

#: From what the file keeps to what it shall keep, and something for the caller.
Change = Callable[[tuple[Entry, ...]], tuple[tuple[Entry, ...], T]]

#: Who may read or write it is its owner; a group that was allowed to read it, as the proxy's may be, still is.
_MODE: Final = 0o600
_KEPT_MODE: Final = 0o040


def read_entries(path: str) -> tuple[Entry, ...]:
    """
    Return what the file keeps; nothing if there is no such file.

    Raises:
        ConfigError: it cannot be read, or is not a file of keys. The text names the path and quotes nothing.
    """
    with _explained(path):
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ()
        return decode_entries(text)


def change_entries(path: str, change: Change[T]) -> T:
    """
    Replace what the file keeps by what `change` makes of it; return what else that gives. A missing file is created.

    What `change` raises leaves everything as it was.

    Raises:
        ConfigError: the file cannot be read or written, or is not a file of keys.
    """
    # A symbolic link stays one: what it points to is replaced.
    target = os.path.realpath(path)
    with _explained(path):
        lock = _locked(target + ".lock")
    try:
        after, result = change(read_entries(target))
        with _explained(path):
            _write(target, encode_entries(after))
        return result
    finally:
        os.close(lock)


def _locked(path: str) -> int:
    """Return the open lock, when it is ours. Closing it gives it back, and so does the end of the process."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _write(target: str, text: str) -> None:
    new = f"{target}.{os.urandom(6).hex()}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            _take_over_rights(file.fileno(), target)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        raise
    _sync_folder(os.path.dirname(target))


def _take_over_rights(descriptor: int, target: str) -> None:
    """Give a new file the owner of the one that it replaces: root adds keys, and the proxy, as another user, reads."""
    try:
        before = os.stat(target)
    except FileNotFoundError:
        return
    if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, _MODE | stat.S_IMODE(before.st_mode) & _KEPT_MODE)


def _sync_folder(path: str) -> None:
    """Have the rename on the disk, so that a key that was shown is there after a power cut."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except OSError as exc:
        raise ConfigError(f"cannot use {path}: {exc.strerror or type(exc).__name__}") from None
    except UnicodeError:
        raise ConfigError(f"{path}: not a file of UTF-8 text") from None
    except ValueError as exc:
        raise ConfigError(f"{path}: {exc}") from None
