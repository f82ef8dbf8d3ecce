"""deploy/edge/proxy.toml: it starts, serves over TLS with a key, and keeps within the memory that the text says."""

import asyncio
import re
import tomllib
from pathlib import Path

import pytest

from proxy.config import SETTINGS
from tests.chaos.outcome import Kind
from tests.chaos.stage import Actor, scripted_replica
from tests.deploy.places import DEPLOY, Place, ask

PROFILE = DEPLOY / "edge" / "proxy.toml"
URL = "https://gpu.example.com/v1"
STREAMS = 64


def resident_mb(pid: int, name: str = "VmRSS") -> float:
    [kib] = re.findall(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(kib) * 1024 / 1e6


def claimed_mb(what: str) -> float:
    """Return a figure of the table in deploy/README.md."""
    [mb] = re.findall(rf"^\| {re.escape(what)} \| (\d+) MB \|", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    return float(mb)


def test_every_setting_has_a_line_that_says_why():
    lines = PROFILE.read_text(encoding="utf-8").splitlines()
    tops = [i for i, line in enumerate(lines) if re.match(r"\w+ = ", line)]

    assert all(lines[i - 1].startswith("#") or i - 1 in tops for i in tops)
    assert set(tomllib.loads(PROFILE.read_text())) - {"backends"} <= {
        key for row in SETTINGS.values() for key in row.keys
    }


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
async def test_it_serves_as_many_streams_as_it_allows_within_the_memory_that_is_written_down(tmp_path):
    place = Place(tmp_path)
    model = Actor(scripted_replica(tmp_path))
    proxy = place.proxy(PROFILE, {URL: model.url})
    try:
        await model.start()
        await proxy.start()
        idle = resident_mb(proxy.pid)
        async with place.session() as session:
            outcomes = await asyncio.gather(*(ask(session, proxy.url, n, 40, 0.05) for n in range(STREAMS)))
            async with session.get(f"{proxy.url}/ui") as response:
                assert response.status == 404
        peak = resident_mb(proxy.pid, "VmHWM")
        print(f"idle {idle:.1f} MB, peak {peak:.1f} MB, {proxy.children()=}")
    finally:
        await proxy.end()
        await model.end()

    assert {outcome.kind for outcome in outcomes} == {Kind.RIGHT}, outcomes
    # A fifth more, for other libraries and another allocator.
    assert idle <= 1.2 * claimed_mb("just started")
    assert peak <= 1.2 * claimed_mb(f"{STREAMS} streams over TLS")


async def test_a_client_without_a_key_gets_nothing(tmp_path):
    place = Place(tmp_path)
    model = Actor(scripted_replica(tmp_path))
    proxy = place.proxy(PROFILE, {URL: model.url})
    try:
        await model.start()
        await proxy.start()
        other = {"Authorization": "Bearer no"}
        async with place.session() as session, session.get(f"{proxy.url}/v1/models", headers=other) as response:
            assert response.status == 401
    finally:
        await proxy.end()
        await model.end()
