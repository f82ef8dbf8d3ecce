"""A process that holds leases until it is killed: `python -m tests.store.holder URL MOST`. Says when it has them."""

import asyncio
import sys

from proxy.store.shared import ValkeyStore
from proxy.store.valkey import open_link
from tests.store.charges import charge
from tests.store.conftest import Notes


async def main(url: str, most: int) -> None:
    notes = Notes()
    store = ValkeyStore(open_link(url, notes, notes.counts.append, 10.0))
    for _ in range(most):
        assert (await store.decide((charge(max_concurrent=most),), 0)).taken
    print("holding", flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
