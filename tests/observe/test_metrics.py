"""The metrics: what a finished request adds, in the words of Prometheus' own parser."""

import asyncio
import platform
import time

import prometheus_client
import pytest

from proxy import __version__
from proxy.config import Config
from proxy.edge.record import Record
from proxy.errors import ProxyError
from proxy.observe.loop_lag import watch_loop_lag
from proxy.observe.metrics import CONTENT_TYPE, Metrics
from proxy.observe.processes import ABOUT
from proxy.process.serve import new_metrics
from tests.observe.told import samples_of, told

CHAT = "/v1/chat/completions"


def metrics(workers=1):
    return Metrics(workers=workers, routes=(CHAT, "/"), rules=("late_system_to_user", "nine_char_tool_ids"))


def record(**fields):
    usual = {"request_id": "r", "client_ip": None, "method": "POST", "path": CHAT, "model": "devstral", "status": 200}
    return Record(**usual | fields)


async def test_a_finished_stream_adds_all_that_is_known_of_it():
    counted = metrics()
    counted.observe(
        record(
            stream=True,
            bytes_in=500,
            bytes_out=4000,
            events=12,
            duration_ms=2000.0,
            ttft_ms=30.0,
            tokens_in=7,
            tokens_out=9,
            rules=("nine_char_tool_ids",),
        )
    )
    values = await told(counted)

    assert {name: value for name, value in values.items() if "bucket" not in name[0]} == {
        ("requests_total", CHAT, "2xx"): 1,
        ("request_duration_seconds_count", CHAT): 1,
        ("request_duration_seconds_sum", CHAT): 2.0,
        ("time_to_first_token_seconds_count",): 1,
        ("time_to_first_token_seconds_sum",): 0.03,
        ("events_total",): 12,
        ("request_bytes_total",): 500,
        ("response_bytes_total",): 4000,
        ("tokens_total", "in"): 7,
        ("tokens_total", "out"): 9,
        ("rules_applied_total", "nine_char_tool_ids"): 1,
    }


async def test_a_whole_answer_has_no_time_to_first_token():
    counted = metrics()
    counted.observe(record(stream=False, ttft_ms=30.0))

    assert not any(name.startswith("time_to_first_token") for name, *_ in await told(counted))


@pytest.mark.parametrize(
    ("took_ms", "first_bucket"), [(0.0, "0.005"), (5.0, "0.005"), (5.1, "0.01"), (299_999, "300.0"), (300_001, "+Inf")]
)
async def test_a_duration_counts_in_every_bucket_that_it_fits_into(took_ms, first_bucket):
    counted = metrics()
    counted.observe(record(duration_ms=took_ms))
    values = await told(counted)
    buckets = [bound for name, bound, *_ in values if name == "request_duration_seconds_bucket"]

    assert min(buckets, key=float) == first_bucket
    assert "+Inf" in buckets


@pytest.mark.parametrize(
    ("path", "route"), [(CHAT, CHAT), (CHAT + "/", CHAT), ("/", "/"), ("", "/"), ("/v1/hostile-8f2", "other")]
)
async def test_the_route_is_one_of_the_table_or_other(path, route):
    counted = metrics()
    counted.observe(record(path=path))

    assert (await told(counted))["requests_total", route, "2xx"] == 1


@pytest.mark.parametrize(
    ("status", "label"), [(101, "1xx"), (204, "2xx"), (499, "4xx"), (599, "5xx"), (0, "other"), (999, "other")]
)
async def test_the_status_is_a_class(status, label):
    counted = metrics()
    counted.observe(record(status=status))

    assert (await told(counted))["requests_total", CHAT, label] == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"error": "timeout", "error_type": "server_error"}, ("errors_total", "server_error")),
        ({"error": 1, "error_type": "a model server's own"}, ("errors_total", "other")),
        ({"error": "client_disconnect", "status": 499}, ("client_disconnects_total",)),
        ({"rules": ("not a rule",)}, ("rules_applied_total", "other")),
    ],
)
async def test_what_went_wrong_is_counted_by_a_word_of_this_program(fields, expected):
    counted = metrics()
    counted.observe(record(**fields))

    assert (await told(counted))[expected] == 1


async def test_requests_that_run_are_counted_until_they_end_or_their_worker_does():
    counted = metrics(workers=2)
    for worker, runs in ((0, 2), (1, 3)):
        counted.use(worker)
        for _ in range(runs):
            counted.begin()
    counted.end()
    assert (await told(counted))["in_flight_requests",] == 4

    counted.forget(0)
    assert (await told(counted))["in_flight_requests",] == 2


async def test_every_number_is_there_before_anything_happened():
    text = (await metrics().render()).decode()

    assert 'devstral_proxy_errors_total{error_type="server_error"} 0.0\n' in text
    assert 'devstral_proxy_rules_applied_total{rule="late_system_to_user"} 0.0\n' in text
    assert f'devstral_proxy_request_duration_seconds_count{{route="{CHAT}"}}' not in text


async def test_this_programs_own_errors_and_rules_have_a_label_of_their_own():
    counted = new_metrics()
    kinds = {error.kind for error in (ProxyError, *ProxyError.__subclasses__())}
    for kind in kinds:
        counted.observe(record(error_type=kind, rules=("nine_char_tool_ids", "strip_vendor_fields")))
    values = await told(counted)

    assert {labels[0] for name, *labels in values if name == "errors_total"} == kinds
    assert {labels[0] for name, *labels in values if name == "rules_applied_total"} == {
        "nine_char_tool_ids",
        "strip_vendor_fields",
    }


