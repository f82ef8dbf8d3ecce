"""The accounts of several instances in one real server: exact, all or nothing, and nothing left by who was killed."""

import asyncio
import contextlib
import json
import sys
from collections import Counter

import pytest

from proxy.store import shared
from proxy.store.decision import Charge, Scope
from proxy.store.gcra import Limit
from proxy.store.scripts import CLOCK, DECIDE, LEASE_S
from proxy.store.shared import ValkeyStore, arguments_of, keys_of
from proxy.store.standing import StoreDown
from proxy.store.valkey import Script, ValkeyLink
from tests.store.charges import charge
from tests.store.conftest import Notes
from tests.store.servers import DEADLINE_S, StoreServer


async def settled(store: ValkeyStore) -> None:
    """Return when what was posted has been sent: a script after it has been answered."""
    await store.decide((charge("nobody", requests_per_minute=1000),), 0)


async def run(module: str, *arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *map(str, arguments)), stdout=asyncio.subprocess.PIPE
    )


async def test_eight_processes_and_one_key_never_admit_more_than_the_limit(server: StoreServer):
    rate, burst_s, seconds = 6_000, 2.0, 2.0
    processes = [await run("tests.store.load", server.url, rate, burst_s, seconds) for _ in range(8)]
    rows = [json.loads((await process.communicate())[0]) for process in processes]
    admitted = sum(row[0] for row in rows)
    elapsed_s = max(row[3] for row in rows) - min(row[2] for row in rows)

    assert admitted <= (rate * burst_s / 60 + rate / 60 * elapsed_s) * 1.01
    assert admitted >= rate * burst_s / 60 + rate / 60 * seconds * 0.5
    assert [row[4] for row in rows] == [[]] * 8


async def test_a_request_is_charged_to_all_accounts_or_to_none(store: ValkeyStore):
    wide, narrow = charge("wide", requests_per_minute=6), charge("narrow", Scope.MODEL, max_concurrent=1)
    await store.decide((narrow,), 0)
    refused = await store.decide((wide, narrow), 0)

    assert (refused.refusal.scope, refused.refusal.limit) == (Scope.MODEL, Limit.CONCURRENT)
    assert (await store.decide((wide,), 0)).taken is not None


async def test_what_a_request_used_is_put_right(store: ValkeyStore):
    account = charge(tokens_per_minute=1000, tokens_per_day=5000)
    less, more = (await store.decide((account,), 400)).taken, (await store.decide((account,), 400)).taken
    store.settle(less, 100)
    store.settle(more, 700)
    await settled(store)
    refusal = (await store.decide((account,), 900)).refusal

    assert refusal.limit is Limit.TOKENS
    assert refusal.used == pytest.approx(800, abs=20)  # some flows off meanwhile
    assert (await store.decide((account,), 4_300)).refusal.limit is Limit.TOKENS


async def test_a_lease_is_given_back_once(store: ValkeyStore):
    account = charge(max_concurrent=2)
    first, _ = (await store.decide((account,), 0)).taken, (await store.decide((account,), 0)).taken

    assert (await store.decide((account,), 0)).refusal.limit is Limit.CONCURRENT

    for _ in range(2):
        store.release(first)
    await settled(store)

    assert (await store.decide((account,), 0)).taken is not None
    assert (await store.decide((account,), 0)).taken is None


async def test_the_leases_of_a_killed_process_end(link: ValkeyLink, server: StoreServer):
    most = 50
    holder = await run("tests.store.holder", server.url, most)
    async with asyncio.timeout(DEADLINE_S):
        assert await holder.stdout.readline() == b"holding\n"
    holder.kill()
    await holder.communicate()
    charges = (charge(max_concurrent=most),)
    later = Script(f"{CLOCK}now = now + {LEASE_S}\n{DECIDE}")

    now = await ValkeyStore(link).decide(charges, 0)
    assert now.refusal.used == most
    # nothing waits for 30 s here: the same script, with a clock that is so much ahead
    assert (await link.script(later, keys_of(charges), arguments_of(charges, 0, b"x")))[0] == 1


