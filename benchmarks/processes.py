"""What processes use, from /proc: processor time and memory of a program and all that it started."""

import os
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")


class Memory(NamedTuple):
    """Megabytes; `proportional` counts a page that several processes share in parts, None where that is not told."""

    resident: float
    proportional: float | None


def tree(pid: int) -> list[int]:
    """Return `pid` and the processes below it."""
    children: dict[int, list[int]] = {}
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def cpu_us(pid: int) -> float:
    """Return the processor time of one process so far, user and system, of all its threads, in microseconds."""
    return sum(int(path.read_text().split()[0]) for path in (_PROC / str(pid) / "task").glob("*/schedstat")) / 1000


def tree_cpu_us(pid: int) -> float:
    """Return the same, with the processes below it."""
    return sum(cpu_us(each) for each in tree(pid))


def memory(pid: int) -> Memory:
    """Return what one process holds now."""
    resident = _kilobytes(_PROC / str(pid) / "status", "VmRSS:")
    try:
        return Memory(resident / 1024, _kilobytes(_PROC / str(pid) / "smaps_rollup", "Pss:") / 1024)
    except OSError:  # not every kernel has it, nor lets everybody read it
        return Memory(resident / 1024, None)


def spread(pid: int) -> None:
    """Let a process and those below it use every processor that this one may use."""
    for each in tree(pid):
        for task in (_PROC / str(each) / "task").iterdir():
            os.sched_setaffinity(int(task.name), os.sched_getaffinity(0))


def _kilobytes(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name))