def test_the_type_is_that_of_the_text_format():
    assert CONTENT_TYPE == prometheus_client.CONTENT_TYPE_PLAIN_0_0_4


async def test_a_loop_that_was_held_up_is_seen_as_late():
    seen = []
    with watch_loop_lag(seen.append):
        time.sleep(0.5)  # noqa: ASYNC251 - this is what is to be seen
        while not seen:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    assert max(seen) > 100


async def test_nobody_looks_after_the_end():
    seen = []
    with watch_loop_lag(seen.append):
        pass
    await asyncio.sleep(0.4)

    assert seen == []


async def test_a_gap_between_two_writes_counts_where_it_belongs():
    counted = metrics()
    observe_gap = counted.models.gaps_of("devstral")
    for gap_s in (0.0, 0.001, 0.0301, 300.0):
        observe_gap(1000.0, 1000.0 + gap_s)
    values = await told(counted)

    assert values["inter_token_gap_seconds_count",] == 4
    assert values["inter_token_gap_seconds_sum",] == pytest.approx(300.0311)
    assert values["inter_token_gap_seconds_bucket", "0.002"] == 2
    assert values["inter_token_gap_seconds_bucket", "0.05"] == 3
    assert values["inter_token_gap_seconds_bucket", "120.0"] == 3


async def test_the_time_in_the_proxy_is_without_the_queue_and_the_model_server():
    counted = metrics()
    counted.observe(record(duration_ms=100.0, queue_ms=30.0, upstream_ms=69.5))
    counted.observe(record(duration_ms=5.0, upstream_ms=5.001))  # the two clocks are read one after the other
    counted.observe(record(duration_ms=3.0, error="overloaded", error_type="server_error", status=503))
    values = await told(counted)

    assert values["proxy_overhead_seconds_count",] == 2
    assert (values["queue_wait_seconds_count",], values["queue_wait_seconds_sum",]) == (1, 0.03)
    assert values["proxy_overhead_seconds_sum",] == pytest.approx(0.0005)


async def test_what_is_counted_of_calls_and_of_model_servers():
    counted = new_metrics()
    counted.observe(
        record(
            calls_recovered=2,
            calls_malformed=("cut", "name", "name"),
            upstream_errors=("dns", "tls", "tls", "a new one"),
        )
    )
    counted.observe(record(error="malformed_tool_call", error_type="server_error", status=502))
    values = await told(counted)

    assert values["recovered_calls_total",] == 2
    assert {name: value for name, value in values.items() if name[0] == "malformed_calls_total"} == {
        ("malformed_calls_total", "cut"): 1,
        ("malformed_calls_total", "name"): 2,
        ("malformed_calls_total", "no_name"): 1,
    }
    assert {name: value for name, value in values.items() if name[0] == "upstream_errors_total"} == {
        ("upstream_errors_total", "dns"): 1,
        ("upstream_errors_total", "tls"): 2,
        ("upstream_errors_total", "other"): 1,
    }


async def test_what_a_dead_worker_could_do_is_not_told_any_more():
    counted = metrics(workers=2)
    for worker in (0, 1):
        counted.use(worker)
        counted.apply(Config(max_in_flight=10, max_queue=4, max_buffered_bytes=100))
        counted.standing(is_ready=worker == 0, is_draining=worker == 1)
        counted.caching(3, 5000)
    gauges = ("max_in_flight_requests", "max_queued_requests", "max_buffered_bytes", "ready_workers")
    gauges += ("draining_workers", "cache_entries", "cache_bytes")
    values = await told(counted)
    assert [values[name,] for name in gauges] == [20, 8, 200, 1, 1, 6, 10_000]

    counted.forget(1)
    values = await told(counted)
    assert [values.get((name,), 0) for name in gauges] == [10, 4, 100, 1, 0, 3, 5000]
    assert "2" not in counted.processes


async def test_each_process_has_its_numbers_under_the_usual_names():
    counted = metrics(workers=2)
    counted.use(1)
    samples = samples_of((await counted.render()).decode())
    processes = {(sample.name, sample.labels["process"]) for sample in samples if sample.name.startswith("process_")}

    # worker 1 has not begun
    assert processes == {(name, process) for name in ABOUT for process in ("supervisor", "2")}
    [info] = [sample for sample in samples if sample.name == "devstral_proxy_build_info"]
    assert (info.labels, info.value) == ({"version": __version__, "python": platform.python_version()}, 1)


async def test_with_one_worker_there_is_no_supervisor():
    samples = samples_of((await metrics().render()).decode())

    assert {sample.labels["process"] for sample in samples if sample.name.startswith("process_")} == {"1"}


async def test_the_oldest_request_is_that_of_all_workers():
    counted = metrics(workers=3)
    for worker, age_ms in enumerate((1500.0, 4000.0, 0.0)):
        counted.use(worker)
        counted.oldest(age_ms)

    assert (await told(counted))["oldest_request_seconds",] == 4.0
    counted.forget(1)
    assert (await told(counted))["oldest_request_seconds",] == 1.5
