"""The metrics' own listener: what it answers, who may read, and what becomes of it while processes come and go."""

import asyncio
import contextlib
import os
import signal

import aiohttp
import pytest

from tests.edge.test_serve import run_proxy
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, completion, event, text_chunk, whole
from tests.observe.told import samples_of
from tests.process.conftest import DEADLINE_S, Group, ended, running, until
from tests.process.test_workers import until_all_serve

BEGIN = [STREAM_HEAD, event(text_chunk("", role="assistant")), event(text_chunk("a"))]
END = [event(text_chunk("", finish="stop")), DONE, STREAM_END]
NOBODY = {"VLLM_BASE": "http://127.0.0.1:1"}
KEY = "sk-0123456789abcdef"


async def status_of(url, **headers):
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        await response.read()
        return response.status


async def scraped(port):
    """Scrape on a connection of its own; return a function from a sample's name and labels to its value."""
    url = f"http://127.0.0.1:{port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        samples = samples_of(await response.text())
    values = {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}

    def value(name, **labels):
        full = name if name.startswith("process_") else f"devstral_proxy_{name}"
        return values[full, *sorted(labels.items())]

    return value


async def seen(port, name, expected, **labels):
    """Return when that number is told."""
    async with asyncio.timeout(DEADLINE_S):
        while (await scraped(port))(name, **labels) != expected:
            pass


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("flag", ["--metrics-port", "--prometheus-port"])
async def test_it_answers_metrics_and_probes_and_nothing_else_and_the_main_port_no_metrics(
    start_group, unused_port, workers, flag
):
    group = await start_group(workers, flag, str(unused_port), **NOBODY)
    apart = f"http://127.0.0.1:{unused_port}"

    assert group.startup["metrics"] == f"{apart}/metrics"
    for path in ("/metrics", "/metrics/", "/livez", "/health/live", "/ping"):
        assert await status_of(apart + path) == 200, path
    assert await status_of(f"{apart}/readyz") == 503  # there is no model server
    for path in ("/", "/health", "/version", "/v1/models", "/v1/chat/completions", "/ui", "/docs", "/openapi.json"):
        assert await status_of(apart + path) == 404, path
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{apart}/v1/chat/completions", json={}) as response:
            assert response.status == 404
        async with session.post(f"{apart}/metrics") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    assert await status_of(f"{group.url}/metrics") == 404
    assert await status_of(f"{group.url}/livez") == 200


async def test_without_it_the_main_port_has_the_metrics(start_group):
    group = await start_group(1, **NOBODY)

    assert "metrics" not in group.startup
    assert await status_of(f"{group.url}/metrics") == 200


async def test_whichever_worker_answers_tells_the_sums_and_a_killed_one_does_not_end_that(start_group, unused_port):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        group = await start_group(2, "--metrics-port", str(unused_port), VLLM_BASE=upstream.url)
        for _ in range(10):  # each on a connection of its own, so on any worker
            await asked(group)
        for _ in range(10):
            now = await scraped(unused_port)
            assert now("requests_total", route="/v1/chat/completions", status="2xx") == 10
        await seen(unused_port, "ready_workers", 2)

        victim = min(group.workers())
        os.kill(victim, signal.SIGKILL)
        await group.log_line("worker_exited")
        now = await scraped(unused_port)
        assert now("requests_total", route="/v1/chat/completions", status="2xx") == 10
        assert now("worker_deaths_total") == 1
        assert now("max_in_flight_requests") in (2048, 4096)  # the next may have begun already

        await until(lambda: len(group.workers()) == 2)
        await until_all_serve(group)
        await seen(unused_port, "ready_workers", 2)
        await seen(unused_port, "max_in_flight_requests", 4096)


