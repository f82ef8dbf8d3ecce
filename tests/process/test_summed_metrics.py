"""The metrics of several workers are one set of numbers, whoever is asked and whoever has died."""

import os
import signal

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import Do, ScriptedUpstream
from tests.process.conftest import until
from tests.process.test_workers import BEGIN, a_stream_on_each, until_all_serve

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="asks Linux which process has a connection")


async def scrape(group):
    """Ask on a new connection, so any worker; return a function from a sample's name and labels to its value."""
    async with aiohttp.ClientSession() as session, session.get(f"{group.url}/metrics") as response:
        assert response.status == 200
        families = list(text_string_to_metric_families(await response.text()))
    values = {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}
    return lambda name, **labels: values[(f"devstral_proxy_{name}", *sorted(labels.items()))]


async def test_numbers_are_summed_over_workers_and_outlive_them(start_group):
    async with ScriptedUpstream([*BEGIN, Do.WAIT_FOR_PEER]) as upstream:
        group = await start_group(2, VLLM_BASE=upstream.url)
        async with a_stream_on_each(group) as streams:
            victim, survivor = streams
            asked = len(upstream.requests)
            left = asked - 2  # those that landed on a worker that had a stream already were closed
            await until_counted(group, "client_disconnects_total", left)
            # the scrape itself runs too
            assert (await scrape(group))("in_flight_requests") == 3

            os.kill(victim, signal.SIGKILL)
            await group.log_line("worker_exited")
            now = await scrape(group)
            assert now("in_flight_requests") == 2
            assert now("worker_deaths_total") == 1
            assert now("client_disconnects_total") == left

            await until(lambda: len(group.workers()) == 2)
            await until_all_serve(group)
            streams[survivor].close()
        await until_counted(group, "client_disconnects_total", left + 1)
        now = await scrape(group)

    assert now("in_flight_requests") == 1
    assert now("requests_total", route="/v1/chat/completions", status="4xx") == left + 1
    assert now("request_duration_seconds_count", route="/v1/chat/completions") == left + 1


async def until_counted(group, name, expected):
    """Scrape until a number has come to what it should be; whoever is asked says the same."""
    for _ in range(1000):
        if (await scrape(group))(name) == expected:
            return
    pytest.fail(f"{name} is not {expected}")
