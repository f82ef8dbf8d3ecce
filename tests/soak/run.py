"""
A soak: many requests through one worker, some clients leave, streams stay open all the while; nothing may grow.

    baseline -> streams open -> requests, a sample every few seconds -> streams end -> everything as in the baseline?

Bounded twice: by the number of requests, and by time, after which no more are sent and the run fails.
What was found wrong is in `Report.problems`.
"""

import asyncio
import contextlib
import datetime
import os
import platform
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import cpu_us, memory
from tests.chaos.model import Asked
from tests.chaos.run import GAUGES
from tests.chaos.stage import Actor, Proxy, proxy_before, scripted_replica
from tests.soak.clients import Client, Tally

#: Of one worker. The bounds leave room for the streams and the clients; the log is not what is soaked.
SETTINGS: Final = {"WORKERS": "1", "PROXY_PROFILE": "vllm-mistral-tokenizer", "FIRST_BYTE_TIMEOUT": "60"}
#: The first requests fill pools, caches and free lists: what grows then need not grow on.
WARM_UP: Final = 20_000
#: More than this in 10,000 requests after the warm-up is a leak of 100 bytes for each request.
MOST_MB: Final = 1.0
_SAMPLE_S: Final = 2.0
_LOOK_S: Final = 0.5
_SETTLE_S: Final = 20.0
#: How often, and for how long, the proxy is asked for the number of its tasks.
_ASKED_AT_MOST: Final = 5
_ANSWER_S: Final = 5.0
_LEAVING: Final = 0.1
_BUCKET: Final = "event_loop_lag_seconds_bucket"
_LAG: Final = ("event_loop_lag_seconds_sum", "event_loop_lag_seconds_count")
_LEFT_PAUSE_S: Final = 0.01
#: One that lasts a minute with `event_s` 5.
_STREAM_WORDS: Final = 12
#: The share of the streams that are open at any moment: one that has ended is followed by another.
_MOST_OPEN: Final = 0.9


@dataclass(frozen=True, kw_only=True)
class Plan:
    """So many requests by so many clients, beside so many streams that last; all in `limit_s` seconds at the most."""

    requests: int = 100_000
    clients: int = 24
    streams: int = 500
    event_s: float = 5.0
    seed: int = 1
    limit_s: float = 900.0


@dataclass(frozen=True)
class Sample:
    """What the proxy holds after so many requests."""

    requests: int
    resident_mb: float
    files: int
    tasks: int
    in_flight: float


