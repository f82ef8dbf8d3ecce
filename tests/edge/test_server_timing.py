"""Server-Timing: where the time went until the answer's head, for who was let in."""

import re

import pytest

from proxy.edge.record import Record
from proxy.edge.server_timing import server_timing
from tests.fakes import STREAM_HEAD, ScriptedUpstream, completion, text_stream, whole

PAUSE_S = 0.03


def timings(response):
    """Return the header as milliseconds by name, in its order."""
    parts = response.headers["Server-Timing"].split(", ")
    found = [re.fullmatch(r"([a-z]+);dur=([0-9]+(?:\.[0-9]+)?)", part).groups() for part in parts]
    return {name: float(duration) for name, duration in found}


async def test_a_whole_answer_tells_of_every_part(start_proxy):
    async with ScriptedUpstream([PAUSE_S, whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            found = timings(response)
        line = await proxy.log.line()

    assert list(found) == ["queue", "read", "translate", "connect", "upstream", "proxy"]
    assert found["upstream"] >= PAUSE_S * 900
    assert found["queue"] + found["upstream"] + found["proxy"] == pytest.approx(line["ttft_ms"], abs=0.01)
    assert [found[name] for name in ("read", "translate", "connect")] == [
        line["read_ms"],
        line["translate_ms"],
        line["connect_ms"],
    ]
    assert found["upstream"] == line["upstream_ms"]
    assert found["proxy"] >= found["read"] + found["translate"] > 0
    assert found["upstream"] >= found["connect"] > 0


async def test_a_stream_tells_what_is_known_at_its_first_byte(start_proxy):
    stream = text_stream("a", "b").removeprefix(STREAM_HEAD)
    async with ScriptedUpstream([STREAM_HEAD, PAUSE_S, stream[:-20], PAUSE_S, stream[-20:]]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            await response.read()
        line = await proxy.log.line()

    found = timings(response)
    assert PAUSE_S * 900 <= found["upstream"] < line["upstream_ms"]
    assert found["queue"] + found["upstream"] + found["proxy"] == pytest.approx(line["ttft_ms"], abs=0.01)


async def test_a_refusal_tells_as_far_as_it_came(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(messages=5) as response:
            assert response.status == 400

    assert list(timings(response)) == ["queue", "read", "proxy"]


async def test_an_answer_from_the_cache_had_no_upstream(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="on")
        for _ in range(2):
            async with proxy.chat(temperature=0) as response:
                pass

    assert list(timings(response)) == ["queue", "read", "translate", "proxy"]


async def test_who_is_not_let_in_is_told_nothing_nor_is_a_probe(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, auth="required", api_keys="key-of-a-client")
        async with proxy.chat() as refused, proxy.session.get(f"{proxy.url}/livez") as alive:
            assert (refused.status, alive.status) == (401, 200)

    assert "Server-Timing" not in refused.headers
    assert "Server-Timing" not in alive.headers


def test_no_part_is_negative_whatever_the_clocks_say():
    record = Record(request_id="", client_ip=None, method="", path="", queue_ms=9.0, read_ms=0.0)

    assert server_timing(record, 1.0).endswith("proxy;dur=0.000")
