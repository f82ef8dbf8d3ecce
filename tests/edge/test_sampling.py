"""Which requests have a line in the log when not all do, and how the lines tell how many there were."""

import msgspec
import pytest

from proxy.config import Config
from proxy.edge.record import Record
from proxy.edge.sampling import MENDING, is_logged
from proxy.translate.answer_rules import ANSWER_RULES
from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, completion, event, text_chunk, until, whole

NONE = Config(log_sample=0)


def record(request_id="r-1", **fields):
    usual = Record(request_id=request_id, client_ip=None, method="POST", path="/", status=200, attempts=1)
    return msgspec.structs.replace(usual, **fields)


def test_without_sampling_every_request_is_logged_and_stands_for_itself():
    for usual in (record(), record(status=500)):
        assert is_logged(usual, Config())
        assert usual.sample == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"status": 400},
        {"status": 404},
        {"status": 499},
        {"status": 503},
        {"status": 200, "error": "upstream_timeout"},
        {"attempts": 2, "retried": ("connect",)},
        {"failover": "continued"},
        {"duration_ms": 2000.0},
        *({"rules": ("nine_char_call_ids", rule)} for rule in sorted(MENDING)),
    ],
)
def test_what_says_something_is_always_logged(fields):
    telling = record(**fields)

    assert is_logged(telling, Config(log_sample=0, log_slow_s=2))
    assert telling.sample == 1


@pytest.mark.parametrize("fields", [{}, {"duration_ms": 1999.0}, {"rules": ("nine_char_call_ids",)}, {"cache": "hit"}])
def test_what_is_as_usual_is_not(fields):
    assert not is_logged(record(**fields), Config(log_sample=0, log_slow_s=2))


def test_without_a_limit_no_duration_is_slow():
    assert not is_logged(record(duration_ms=1e9), NONE)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_a_share_is_logged_and_the_number_of_requests_can_be_told_from_it(share):
    number, config = 20_000, Config(log_sample=share)
    records = [record(f"r-{each}", status=500 if each % 100 == 0 else 200) for each in range(number)]
    logged = [each for each in records if is_logged(each, config)]

    assert {each.sample for each in logged} == {1, share}
    assert sum(1 / each.sample for each in logged) == pytest.approx(number, rel=0.1)


def test_instances_agree_and_a_larger_share_has_all_of_a_smaller_one():
    def logged(share):
        return {each for each in range(2000) if is_logged(record(f"r-{each}"), Config(log_sample=share))}

    assert logged(0.1) == logged(0.1)
    assert logged(0.1) < logged(0.3) < logged(0.9)


def test_an_id_of_any_text_has_its_place():
    assert is_logged(record("caf\udce9"), Config(log_sample=0.999999)) in (True, False)


def test_the_rules_that_mend_exist():
    assert ANSWER_RULES.keys() >= MENDING


# --- in a proxy


async def test_a_proxy_logs_only_what_says_something(start_proxy):
    cut = [STREAM_HEAD, event(text_chunk("Hel")), Do.CLOSE]
    async with ScriptedUpstream([whole(completion())], cut) as upstream:
        proxy = await start_proxy(upstream.url, log_sample=0, failover="off")
        async with proxy.chat() as response:
            assert response.status == 200
        async with proxy.chat(stream=True) as response:
            assert response.status == 200
            assert (await response.read()).endswith(b"[DONE]\n\n")

        line = await proxy.log.line()
        assert line["stream"]
        assert line["error"]
        assert line["sample"] == 1
        assert len(proxy.log.lines("request")) == 1


async def test_the_share_stands_in_the_line_and_can_be_changed_while_it_runs(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, log_sample=0.999999999)
        async with proxy.chat() as response:
            await response.read()
        assert (await proxy.log.line())["sample"] == 0.999999999
        await proxy.edge.reload(msgspec.structs.replace(proxy.edge.config, log_sample=0))
        async with proxy.chat() as response:
            await response.read()
        async with proxy.session.get(f"{proxy.url}/absent") as response:
            assert response.status == 404
        await until(lambda: len(proxy.log.lines("request")) > 1)

        assert [line["status"] for line in proxy.log.lines("request")] == [200, 404]
