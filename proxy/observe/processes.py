"""What the system says about this program's processes, under the names that every Prometheus client gives."""

import platform
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.observe.exposition import PREFIX

#: Which process: `supervisor`, or the number of a worker.
PROCESS: Final = "process"
#: Name and meaning; the collector of prometheus-client has them too, on Linux alone.
ABOUT: Final = {
    "process_cpu_seconds_total": "Processor time that it has used, user and system.",
    "process_resident_memory_bytes": "Its memory that is not swapped out; what processes share is in each.",
    "process_virtual_memory_bytes": "Its address space.",
    "process_open_fds": "Its open files and sockets.",
    "process_max_fds": "How many of them it may have.",
    "process_start_time_seconds": "When it was started, in Unix time.",
}


def processes(pids: Mapping[str, int]) -> bytes:
    """Return what is known of these processes, and of the program, as text."""
    return generate_latest(_Scrape(pids))


class _Scrape(Collector):
    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(f"{PREFIX}build_info", "1, with what runs here.", labels=("version", "python"))
        info.add_metric((__version__, platform.python_version()), 1)
        yield info
        yield from _of_processes(self._pids)


def _of_processes(pids: Mapping[str, int]) -> Iterator[Metric]:
    """A process that has just ended has no numbers."""
    told: dict[str, Metric] = {}
    for name, pid in pids.items():
        for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            told.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                told[metric.name].add_sample(sample.name, {PROCESS: name}, sample.value)
    yield from told.values()
