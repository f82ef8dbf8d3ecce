"""How many workers there are when nobody says: from the files that the kernel shows."""

import math
import os
import sys

import pytest

from proxy.process.cores import available_cores, cores_within, cpu_quota

V2 = "0::/kubepods/pod1/main\n"
V1 = "12:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n"


def quota(**files):
    """The quota, by the only files there are."""

    def read(path):
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    return cpu_quota(read)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "nonsense"}, math.inf),
        # the lowest limit on the way up
        (
            {
                "/proc/self/cgroup": V2,
                "/sys/fs/cgroup/kubepods/pod1/main/cpu.max": "400000 100000",
                "/sys/fs/cgroup/kubepods/pod1/cpu.max": "200000 100000",
                "/sys/fs/cgroup/kubepods/cpu.max": "max 100000",
            },
            2,
        ),
        # the path is the host's, and only the mount's root is there
        ({"/proc/self/cgroup": V2, "/sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        # version 1
        (
            {
                "/proc/self/cgroup": V1,
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                "/proc/self/cgroup": V1,
                "/sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us": "100000\n",
            },
            math.inf,
        ),
    ],
)
def test_the_quota_is_the_lowest_of_all_control_groups(files, expected):
    assert quota(**files) == expected


@pytest.mark.parametrize(
    ("cores", "limit", "expected"),
    [(8, math.inf, 8), (8, 2, 2), (8, 1.5, 2), (8, 0.5, 1), (2, 64, 2), (1, math.inf, 1)],
)
def test_a_worker_for_each_core_that_the_quota_can_keep_busy(cores, limit, expected):
    assert cores_within(cores, limit) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_here_there_is_at_least_one_and_no_more_than_this_process_may_use():
    assert 1 <= available_cores() <= len(os.sched_getaffinity(0))
