"""
One process of several that ask the same store: `python -m tests.store.load URL RATE BURST_S SECONDS`.

Prints how many requests were admitted, and the times of the first and the last decision.
"""

import asyncio
import json
import sys
import time

from proxy.store.shared import ValkeyStore
from proxy.store.valkey import open_link
from tests.store.charges import charge
from tests.store.conftest import Notes

CALLERS = 16


async def main(url: str, rate: int, burst_s: float, seconds: float) -> None:
    notes = Notes()
    link = open_link(url, notes, notes.counts.append, 10.0)
    store = ValkeyStore(link)
    charges = (charge(requests_per_minute=rate, burst_s=burst_s),)
    admitted, times = 0, []

    async def ask() -> None:
        nonlocal admitted
        times.append(time.monotonic())
        while times[-1] < times[0] + seconds:
            decided = await store.decide(charges, 0)
            admitted += decided.taken is not None
            times.append(time.monotonic())

    await asyncio.gather(*(ask() for _ in range(CALLERS)))
    await link.close()
    print(json.dumps([admitted, len(times), min(times), max(times), notes.events]))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])))
