"""deploy/multi-region: two regions' proxies behind HAProxy, as they stand there; a region drains, dies and returns."""

import asyncio
import contextlib
import re
import shutil
import signal
import tomllib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from tests.chaos.outcome import Kind
from tests.chaos.stage import Actor, scripted_replica
from tests.deploy.places import DEPLOY, LOCALHOST, Place, TlsProxy, ask, bare
from tests.live.servers import Server, free_port

FOLDER = DEPLOY / "multi-region"
REGIONS = ("eu", "us")
#: Generous: the machine may do something else.
DEADLINE_S = 60
#: How often a client asks, so that a look of the balancer (a second) has requests on both sides of it.
PAUSE_S = 0.02


def configured(region: str) -> dict[str, object]:
    return tomllib.loads((FOLDER / f"{region}.toml").read_text(encoding="utf-8"))


def test_both_regions_know_the_same_model_servers_and_prefer_their_own():
    eu, us = map(configured, REGIONS)

    assert eu["backends"] == us["backends"]
    assert (eu["zone"], us["zone"]) == ("eu,us", "us,eu")
    assert {name for name in eu if eu[name] != us[name]} == {"zone"}


def test_the_balancer_waits_longer_than_the_proxy_and_sees_it_leave_in_time():
    text = (FOLDER / "haproxy.cfg").read_text(encoding="utf-8")
    settings = configured("eu")
    [inter] = re.findall(r" inter (\d+)s", text)
    [fall] = re.findall(r" fall (\d+)", text)
    timeouts = {name: int(seconds) for name, seconds in re.findall(r"timeout (\S+) +(\d+)s", text)}

    assert int(inter) * int(fall) < settings["drain_delay_s"]
    assert timeouts["server"] > settings.get("first_byte_timeout_s", 300)
    assert "/readyz" in text


class Balancer(Actor):
    """HAProxy with the configuration of deploy/; it is there when it has accepted a connection."""

    def __init__(self, place: Place, near: TlsProxy, far: TlsProxy) -> None:
        port = free_port()
        environment = bare() | {
            "BIND": f"{LOCALHOST}:{port}",
            "CERT_FILE": str(place.folder / "pair.pem"),
            "CA_FILE": str(place.folder / "ca.crt"),
            "SERVER_NAME": "localhost",
            "NEAR_PROXY": near.url.removeprefix("https://"),
            "FAR_PROXY": far.url.removeprefix("https://"),
        }
        program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        if program is None:
            pytest.skip("haproxy is not installed (Debian: apt-get install haproxy)")
        command = [program, "-db", "-f", str(FOLDER / "haproxy.cfg")]
        super().__init__(
            Server(
                name="haproxy",
                command=command,
                environment=environment,
                url=f"https://{LOCALHOST}:{port}",
                log=place.folder / "haproxy.log",
                start_s=30,
            )
        )
        self._as_client = TlsProxy(self.server, place.trust)

    def is_healthy(self) -> bool:
        return self._as_client.status("/readyz") == 200


class World(NamedTuple):
    place: Place
    balancer: Balancer
    proxies: dict[str, TlsProxy]
    models: dict[str, list[Actor]]


@contextlib.asynccontextmanager
async def two_regions(folder: Path) -> AsyncIterator[World]:
    place = Place(folder)
    models = {region: [Actor(scripted_replica(folder)) for _ in range(2)] for region in REGIONS}
    urls = {
        f"https://vllm-{i + 1}.{region}.example.com:8443": model.url
        for region, there in models.items()
        for i, model in enumerate(there)
    }
    settings = {"WORKERS": "1", "HEALTH_INTERVAL": "0.5", "EJECT_TIME": "0.5", "SLOW_START": "1"}
    proxies = {region: place.proxy(FOLDER / f"{region}.toml", urls, **settings) for region in REGIONS}
    balancer = Balancer(place, proxies["eu"], proxies["us"])
    actors = [*(model for there in models.values() for model in there), *proxies.values(), balancer]
    try:
        for actor in actors:
            await actor.start()
        yield World(place, balancer, proxies, models)
    finally:
        for actor in reversed(actors):
            await actor.end()


class Asking:
    """Clients that ask through the balancer, one request after the other, until they are told to stop."""

    def __init__(self, world: World, session: aiohttp.ClientSession) -> None:
        self._world = world
        self._session = session
        self._ended = asyncio.Event()
        self.outcomes: Counter[Kind] = Counter()
        self.wrong: list[object] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Asking":
        self._tasks = [asyncio.create_task(self._client(1000 * i)) for i in range(3)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended.set()
        await asyncio.gather(*self._tasks)

    async def _client(self, number: int) -> None:
        while not self._ended.is_set():
            number += 1
            outcome = await ask(self._session, self._world.balancer.url, number, 5)
            self.outcomes[outcome.kind] += 1
            if outcome.kind is not Kind.RIGHT:
                self.wrong.append(outcome)
            await asyncio.sleep(PAUSE_S)

    async def until_more(self, region: str, more: int = 20) -> None:
        """Return when so many more lines of the balancer's log name this region's proxy."""
        async with asyncio.timeout(DEADLINE_S):
            before = self._served(region)
            while self._served(region) < before + more:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.1)

    def _served(self, region: str) -> int:
        name = "near" if region == "eu" else "far"
        return self._world.balancer.server.log.read_text().count(f" 200 proxies/{name} ")


async def test_no_request_fails_when_a_regions_proxy_drains_and_it_is_used_again(tmp_path):
    async with two_regions(tmp_path) as world, world.place.session() as session, Asking(world, session) as asking:
        await asking.until_more("eu")
        world.proxies["eu"].send(signal.SIGTERM)
        await asking.until_more("us")
        await world.proxies["eu"].ended()
        await world.proxies["eu"].start()
        await asking.until_more("eu")

    assert asking.wrong == []


async def test_no_request_fails_when_a_regions_cards_are_lost_and_its_proxy_goes_to_the_others(tmp_path):
    async with two_regions(tmp_path) as world, world.place.session() as session, Asking(world, session) as asking:
        await asking.until_more("eu")
        await asyncio.gather(*(model.kill() for model in world.models["eu"]))
        await asking.until_more("eu", 60)  # still the near proxy
        for model in world.models["eu"]:
            await model.start()
        await asking.until_more("eu", 60)

    assert asking.wrong == []


async def test_only_what_runs_there_breaks_when_a_region_is_lost_as_a_whole(tmp_path):
    """Three clients have one request each, so no more than three may break."""
    async with two_regions(tmp_path) as world, world.place.session() as session, Asking(world, session) as asking:
        await asking.until_more("eu")
        await asyncio.gather(*(each.kill() for each in (world.proxies["eu"], *world.models["eu"])))
        await asking.until_more("us", 40)
        for each in (*world.models["eu"], world.proxies["eu"]):
            await each.start()
        await asking.until_more("eu", 40)

    assert len(asking.wrong) <= 3, asking.wrong
