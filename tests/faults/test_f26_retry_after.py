"""
F26: whoever has no time for a request says when to come back, and what another server says about that is passed on.

api7/aisix#144; majiayu000/litellm-rs#833; etalab-ia/OpenGateLLM#364.
"""

import asyncio

import pytest

from tests.fakes import ScriptedUpstream, completion, until, whole

BUSY = {"error": {"message": "busy", "type": "x", "code": 429}}

FULL = {
    "no place and no queue": ({"max_in_flight": 1, "max_queue": 0}, "queue_full"),
    "no place in time": ({"max_in_flight": 1, "queue_timeout_s": 0.05}, "queue_timeout"),
    "no room for bodies": ({"max_buffered_bytes": 100}, "buffered_bytes"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("bounds", "reason"), FULL.values(), ids=FULL)
async def test_every_503_of_the_proxys_own_says_when_to_come_back(start_proxy, bounds, reason, stream):
    release = asyncio.Event()
    async with ScriptedUpstream([release, whole(completion())]) as upstream, asyncio.timeout(10):
        proxy = await start_proxy(upstream.url, **bounds)
        running = asyncio.ensure_future(proxy.chat().__aenter__())
        await upstream.asked.wait()
        async with proxy.chat(stream=stream) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (503, "overloaded")
            assert int(response.headers["Retry-After"]) >= 1
        async with proxy.session.get(f"{proxy.url}/metrics") as response:
            assert f'devstral_proxy_shed_total{{reason="{reason}"}} 1.0' in await response.text()
        release.set()
        (await running).close()
        await until(lambda: not proxy.edge.admission.in_flight)
        assert len(upstream.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("said", ["7", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_what_the_model_server_says_about_it_is_passed_on_as_it_is(start_proxy, status, said):
    async with ScriptedUpstream([whole(BUSY, status, retry_after=said)]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            assert (response.status, response.headers["Retry-After"]) == (status, said)


@pytest.mark.parametrize("said", [None, "x" * 41, "caf\u00e9"], ids=["nothing", "too long", "not ASCII"])
async def test_what_is_no_time_is_not(start_proxy, said):
    headers = {} if said is None else {"retry_after": said}
    async with ScriptedUpstream([whole(BUSY, 429, **headers)]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert (response.status, response.headers.get("Retry-After")) == (429, None)
