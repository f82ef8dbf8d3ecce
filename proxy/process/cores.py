"""How many cores this process may use, which is how many workers it starts unless it is told."""

import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

Reader = Callable[[str], str]


def available_cores() -> int:
    """
    Return the cores that this process may use, at least 1: its affinity, and the CPU quota of its control groups.

    Outside Linux it is 1: other kernels have SO_REUSEPORT too, but give all connections to one of the sockets.
    """
    if sys.platform != "linux":
        return 1
    return cores_within(len(os.sched_getaffinity(0)), cpu_quota(_read))


def cores_within(cores: int, quota: float) -> int:
    """
    Return how many of `cores` a quota, in cores, can keep busy; at least 1.

    A part of a core counts as one, so that none of the quota is left unused.
    """
    return max(1, math.ceil(min(cores, quota)))


def cpu_quota(read: Reader) -> float:
    """
    Return the cores that the control groups of this process allow it, `inf` without a limit.

    Every group on the way up may have a limit, and the lowest counts. In a container the path of the group is often
    the host's; what is not mounted is skipped, and the mount's own root is always looked at.
    """
    quotas = [_quota_v2(read, folder) for folder in _folders(read, "", "/sys/fs/cgroup")]
    quotas += [_quota_v1(read, folder) for folder in _folders(read, "cpu", "/sys/fs/cgroup/cpu")]
    return min(quotas, default=math.inf)


def _folders(read: Reader, controller: str, mount: str) -> Iterator[str]:
    """Yield the folder of this process's group and of every group above it; the controller "" is version 2."""
    for line in _text(read, "/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            group = PurePosixPath(path)
            yield from (f"{mount}{str(folder).rstrip('/')}" for folder in (group, *group.parents))


def _quota_v2(read: Reader, folder: str) -> float:
    """`cpu.max` is `QUOTA PERIOD` in µs, or `max PERIOD`."""
    quota, _, period = _text(read, f"{folder}/cpu.max").partition(" ")
    return _ratio(quota, period)


def _quota_v1(read: Reader, folder: str) -> float:
    """The quota of version 1 is -1 where there is none."""
    return _ratio(_text(read, f"{folder}/cpu.cfs_quota_us"), _text(read, f"{folder}/cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float:
    is_limit = quota.strip().isdecimal() and period.strip().isdecimal() and int(quota) and int(period)
    return int(quota) / int(period) if is_limit else math.inf


def _text(read: Reader, path: str) -> str:
    try:
        return read(path)
    except (OSError, ValueError):
        return ""


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")
