"""
F13: whoever set the timer that rings, it has its name in the answer; and what the proxy itself says calms none.

QuantumNous/new-api#2797; microsoft/amplifier#339. How each timer counts is in tests/upstream/test_timers.py.
"""

import asyncio
import json

import pytest

from proxy.config import ModelSettings
from proxy.edge.heartbeat import COMMENT
from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, event, text_chunk

#: Seconds: the timer under test, and one that does not ring here.
SHORT, LONG = 0.1, 1000.0
BEAT_S = 0.02

#: The setting, the header, and what the upstream says before it falls silent.
TIMERS = {
    "first_byte_timeout_s": ("x-proxy-first-byte-timeout", []),
    "between_bytes_timeout_s": ("x-proxy-between-bytes-timeout", [STREAM_HEAD, event(text_chunk("Hel"))]),
    "timeout_s": ("x-proxy-timeout", [STREAM_HEAD, event(text_chunk("Hel"))]),
}


def error_of(stream):
    """Return the error, with which the stream ends whether or not it had begun."""
    body = stream.split(b"data: ")[-2].strip() if stream.endswith(b"data: [DONE]\n\n") else stream
    return json.loads(body)["error"]


@pytest.mark.parametrize("setter", ["configuration", "model", "header"])
@pytest.mark.parametrize("timer", TIMERS)
async def test_the_timer_that_rings_is_named_whoever_set_it(start_proxy, timer, setter):
    header, said = TIMERS[timer]
    settings = dict.fromkeys(TIMERS, LONG)
    async with ScriptedUpstream([*said, Do.WAIT_FOR_PEER]) as upstream, asyncio.timeout(10):
        if setter == "configuration":
            settings[timer] = SHORT
        elif setter == "model":
            settings["models"] = {"devstral": ModelSettings(**{timer: SHORT})}
        proxy = await start_proxy(upstream.url, **settings)
        if setter == "header":
            proxy.session.headers[header] = str(SHORT)
        async with proxy.chat(stream=True) as response:
            error = error_of(await response.read())
        await upstream.left.wait()

        assert (response.status, error["code"]) == (200 if said else 504, "upstream_timeout")
        assert error["message"].startswith(f"{timer}: ")
        assert f"{SHORT:g} s" in error["message"]
        assert (await proxy.log.line())["error"] == "upstream_timeout"


@pytest.mark.parametrize("timer", TIMERS)
async def test_comments_to_the_client_calm_no_timer(start_proxy, timer):
    _, said = TIMERS[timer]
    settings = dict.fromkeys(TIMERS, LONG) | {timer: 10 * BEAT_S}
    async with ScriptedUpstream([*said, Do.WAIT_FOR_PEER]) as upstream, asyncio.timeout(10):
        proxy = await start_proxy(upstream.url, keep_alive_s=BEAT_S, **settings)
        async with proxy.chat(stream=True) as response:
            stream = await response.read()

        assert COMMENT in stream
        assert error_of(stream)["message"].startswith(f"{timer}: ")


async def test_another_models_timer_is_not_this_ones(start_proxy):
    answer = [STREAM_HEAD, 2 * SHORT, event(text_chunk("Hi", finish="stop")), event(b"[DONE]"), b"0\r\n\r\n"]
    async with ScriptedUpstream(answer) as upstream:
        proxy = await start_proxy(upstream.url, models={"hasty": ModelSettings(first_byte_timeout_s=SHORT)})
        async with proxy.chat(stream=True) as response:
            assert b'"error"' not in await response.read()
        async with proxy.chat(stream=True, model="hasty") as response:
            assert response.status == 504
