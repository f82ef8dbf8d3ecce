"""The numbers by model: which models have a label, and that all workers and all metrics tell the same."""

import os

import pytest

from proxy.config import Backend, Config, ModelSettings
from proxy.edge.record import Record
from proxy.observe.genai import GENAI
from proxy.observe.layout import collapsed
from proxy.observe.metrics import Metrics
from proxy.observe.models import PLACES, ModelCounts
from tests.fakes import ScriptedUpstream, completion, text_stream, whole
from tests.observe.told import samples_of

CHAT = "/v1/chat/completions"
LEFT = {"status": 499, "error": "client_disconnect"}


def metrics(workers=1):
    return Metrics(workers=workers, routes=(CHAT,), rules=())


def record(**fields):
    usual = {"request_id": "r", "client_ip": None, "method": "POST", "path": CHAT, "model": "devstral", "status": 200}
    return Record(**usual | fields)


async def genai(counted):
    """Return what is told under OpenTelemetry's names, by name and labels that tell apart."""
    usual = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "mistral_ai"}
    samples = [s for s in samples_of((await counted.render()).decode()) if s.name.startswith("gen_ai_")]
    assert all(usual.items() <= sample.labels.items() for sample in samples)
    return {
        (sample.name.removeprefix("gen_ai_"), *sorted(v for k, v in sample.labels.items() if k not in usual)): (
            sample.value
        )
        for sample in samples
    }


def models_in(values):
    return {labels[0] for name, *labels in values if name == "client_operation_duration_seconds_count"}


async def test_a_stream_is_told_by_all_of_the_names():
    counted = metrics()
    counted.models.learn(["devstral"])
    counted.models.gaps_of("devstral")(1.0, 1.03)
    counted.observe(record(stream=True, duration_ms=2500.0, ttft_ms=30.0, tokens_in=7, tokens_out=900))
    values = await genai(counted)

    assert {name: value for name, value in values.items() if not name[0].endswith("_bucket")} == {
        ("client_operation_duration_seconds_count", "devstral"): 1,
        ("client_operation_duration_seconds_sum", "devstral"): 2.5,
        ("client_token_usage_count", "devstral", "input"): 1,
        ("client_token_usage_sum", "devstral", "input"): 7,
        ("client_token_usage_count", "devstral", "output"): 1,
        ("client_token_usage_sum", "devstral", "output"): 900,
        ("client_operation_time_to_first_chunk_seconds_count", "devstral"): 1,
        ("client_operation_time_to_first_chunk_seconds_sum", "devstral"): 0.03,
        ("client_operation_time_per_output_chunk_seconds_count", "devstral"): 1,
        ("client_operation_time_per_output_chunk_seconds_sum", "devstral"): pytest.approx(0.03),
        ("server_request_duration_seconds_count", "devstral"): 1,
        ("server_request_duration_seconds_sum", "devstral"): 2.5,
        ("server_time_to_first_token_seconds_count", "devstral"): 1,
        ("server_time_to_first_token_seconds_sum", "devstral"): 0.03,
        ("server_time_per_output_token_seconds_count", "devstral"): 1,
        ("server_time_per_output_token_seconds_sum", "devstral"): pytest.approx(0.03),
    }
    for name, below, above in (
        ("client_operation_duration_seconds", "1.28", "2.56"),
        ("client_operation_time_to_first_chunk_seconds", "0.02", "0.04"),
        ("server_time_to_first_token_seconds", "0.02", "0.04"),
        ("client_operation_time_per_output_chunk_seconds", "0.02", "0.04"),
        ("server_time_per_output_token_seconds", "0.025", "0.05"),
    ):
        assert (values[f"{name}_bucket", below, "devstral"], values[f"{name}_bucket", above, "devstral"]) == (0, 1)
    assert values["client_token_usage_bucket", "256.0", "devstral", "output"] == 0
    assert values["client_token_usage_bucket", "1024.0", "devstral", "output"] == 1


async def test_the_bounds_are_the_conventions_and_some_above():
    counted = metrics()
    counted.models.gaps_of("m")(1.0, 1.03)
    counted.observe(record(stream=True, duration_ms=1.0, ttft_ms=1.0, tokens_in=7, tokens_out=9))
    values = await genai(counted)
    doubled = [0.01 * 2**n for n in range(14)]
    expected = {
        "client_operation_duration_seconds": doubled,
        "client_operation_time_to_first_chunk_seconds": doubled,
        "client_operation_time_per_output_chunk_seconds": doubled,
        "server_request_duration_seconds": doubled,
        "client_token_usage": [4.0**n for n in range(14)],
        "server_time_to_first_token_seconds": [
            *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
        ],
        "server_time_per_output_token_seconds": [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5],
    }
    for name, bounds in expected.items():
        told = sorted({float(labels[0]) for key, *labels in values if key == f"{name}_bucket"})
        assert told[: len(bounds)] == pytest.approx(bounds)
        assert told[-1] == float("inf")
        assert name == "client_token_usage" or told[-2] >= 120
    assert {told.name.removeprefix("gen_ai_") for told in GENAI} == set(expected)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"error": "invalid_request", "error_type": "invalid_request_error"}, "invalid_request_error"),
        ({"error": "timeout", "error_type": "server_error"}, "server_error"),
        ({"error": 1, "error_type": "a model server's own"}, "_OTHER"),
        ({"error": "client_disconnect"}, "client_disconnect"),
    ],
)
async def test_an_operation_that_failed_has_a_word_for_why(fields, error):
    counted = metrics()
    counted.models.learn(["devstral"])
    counted.observe(record(**fields))
    values = await genai(counted)

    told = [labels for name, *labels in values if name == "client_operation_duration_seconds_count"]
    assert told == [sorted(["devstral", error])]


