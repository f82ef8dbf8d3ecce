"""
A run: replicas, the proxy, clients, trouble; then calm, and a look at what is left.

    everybody starts -> baseline -> clients ask while there is trouble -> calm -> breakers close -> all right again?
                                                                                -> counters and sockets as before?

What was found wrong is in `Report.problems`; nobody may read a report without looking there.
"""

import asyncio
import datetime
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos.clients import Clients, Questions
from tests.chaos.outcome import Kind
from tests.chaos.stage import Actor, Proxy, proxy_before
from tests.chaos.troubles import Pace, Troubles

#: Short, so that a run of minutes has many of them; all are the proxy's own settings.
SETTINGS: Final = {
    "WORKERS": "2",
    "PROXY_PROFILE": "vllm-mistral-tokenizer",
    "HEALTH_INTERVAL": "0.5",
    "EJECT_TIME": "0.5",
    "SLOW_START": "2",
    "CONNECT_TIMEOUT": "1",
    "FIRST_BYTE_TIMEOUT": "6",
    "BETWEEN_BYTES_TIMEOUT": "3",
    "WEDGE_TIMEOUT": "4",
    "KEEP_ALIVE": "1",
    "POOL_IDLE": "1",
    "LOG_LEVEL": "info",
}
#: What must be zero when nothing runs.
GAUGES: Final = ("in_flight_requests", "queued_requests", "buffered_bytes", "replica_in_flight")
_TOLD: Final = ("retries_total", "failovers_total", "worker_deaths_total", "replica_breaker_openings_total")
_LOOK_S: Final = 0.5
#: The longest pause of a breaker is a minute.
_CALM_S: Final = 150.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is like. `width` clients with `pause_s` between answers, `afterwards` questions at the end."""

    name: str
    seconds: float
    seed: int
    questions: Questions
    pace: Pace
    width: int
    pause_s: float
    afterwards: int
    settings: dict[str, str] = field(default_factory=dict)


@dataclass
class Report:
    """What was found; `as_json()` is for results.json."""

    plan: Plan
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": f"{platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}",
            "python": platform.python_version(),
            "replicas": self.plan.name,
            "seed": self.plan.seed,
            "seconds": self.plan.seconds,
            **self.facts,
            "problems": self.problems,
        }


async def run(plan: Plan, replicas: Sequence[Actor]) -> Report:
    """
    Run it. Every process is gone afterwards.

    Raises:
        RuntimeError: something did not start, at first or again.
    """
    logs = Path(tempfile.mkdtemp(prefix="devstral-proxy-chaos-"))
    proxy = Proxy(proxy_before([replica.url for replica in replicas], logs, {**SETTINGS, **plan.settings}))
    report = Report(plan)
    try:
        for replica in replicas:
            await replica.start()
        await proxy.start()
        await _play(plan, proxy, replicas, report)
    finally:
        for actor in (proxy, *replicas):
            await actor.end()
    if report.problems:
        report.problems.append(f"the proxy's log: {proxy.server.log}")
    else:
        shutil.rmtree(logs)
    return report


async def _play(plan: Plan, proxy: Proxy, replicas: Sequence[Actor], report: Report) -> None:
    async with Clients(proxy.url, plan.questions, plan.seed, plan.width, plan.pause_s) as before:
        await before.ask_so_often(2 * plan.width)
    _expect(report, not before.counts.bad, f"before any trouble: {before.counts.bad}")
    baseline = await _settled(proxy)
    troubles = Troubles(proxy, replicas, plan.seed, plan.pace)
    async with Clients(proxy.url, plan.questions, plan.seed + 1, plan.width, plan.pause_s) as clients:
        ended = asyncio.Event()
        asking = asyncio.create_task(clients.ask_until(ended))
        await troubles.run(plan.seconds)
        await troubles.calm()
        ended.set()
        await asking
    report.log = troubles.log
    await _look_at_the_end(plan, proxy, baseline, report)
    counts, metrics = clients.counts, await proxy.metrics()
    report.facts |= {
        "requests": counts.asked,
        **{kind.value: counts.outcomes[kind.value] for kind in Kind},
        "right_after_failover": counts.continued,
        "details": dict(sorted(counts.details.items())),
        "troubles": dict(sorted(troubles.done.items())),
        "metrics": {name: value for name, value in metrics.items() if name.startswith(_TOLD) and value},
    }
    report.problems += counts.bad
    _expect(report, sum(counts.outcomes.values()) == counts.asked, "a request without exactly one outcome")
    _expect(report, counts.outcomes["right"] > 0, "no answer was right")


async def _look_at_the_end(plan: Plan, proxy: Proxy, baseline: int, report: Report) -> None:
    """When everything is calm: breakers close, all new requests are right, and nothing is left over."""
    async with Clients(proxy.url, plan.questions, plan.seed + 2, plan.width, 0) as probing:
        closed = False
        started = time.monotonic()
        while not closed and time.monotonic() - started < _CALM_S:
            await probing.ask_so_often(plan.width)
            await asyncio.sleep(_LOOK_S)
            closed = _are_closed(await proxy.metrics())
        report.facts["calm_after_s"] = round(time.monotonic() - started, 1)
    _expect(report, closed, f"breakers that are not closed after {_CALM_S:.0f} s of calm")
    async with Clients(proxy.url, plan.questions, plan.seed + 3, plan.width, 0) as afterwards:
        await afterwards.ask_so_often(plan.afterwards)
    counts = afterwards.counts
    report.facts["afterwards"] = dict(counts.outcomes)
    _expect(report, counts.outcomes["right"] == plan.afterwards, f"afterwards: {counts.details} {counts.bad}")
    sockets = await _settled(proxy, baseline)
    metrics = await proxy.metrics()
    left = {name: value for name, value in metrics.items() if name.startswith(GAUGES) and value}
    report.facts |= {"sockets_before": baseline, "sockets_after": sockets, "gauges_left": left}
    _expect(report, bool(metrics) and not left, f"counters that are not zero: {left}")
    _expect(report, sockets <= baseline, f"{sockets} sockets are open, {baseline} were")


async def _settled(proxy: Proxy, wanted: int = 0) -> int:
    """Return how many sockets are open when idle ones are closed: the least that is seen in some seconds."""
    least = proxy.sockets()
    for _ in range(20 if wanted else 6):  # longer than the pool keeps idle ones
        if least <= wanted:
            break
        await asyncio.sleep(_LOOK_S)
        least = min(least, proxy.sockets())
    return least


def _are_closed(metrics: dict[str, float]) -> bool:
    breakers = {name: value for name, value in metrics.items() if name.startswith("replica_breaker{")}
    others = [value for name, value in breakers.items() if 'state="closed"' not in name]
    return bool(breakers) and not any(others)


def _expect(report: Report, holds: bool, problem: str) -> None:
    if not holds:
        report.problems.append(problem)