async def asked(group: Group) -> None:
    body = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]}
    url = f"{group.url}/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        assert response.status == 200
        await response.read()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_taken_port_is_exit_code_69_and_named(start_group, unused_port, workers):
    await start_group(1, "--metrics-port", str(unused_port), **NOBODY)
    second = await run_proxy("--workers", str(workers), "--metrics-port", str(unused_port), **NOBODY)
    message = await ended(second)

    assert second.returncode == os.EX_UNAVAILABLE
    assert f"cannot listen on 127.0.0.1:{unused_port}" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_numbers_of_a_drain_can_be_read_to_its_end(start_group, unused_port, workers):
    released = asyncio.Event()
    async with (
        ScriptedUpstream([*BEGIN, released, *END]) as upstream,
        aiohttp.ClientSession() as session,
    ):
        group = await start_group(workers, "--metrics-port", str(unused_port), VLLM_BASE=upstream.url)
        body = {"model": "devstral", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
        async with session.post(f"{group.url}/v1/chat/completions", json=body) as stream:
            group.send(signal.SIGTERM)
            await group.log_line("draining")
            await seen(unused_port, "draining_workers", 1)  # the other one has nothing to wait for
            await seen(unused_port, "in_flight_requests", 2)  # the stream, and the scrape itself
            assert await status_of(f"http://127.0.0.1:{unused_port}/readyz") == 503
            released.set()
            await stream.read()
        assert await group.exit_code() == 0


async def started_at(port):
    """Which program answers, by when it was started."""
    return (await scraped(port))("process_start_time_seconds", process="supervisor")


async def test_with_reuse_port_the_successor_takes_that_port_too(unused_port):
    flags = ("--metrics-port", str(unused_port), "--reuse-port")
    body = {"model": "devstral", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    released = asyncio.Event()
    async with (
        ScriptedUpstream([*BEGIN, released, *END]) as upstream,
        running(2, *flags, VLLM_BASE=upstream.url) as old,
        aiohttp.ClientSession() as session,
        session.post(f"{old.url}/v1/chat/completions", json=body) as stream,
        contextlib.AsyncExitStack() as later,
    ):
        before = {await started_at(unused_port)}
        await later.enter_async_context(running(2, *flags, "--port", str(old.port), VLLM_BASE=upstream.url))
        old.send(signal.SIGTERM)
        await old.log_line("draining")
        started = {await started_at(unused_port) for _ in range(20)}
        assert len(started) == 1  # nobody but the successor answers any more
        assert started.isdisjoint(before)
        released.set()
        await stream.read()
        assert await old.exit_code() == 0


async def test_a_new_port_needs_a_restart_and_says_so(start_group, unused_port, tmp_path):
    file = tmp_path / "proxy.toml"
    file.write_text(f"metrics_port = {unused_port}\n")
    group = await start_group(1, "--config", str(file), WATCH_CONFIG="0", **NOBODY)
    file.write_text("metrics_port = 0\nmax_queue = 7\n")
    group.send(signal.SIGHUP)
    line = await group.log_line("config_reloaded")

    assert (line["needs_restart"], line["changed"]) == (["metrics_port"], ["max_queue"])
    await seen(unused_port, "max_queued_requests", 7)
    assert await status_of(f"{group.url}/metrics") == 404


async def test_where_a_key_is_needed_this_listener_needs_an_operators_unless_it_is_said(start_group, unused_port):
    tiers = '{"default": {"operator": true}}'
    environment = {"PROXY_API_KEYS": KEY, "PROXY_TIERS": tiers, **NOBODY}
    group = await start_group(1, "--metrics-port", str(unused_port), **environment)
    url = f"http://127.0.0.1:{unused_port}"

    assert await status_of(f"{url}/metrics") == 401
    assert await status_of(f"{url}/metrics", Authorization=f"Bearer {KEY}") == 200
    assert await status_of(f"{url}/livez") == 200
    group.send(signal.SIGTERM)
    assert await group.exit_code() == 0

    group = await start_group(1, "--metrics-port", str(unused_port), PROXY_METRICS_AUTH="open", **environment)
    assert await status_of(f"{url}/metrics") == 200
    assert await status_of(f"{group.url}/v1/models") == 401


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--metrics-port", "9", "--metrics-host", "0.0.0.0"), "metrics_host: 0.0.0.0 can be reached from elsewhere"),
        (("--port", "8001", "--metrics-port", "8001"), "metrics_port: 8001 is the port of the proxy itself"),
        (("--metrics-auth", "open"), "metrics_auth: open is for a listener of its own"),
    ],
)
async def test_what_would_be_open_to_others_by_mistake_does_not_start(flags, word):
    process = await run_proxy(*flags, **NOBODY)

    assert word in await ended(process)
    assert process.returncode == os.EX_CONFIG


async def test_in_words_it_listens_anywhere(start_group, unused_port):
    flags = ("--metrics-port", str(unused_port), "--metrics-host", "0.0.0.0", "--metrics-auth", "open")
    group = await start_group(1, *flags, **NOBODY)

    assert await status_of(f"http://127.0.0.1:{unused_port}/metrics") == 200
    assert group.startup["host"] == "127.0.0.1"