async def test_a_request_that_came_to_no_model_is_no_operation():
    counted = metrics()
    counted.observe(record(model=None, error="invalid_api_key", error_type="authentication_error", status=401))

    assert await genai(counted) == {}


async def test_models_of_the_configuration_have_a_label_and_no_other_words_do():
    counted = metrics()
    counted.apply(
        Config(models={"a": ModelSettings()}, backends=(Backend(url="http://x:1", models=("b", "c")),)),
    )
    for model in ("a", "b", "c", "hostile-1", "hostile-2", "", "other"):
        counted.observe(record(model=model))
    values = await genai(counted)

    assert models_in(values) == {"a", "b", "c", "other"}
    assert values["client_operation_duration_seconds_count", "other"] == 4


def test_a_model_beyond_the_places_and_one_with_a_long_name_are_other():
    models = ModelCounts(1, ())
    models.learn([f"m{number}" for number in range(PLACES + 5)])
    models.learn(["x" * 129, "ü" * 100])
    for name in ("m0", f"m{PLACES - 2}", f"m{PLACES - 1}", "x" * 129, "ü" * 100):
        models.observe(record(model=name))

    assert [name for name, _ in models.summed()] == ["other", "m0", f"m{PLACES - 2}"]


def test_a_name_with_nothing_in_it_is_other():
    models = ModelCounts(1, ())
    models.learn(["\0a", *["a\0"] * PLACES, "b"])
    for name in ("\0a", "a\0", "b"):
        models.observe(record(model=name))

    assert [name for name, _ in models.summed()] == ["other", "b"]


async def test_only_a_stream_that_began_has_a_first_token():
    counted = metrics()
    for fields in ({"status": 503, "error": "x", "error_type": "server_error"}, {"status": 200}, LEFT):
        counted.observe(record(stream=True, duration_ms=3.0, ttft_ms=2.0, **fields))

    assert (await genai(counted))["server_time_to_first_token_seconds_count", "other"] == 2


async def test_counting_tokens_is_no_chat():
    counted = metrics()
    counted.observe(record(path="/v1/messages/count_tokens/", stream=False, duration_ms=3.0))

    assert not await genai(counted)


def test_what_one_worker_has_learned_all_know_and_a_name_has_one_place():
    models = ModelCounts(2, ())
    models.learn(["a"])
    if (child := os.fork()) == 0:
        models.use(1)
        models.learn(["b", "a"])
        models.observe(record(model="b"))
        os._exit(0)
    os.waitpid(child, 0)
    models.observe(record(model="b"))
    models.learn(["c"])
    models.observe(record(model="c"))
    counts = {name: sum(row[1:]) for name, row in models.summed()}

    assert counts == {"b": 2, "c": 1}


async def test_a_model_that_a_server_lists_has_a_label_from_then_on(start_proxy):
    listed = {"object": "list", "data": [{"id": "devstral", "object": "model"}, {"id": "x" * 300}]}
    async with ScriptedUpstream([whole(completion())], [whole(listed)], [text_stream("a", "b")]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert response.status == 200
        async with proxy.session.get(f"{proxy.url}/v1/models") as response:
            assert await response.json() == listed
        async with proxy.chat(stream=True) as response:
            await response.read()
        values = await genai(proxy.edge.metrics)

    assert models_in(values) == {"devstral", "other"}
    assert values["server_time_to_first_token_seconds_count", "devstral"] == 1


async def test_our_own_metrics_are_the_sums_of_all_models_and_workers():
    counted = metrics(workers=2)
    counted.models.learn(["a", "b"])
    for worker, model in ((0, "a"), (1, "a"), (1, "b"), (1, "c")):
        counted.use(worker)
        counted.models.gaps_of(model)(1.0, 1.0051)
        counted.observe(record(model=model, stream=True, duration_ms=1.0, ttft_ms=7.0, tokens_in=2, tokens_out=3))
    own = {(s.name, *s.labels.values()): s.value for s in samples_of((await counted.render()).decode())}

    assert own["devstral_proxy_time_to_first_token_seconds_bucket", "0.005"] == 0
    assert own["devstral_proxy_time_to_first_token_seconds_bucket", "0.01"] == 4
    assert own["devstral_proxy_time_to_first_token_seconds_sum",] == pytest.approx(0.028)
    assert own["devstral_proxy_inter_token_gap_seconds_bucket", "0.005"] == 0
    assert own["devstral_proxy_inter_token_gap_seconds_bucket", "0.01"] == 4
    assert (own["devstral_proxy_tokens_total", "in"], own["devstral_proxy_tokens_total", "out"]) == (8, 12)


def test_a_fine_histogram_is_told_with_fewer_bounds():
    assert collapsed([9.0, 1, 2, 3, 4, 5], (1, 2, 5, 10), (2, 10)) == [9.0, 3, 7, 5]
    assert collapsed([9.0, 1, 2, 3, 4, 5], (1, 2, 5, 10), (1, 2, 5, 10)) == [9.0, 1, 2, 3, 4, 5]