@dataclass
class Report:
    """What was found; `as_json()` is for results.json."""

    plan: Plan
    facts: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data, with few of the samples."""
        few = self.samples[:: max(1, len(self.samples) // 12)]
        return {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}",
            "python": platform.python_version(),
            "plan": asdict(self.plan),
            **self.facts,
            "samples": [asdict(sample) for sample in few],
            "problems": self.problems,
        }


async def run(plan: Plan) -> Report:
    """
    Run it. Every process is gone afterwards.

    Raises:
        RuntimeError: something did not start.
    """
    with tempfile.TemporaryDirectory(prefix="devstral-proxy-soak-") as folder:
        replica = Actor(scripted_replica(Path(folder)))
        tasks = Path(folder) / "tasks"
        settings = {**SETTINGS, "SOAK_TASKS": str(tasks)}
        proxy = Proxy(proxy_before([replica.url], Path(folder), settings, "tests.soak.watched"))
        try:
            await replica.start()
            await proxy.start()
            return await _Soak(plan, proxy, tasks).run()
        finally:
            await proxy.end()
            await replica.end()


class _Soak:
    def __init__(self, plan: Plan, proxy: Proxy, tasks: Path) -> None:
        self._plan = plan
        self._proxy = proxy
        self._tasks = tasks
        self._port = int(proxy.url.rpartition(":")[2])
        self._rng = random.Random(plan.seed)
        self._report = Report(plan)
        self._short, self._long = Tally(), Tally()
        self._streams_end = asyncio.Event()

    async def run(self) -> Report:
        first = Client(self._port, self._rng, Tally())
        await self._ask(first, 0, leaves=False)
        await first.close()
        baseline = await self._settled(None)
        streams = asyncio.create_task(self._hold_streams())
        await self._streams_open()
        cpu_before, started = cpu_us(self._proxy.pid), time.monotonic()
        sampling = asyncio.create_task(self._sample_on())
        try:
            async with asyncio.timeout(self._plan.limit_s):
                await self._ask_all()
        except TimeoutError:
            self._expect(False, f"only {self._short.sent} requests in {self._plan.limit_s:g} s")
        took_s = time.monotonic() - started
        sampling.cancel()
        peak = await self._sample()
        cpu_s = (cpu_us(self._proxy.pid) - cpu_before) / 1e6
        self._streams_end.set()
        await streams
        self._look_at(baseline, peak, await self._settled(baseline), await self._proxy.metrics())
        self._report.facts |= {
            "lag_over_s": lags_over(await self._proxy.metrics()),
            "seconds": round(took_s, 1),
            "requests_per_s": round(self._short.sent / took_s),
            "proxy_cpu_share": round(cpu_s / took_s, 2),
        }
        return self._report

    # --- load

    async def _ask_all(self) -> None:
        numbers = iter(range(1, self._plan.requests + 1))

        async def client() -> None:
            one = Client(self._port, self._rng, self._short)
            for number in numbers:
                await self._ask(one, number, leaves=self._rng.random() < _LEAVING)
            await one.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(self._plan.clients):
                group.create_task(client())

    async def _ask(self, client: Client, number: int, *, leaves: bool) -> None:
        # an answer that is left must last, or it would be over before its client is gone
        asked = Asked(number, self._rng.randint(1, 20), _LEFT_PAUSE_S if leaves else 0.0)
        await client.ask(asked, is_stream=self._rng.random() < 0.5, leaves=leaves)

    async def _hold_streams(self) -> None:
        """Keep so many streams open until `_streams_end`: one that comes to its end is followed by another."""

        async def hold(number: int) -> None:
            client = Client(self._port, self._rng, self._long)
            await asyncio.sleep(self._rng.uniform(0, min(2.0, self._plan.event_s)))
            while not self._streams_end.is_set():
                await client.ask(Asked(number, _STREAM_WORDS, self._plan.event_s), is_stream=True)
            await client.close()

        await asyncio.gather(*(hold(10**9 + number) for number in range(self._plan.streams)))

    async def _streams_open(self) -> None:
        started = time.monotonic()
        while (await self._proxy.metrics()).get("in_flight_requests", 0) < self._plan.streams * _MOST_OPEN:
            if time.monotonic() - started > _SETTLE_S:
                self._expect(False, "the streams did not open")
                return
            await asyncio.sleep(_LOOK_S)

    # --- what the proxy holds

    async def _sample_on(self) -> None:
        while True:
            await asyncio.sleep(_SAMPLE_S)
            self._report.samples.append(await self._sample())

    async def _sample(self) -> Sample:
        pid, requests = self._proxy.pid, self._short.sent
        metrics = await self._proxy.metrics()
        files = self._proxy.files()
        in_flight = metrics.get("in_flight_requests", -1.0)
        return Sample(requests, memory(pid).resident, files, await self._count_tasks(), in_flight)

    async def _count_tasks(self) -> int:
        """Ask until it is told: a signal that comes while the proxy handles another exception may be lost."""
        self._tasks.unlink(missing_ok=True)
        for _ in range(_ASKED_AT_MOST):
            os.kill(self._proxy.pid, signal.SIGUSR2)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    while not self._tasks.exists():  # noqa: ASYNC110 - another process writes it
                        await asyncio.sleep(0.01)
                    return int(self._tasks.read_text())
        running = "runs" if self._proxy.is_running else "has ended"
        last = self._proxy.server.log.read_text(errors="replace")[-2_000:]
        raise RuntimeError(f"the proxy {running} and does not tell its tasks; its log ends in:\n{last}")

    async def _settled(self, baseline: Sample | None) -> Sample:
        """Return what is held when nothing runs: the least of some seconds, or what is no more than `baseline`."""
        least = await self._sample()
        started = time.monotonic()
        while time.monotonic() - started < (_SETTLE_S if baseline else 4.5):  # longer than the pool keeps idle ones
            if baseline and least.files <= baseline.files and least.tasks <= baseline.tasks and not least.in_flight:
                break
            await asyncio.sleep(_LOOK_S)
            now = await self._sample()
            files, tasks = min(least.files, now.files), min(least.tasks, now.tasks)
            least = Sample(now.requests, now.resident_mb, files, tasks, now.in_flight)
        return least

    # --- what is wrong

    def _look_at(self, baseline: Sample, peak: Sample, after: Sample, metrics: dict[str, float]) -> None:
        left = {name: value for name, value in metrics.items() if name.startswith(GAUGES) and value}
        grown = slope(self._report.samples)
        self._report.facts |= {
            "requests": {"sent": self._short.sent, **self._short.kinds},
            "streams": {"sent": self._long.sent, **self._long.kinds},
            "mb_per_10000_requests": None if grown is None else round(grown, 3),
            "baseline": asdict(baseline),
            "with_streams": asdict(peak),
            "afterwards": asdict(after),
            "gauges_left": left,
            "counted": {name: metrics.get(name) for name in ("client_disconnects_total", *_LAG)},
        }
        self._expect(not self._short.bad and not self._long.bad, f"{self._short.bad + self._long.bad}")
        self._expect(sum(self._short.kinds.values()) == self._short.sent, "a request without exactly one outcome")
        self._expect(grown is None or grown <= MOST_MB, f"memory grows by {grown} MB in 10,000 requests")
        self._expect(peak.in_flight >= self._plan.streams * _MOST_OPEN, f"only {peak.in_flight} requests were open")
        self._expect(after.files <= baseline.files, f"{after.files} files are open, {baseline.files} were")
        self._expect(after.tasks <= baseline.tasks, f"{after.tasks} tasks are left, {baseline.tasks} were")
        self._expect(bool(metrics) and not left, f"counters that are not zero: {left}")

    def _expect(self, holds: bool, problem: str) -> None:
        if not holds:
            self._report.problems.append(problem)


def lags_over(metrics: dict[str, float]) -> dict[str, float]:
    """Return the cumulative buckets of the event loop's lag: what was slow because the machine was."""
    return {name[len(_BUCKET) :]: value for name, value in metrics.items() if name.startswith(_BUCKET)}


def slope(samples: Sequence[Sample], warm_up: int = WARM_UP) -> float | None:
    """Return by how many MB memory grows in 10,000 requests after the warm-up: least squares; None for too few."""
    points = [(sample.requests / 10_000, sample.resident_mb) for sample in samples if sample.requests >= warm_up]
    if len(points) < 3 or points[0][0] == points[-1][0]:
        return None
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / sum((x - middle_x) ** 2 for x, _ in points)