async def test_the_leases_of_running_requests_are_renewed(store: ValkeyStore, server: StoreServer, monkeypatch):
    monkeypatch.setattr(shared, "_RENEW_EVERY_S", 0.05)
    account = charge(max_concurrent=2)
    taken = (await store.decide((account,), 0)).taken
    [_, key] = keys_of((account,))

    async def end_s() -> float:
        reply = await server.run("ZSCORE", key.decode(), taken.lease.decode())
        return float(reply.split(b"\r\n")[1])

    before_s = await end_s()
    async with asyncio.timeout(DEADLINE_S):
        while await end_s() < before_s + 0.1:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


async def test_a_client_that_leaves_while_it_is_decided_leaves_no_lease(store: ValkeyStore):
    account = charge(max_concurrent=1)
    call = asyncio.ensure_future(store.decide((account,), 0))
    await asyncio.sleep(0)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    await settled(store)

    assert (await store.decide((account,), 0)).taken is not None


async def test_a_decision_that_came_too_late_leaves_no_lease(store: ValkeyStore, server: StoreServer):
    account = charge(max_concurrent=1)
    await settled(store)  # by now the server knows the script
    server.hold()
    with pytest.raises(StoreDown):
        await store.decide((account,), 0)
    server.go_on()  # and it decides what still stands in its socket

    async with asyncio.timeout(LEASE_S / 2):
        while not await _is_admitted(store, account):  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)


async def _is_admitted(store: ValkeyStore, account: Charge) -> bool:
    try:
        return (await store.decide((account,), 0)).taken is not None
    except StoreDown:
        return False


@pytest.mark.parametrize("trouble", ["stopped", "restarted"])
async def test_every_request_under_load_has_an_outcome_while_the_server_is(
    store: ValkeyStore, server: StoreServer, notes: Notes, trouble: str
):
    outcomes: Counter[str] = Counter()
    ends = asyncio.Event()
    charges = (charge(requests_per_minute=60_000, tokens_per_minute=10**6, max_concurrent=1000),)

    async def ask() -> None:
        while not ends.is_set():
            try:
                decided = await store.decide(charges, 10)
            except StoreDown:
                outcomes["down"] += 1
                await asyncio.sleep(0.01)
            else:
                outcomes["admitted" if decided.taken else "refused"] += 1
                if decided.taken:
                    store.settle(decided.taken, 20)
                    store.release(decided.taken)

    async def answers() -> None:
        before = outcomes["admitted"]
        async with asyncio.timeout(DEADLINE_S):
            while outcomes["admitted"] < before + 100:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)

    callers = [asyncio.ensure_future(ask()) for _ in range(32)]
    await answers()
    if trouble == "stopped":
        server.hold()
        await asyncio.sleep(0.6)
        server.go_on()
    else:
        server.kill()
        await server.start()
    await answers()
    ends.set()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*callers)

    if trouble == "stopped":  # a restart may be over before anybody asks
        assert outcomes["down"] >= 1
    # On a busy machine one more answer may be late.
    assert notes.events == ["store_down", "store_up"] * (len(notes.events) // 2)


async def test_every_key_has_an_expiry(store: ValkeyStore, server: StoreServer):
    rates = {"requests_per_minute": 60, "tokens_per_minute": 100, "tokens_per_day": 1000, "max_concurrent": 5}
    charges = (charge("a", **rates), charge("b", Scope.PRINCIPAL_MODEL, **rates), charge("c", Scope.MODEL, **rates))
    taken = (await store.decide(charges, 10)).taken
    store.settle(taken, 50)
    await settled(store)
    keys = [line for line in (await server.run("KEYS", "*")).split(b"\r\n") if line.startswith(b"devstral")]

    assert len(keys) == 7
    assert all([await server.number("PTTL", key.decode()) > 0 for key in keys])
    assert not [key for key in keys if b"alice" in key]
