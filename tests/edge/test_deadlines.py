"""The timers of one request: header before model before configuration, within limits."""

import math

import pytest
from multidict import CIMultiDict

from proxy.config import Config, ModelSettings
from proxy.edge.deadlines import Deadlines
from proxy.errors import InvalidRequest
from proxy.upstream.answer import Limits
from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, event, text_chunk

CONFIG = Config(
    timeout_s=500,
    longest_timeout_s=1000,
    models={"slow": ModelSettings(first_byte_timeout_s=900), "endless": ModelSettings(timeout_s=0)},
)


def limits(model="m", **headers):
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return Deadlines(CONFIG).limits(named, model)


COMMON = {"first_byte_s": 300, "between_bytes_s": 120, "total_s": 500}


@pytest.mark.parametrize(
    ("asked", "changed"),
    [
        ({}, {}),
        ({"model": "slow"}, {"first_byte_s": 900}),
        ({"model": "endless"}, {"total_s": math.inf}),
        ({"x_proxy_timeout": "7.5"}, {"total_s": 7.5}),
        ({"X_Proxy_Timeout": "7"}, {"total_s": 7}),
        ({"model": "slow", "x_proxy_first_byte_timeout": "2"}, {"first_byte_s": 2}),
        ({"x_proxy_between_bytes_timeout": "0.5"}, {"between_bytes_s": 0.5}),
        ({"x_proxy_timeout": "999999"}, {"total_s": 1000}),
        ({"model": "endless", "x_proxy_timeout": "999999"}, {"total_s": 1000}),
    ],
)
def test_a_header_wins_over_the_model_and_the_model_over_the_configuration(asked, changed):
    assert limits(**asked) == Limits(**COMMON | changed)


@pytest.mark.parametrize("value", ["", "0", "0.0", "-1", "nan", "inf", "1e3", "1_0", "10 s", "١", "9" * 10])
@pytest.mark.parametrize("name", ["x-proxy-timeout", "x-proxy-first-byte-timeout", "x-proxy-between-bytes-timeout"])
def test_a_header_that_is_no_number_of_seconds_is_refused_by_name(name, value):
    with pytest.raises(InvalidRequest) as caught:
        limits(**{name: value})

    assert caught.value.param == name


def test_what_asks_for_nothing_special_costs_no_object():
    deadlines = Deadlines(CONFIG)

    assert deadlines.limits(CIMultiDict(), "m") is deadlines.limits(CIMultiDict(), "n")


async def test_the_timer_that_fires_is_named(start_proxy):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url)
        for name, timer in (("x-proxy-timeout", "timeout_s"), ("x-proxy-first-byte-timeout", "first_byte_timeout_s")):
            proxy.session.headers.clear()
            proxy.session.headers[name] = "0.1"
            async with proxy.chat() as response:
                assert response.status == 504
                assert (await response.json())["error"]["message"].startswith(timer)


async def test_the_silence_inside_an_answer_can_be_set_for_a_request_and_for_a_model(start_proxy):
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hello")), Do.WAIT_FOR_PEER]) as upstream:
        models = {"devstral": ModelSettings(between_bytes_timeout_s=0.05)}
        for settings, headers in (({"models": models}, {}), ({}, {"x-proxy-between-bytes-timeout": "0.05"})):
            proxy = await start_proxy(upstream.url, failover="off", **settings)
            proxy.session.headers.update(headers)
            async with proxy.chat(stream=True) as response:
                assert b"between_bytes_timeout_s: " in await response.read()


@pytest.mark.parametrize("name", ["x-proxy-timeout", "x-proxy-first-byte-timeout", "x-proxy-between-bytes-timeout"])
async def test_a_header_that_cannot_be_read_is_a_400_that_names_it_and_asks_nobody(start_proxy, name):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url)
        proxy.session.headers[name] = "soon"
        async with proxy.chat() as response:
            error = (await response.json())["error"]

        assert (response.status, error["code"], error["param"]) == (400, "invalid_request", name)
        assert upstream.requests == []
