"""Traces: one span for a request, one for each attempt, and the same trace before, in and after the proxy."""

import asyncio
import itertools

import pytest
import pytest_asyncio
from aiohttp import web
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, ScriptedUpstream, completion, event, text_chunk, text_stream
from tests.fakes import whole as whole_answer
from tests.otlp import Receiver

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "vendor=value"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}
ROUTE = "POST /v1/chat/completions"
CHAT = "chat devstral"
BODY = ("read", "translate")
USAGE = {**text_chunk(), "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}}
STREAM = text_stream("Hel", "lo").replace(DONE + STREAM_END, event(USAGE) + DONE + STREAM_END)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


@pytest_asyncio.fixture
async def receiver():
    async with Receiver() as receiver:
        yield receiver


async def ask(proxy, headers=SAMPLED, **fields):
    proxy.session.headers.update(headers)
    async with proxy.chat(**fields) as response:
        await response.read()
    return response


def named(spans, name):
    [found] = [span for span in spans if span.name == name]
    return found


def tree(spans):
    """Return the names of the spans by the names of their parents."""
    names = {span.span_id: span.name for span in spans}
    made = {}
    for span in spans:
        made.setdefault(names.get(span.parent_id, span.parent_id), []).append(span.name)
    return made


async def test_a_whole_answer_makes_a_tree_in_the_clients_trace(start_proxy, receiver):
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        response = await ask(proxy)
        spans = await receiver.trace(TRACE_ID, ROUTE, *BODY, CHAT, "connect", "first_token")
        line = await proxy.log.line()

    assert tree(spans) == {PARENT_ID: [ROUTE], ROUTE: ["read", "translate", CHAT], CHAT: ["connect", "first_token"]}
    root, attempt = named(spans, ROUTE), named(spans, CHAT)
    assert (root.kind, attempt.kind, named(spans, "connect").kind) == ("SERVER", "CLIENT", "INTERNAL")
    assert (line["trace_id"], line["span_id"]) == (TRACE_ID, root.span_id)
    assert upstream.requests[0].header("traceparent") == f"00-{TRACE_ID}-{attempt.span_id}-01"
    assert upstream.requests[0].header("tracestate") == "vendor=value"
    assert {span.state for span in spans} == {"vendor=value"}
    assert not any(span.is_failure for span in spans)
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": "devstral",
        "gen_ai.request.stream": False,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 2,
        "devstral.proxy.request_id": response.headers["x-request-id"],
        "devstral.proxy.profile": "vllm-mistral-tokenizer",
        "devstral.proxy.replica": upstream.url.removeprefix("http://"),
        "devstral.proxy.attempts": 1,
    }
    host, port = upstream.url.removeprefix("http://").split(":")
    assert attempt.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": host,
        "server.port": int(port),
        "url.full": f"{upstream.url}/v1/chat/completions",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mistral_ai",
        "gen_ai.request.model": "devstral",
        "devstral.proxy.replica": upstream.url.removeprefix("http://"),
    }


async def test_the_spans_of_a_stream_follow_each_other(start_proxy, receiver):
    pause = 0.02
    async with ScriptedUpstream([STREAM_HEAD, pause, STREAM.removeprefix(STREAM_HEAD)]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        await ask(proxy, stream=True, store=True)
        spans = await receiver.trace(TRACE_ID, ROUTE, *BODY, CHAT, "connect", "first_token", "stream")
        line = await proxy.log.line()

    root, attempt = named(spans, ROUTE), named(spans, CHAT)
    laps = [named(spans, name) for name in (*BODY, "connect", "first_token", "stream")]
    assert all(before.ended <= after.began for before, after in itertools.pairwise(laps))
    assert all(root.began <= span.began <= span.ended <= root.ended for span in spans)
    assert all(attempt.began <= lap.began <= lap.ended <= attempt.ended for lap in laps[2:])
    # the head came at once, and a head is no token
    assert laps[3].ended - laps[3].began >= pause * 0.9e9
    assert root.attributes["devstral.proxy.rules"] == line["rules"] != []
    assert root.attributes["gen_ai.request.stream"] is True
    assert root.attributes["gen_ai.usage.output_tokens"] == 7
    assert root.attributes["gen_ai.response.time_to_first_chunk"] > pause * 0.9


async def test_without_a_clients_trace_there_is_a_new_one(start_proxy, receiver):
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        await ask(proxy, {})
        line = await proxy.log.line()
        spans = await receiver.trace(line["trace_id"], ROUTE, CHAT, "first_token")

    assert named(spans, ROUTE).parent_id == ""
    assert upstream.requests[0].header("traceparent") == f"00-{line['trace_id']}-{named(spans, CHAT).span_id}-01"
    assert upstream.requests[0].header("tracestate") is None


async def test_every_attempt_has_a_span_of_its_own(start_proxy, receiver):
    refused = whole_answer({"object": "error", "message": "busy", "code": 503}, status=503)
    async with ScriptedUpstream([refused]) as first, ScriptedUpstream([whole_answer(completion())]) as second:
        proxy = await start_proxy(f"{first.url},{second.url}", otlp_endpoint=receiver.url, balance="round_robin")
        for _ in range(2):  # one of them comes to the first
            if not first.requests:
                await ask(proxy)
        spans = await receiver.trace(TRACE_ID, CHAT, CHAT)
        line = proxy.log.lines("request")[-1]

    attempts = [span for span in spans if span.name == CHAT and span.parent_id == line["span_id"]]
    assert [span.is_failure for span in attempts] == [True, False]
    assert [span.attributes["http.response.status_code"] for span in attempts] == [503, 200]
    assert [span.attributes.get("http.request.resend_count") for span in attempts] == [None, 1]
    seen = [upstream.requests[-1].header("traceparent")[36:52] for upstream in (first, second)]
    assert seen == [span.span_id for span in attempts]
    assert attempts[0].ended <= attempts[1].began
    root = next(span for span in spans if span.span_id == line["span_id"])
    assert (root.attributes["devstral.proxy.attempts"], root.is_failure) == (2, False)
    assert root.attributes["devstral.proxy.retried"] == line["retried"]


async def test_a_model_server_that_is_down_is_a_failure_to_connect(start_proxy, receiver, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", otlp_endpoint=receiver.url, max_attempts=1)
    await ask(proxy)
    spans = await receiver.trace(TRACE_ID, ROUTE, CHAT, "connect")

    assert all(named(spans, name).is_failure for name in (ROUTE, CHAT, "connect"))
    assert {named(spans, name).attributes["error.type"] for name in (ROUTE, CHAT, "connect")} == {
        "upstream_unavailable"
    }
    assert named(spans, ROUTE).attributes["http.response.status_code"] == 502
    assert "http.response.status_code" not in named(spans, CHAT).attributes
    assert "first_token" not in {span.name for span in spans}


async def test_a_cut_stream_fails_where_it_was(start_proxy, receiver):
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hel")), 0.02, Do.RESET]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        await ask(proxy, stream=True)
        spans = await receiver.trace(TRACE_ID, ROUTE, CHAT, "stream")

    failures = {span.name for span in spans if span.is_failure}
    assert failures == {ROUTE, CHAT, "stream"}
    assert named(spans, ROUTE).attributes["http.response.status_code"] == 200
    assert named(spans, "stream").attributes["error.type"] == "upstream_disconnected"


async def test_a_client_that_leaves_is_nobodys_failure(start_proxy, receiver):
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hel")), Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        proxy.session.headers.update(SAMPLED)
        async with proxy.chat(stream=True) as response:
            await response.content.readany()
            response.close()
        spans = await receiver.trace(TRACE_ID, ROUTE, CHAT, "stream")

    assert not any(span.is_failure for span in spans)
    assert named(spans, ROUTE).attributes["error.type"] == "client_disconnect"
    assert "http.response.status_code" not in named(spans, ROUTE).attributes


@pytest.mark.parametrize(
    ("settings", "fields", "status", "failed_in"),
    [
        ({"auth": "required", "api_keys": "key-of-a-client"}, {}, 401, None),
        ({}, {"messages": 5}, 400, "translate"),
        ({"max_in_flight": 1, "max_queue": 0}, {}, 503, "queue"),
        ({"max_body_bytes": 5}, {}, 413, None),
    ],
)
async def test_a_refused_request_has_a_span_that_says_where(start_proxy, receiver, settings, fields, status, failed_in):
    async with ScriptedUpstream([Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url, **settings)
        running = None
        if failed_in == "queue":
            running = asyncio.ensure_future(ask(proxy, {}))
            await upstream.asked.wait()
        proxy.session.headers.update(SAMPLED)
        async with proxy.chat(**fields) as response:
            assert response.status == status
        spans = await receiver.trace(TRACE_ID, ROUTE, *([failed_in] if failed_in else []))
        if running is not None:
            running.cancel()

    root = named(spans, ROUTE)
    assert root.attributes["http.response.status_code"] == status
    assert root.is_failure is (status >= 500)
    assert "CLIENT" not in {span.kind for span in spans}
    assert {span.name for span in spans if "error.type" in span.attributes} == {ROUTE, failed_in} - {None}


async def test_a_limit_that_refuses_is_said(start_proxy, receiver):
    from proxy.config import Tier

    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        tiers = {"default": Tier(requests_per_minute=1, burst_s=1)}
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url, tiers=tiers)
        await ask(proxy, {})
        response = await ask(proxy)
        spans = await receiver.trace(TRACE_ID, ROUTE, "limits")

    assert response.status == 429
    assert named(spans, ROUTE).attributes["devstral.proxy.limit"] == "requests_per_minute"
    assert named(spans, "limits").attributes == {"error.type": "rate_limit_exceeded"}
    assert len(upstream.requests) == 1


async def test_an_answer_from_the_cache_has_no_attempt(start_proxy, receiver):
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url, cache="on")
        await ask(proxy, {}, temperature=0)
        await ask(proxy, temperature=0)
        spans = await receiver.trace(TRACE_ID, ROUTE, *BODY, "cache")

    assert tree(spans) == {PARENT_ID: [ROUTE], ROUTE: ["read", "translate", "cache"]}
    assert named(spans, ROUTE).attributes["devstral.proxy.cache"] == "hit"


async def test_the_list_of_models_is_traced_and_probes_are_not(start_proxy, receiver):
    async with ScriptedUpstream([whole_answer({"object": "list", "data": []})]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        proxy.session.headers.update(SAMPLED)
        for path in ("/livez", "/health", "/metrics", "/v1/nowhere", "/v1/models"):
            async with proxy.session.get(proxy.url + path) as response:
                await response.read()
        spans = await receiver.trace(TRACE_ID, "GET /v1/models", "GET /v1/models", "first_token")

    assert {span.name for span in receiver.spans} == {"GET /v1/models", "connect", "first_token"}
    root, attempt = (next(span for span in spans if span.kind == kind) for kind in ("SERVER", "CLIENT"))
    assert attempt.parent_id == root.span_id
    assert attempt.attributes["url.full"] == f"{upstream.url}/v1/models"
    assert not [name for span in spans for name in span.attributes if name.startswith("gen_ai")]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_other_front_doors_are_chats_too(start_proxy, receiver, path, body, stream):
    async with ScriptedUpstream([STREAM if stream else whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        proxy.session.headers.update(SAMPLED)
        asked = {"model": "devstral", "stream": stream, **body}
        async with proxy.session.post(proxy.url + path, json=asked) as response:
            assert (response.status, "upstream;dur=" in response.headers["Server-Timing"]) == (200, True)
            await response.read()
        phases = ("connect", "first_token", *(["stream"] if stream else []))
        spans = await receiver.trace(TRACE_ID, f"POST {path}", *BODY, CHAT, *phases)

    assert tree(spans) == {PARENT_ID: [f"POST {path}"], f"POST {path}": [*BODY, CHAT], CHAT: [*phases]}
    assert named(spans, f"POST {path}").attributes["gen_ai.operation.name"] == "chat"
    assert named(spans, CHAT).attributes["url.full"] == f"{upstream.url}/v1/chat/completions"
    assert upstream.requests[0].header("traceparent") == f"00-{TRACE_ID}-{named(spans, CHAT).span_id}-01"


async def test_counting_tokens_is_no_chat(start_proxy, receiver):
    async with ScriptedUpstream([whole_answer({"count": 5, "max_model_len": 9, "tokens": [1]})]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        proxy.session.headers.update(SAMPLED)
        asked = {"model": "devstral", "messages": [{"role": "user", "content": "Hi"}]}
        async with proxy.session.post(f"{proxy.url}/v1/messages/count_tokens", json=asked) as response:
            assert response.status == 200
        name = "POST /v1/messages/count_tokens"
        spans = await receiver.trace(TRACE_ID, name, "POST /tokenize", "first_token")

    assert named(spans, "POST /tokenize").attributes["url.full"] == upstream.url + upstream.requests[0].target
    assert not [span for span in spans if "gen_ai.operation.name" in span.attributes]


async def test_an_opentelemetry_client_and_model_server_stand_around_it_in_one_trace(start_proxy, receiver):
    """Both sides with OpenTelemetry's own propagator and spans, as agents and vLLM have them."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{receiver.url}/v1/traces")))
    tracer, propagator = provider.get_tracer("test"), TraceContextTextMapPropagator()

    async def answer(request):
        with tracer.start_as_current_span("model server", propagator.extract(dict(request.headers))):
            return web.json_response(completion())

    server = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    proxy = await start_proxy(f"http://127.0.0.1:{server.addresses[0][1]}", otlp_endpoint=receiver.url)
    with tracer.start_as_current_span("agent") as span:
        headers = {}
        propagator.inject(headers)
        await ask(proxy, {name: value for name, value in headers.items() if value})
    trace_id = f"{span.get_span_context().trace_id:032x}"
    spans = await receiver.trace(trace_id, "agent", "model server", ROUTE, *BODY, CHAT, "connect", "first_token")
    await server.cleanup()
    await asyncio.to_thread(provider.shutdown)

    assert named(spans, "agent").parent_id == ""
    assert named(spans, ROUTE).parent_id == named(spans, "agent").span_id
    assert named(spans, CHAT).parent_id == named(spans, ROUTE).span_id
    assert named(spans, "model server").parent_id == named(spans, CHAT).span_id
    assert named(spans, "agent").began <= named(spans, ROUTE).began <= named(spans, "model server").began


# --- what is not recorded


@pytest.mark.parametrize(
    ("sampler", "argument", "headers", "is_recorded"),
    [
        (None, None, NOT_SAMPLED, False),
        (None, None, {}, True),
        ("always_on", None, NOT_SAMPLED, True),
        ("always_off", None, SAMPLED, False),
        ("parentbased_always_off", None, {}, False),
        ("parentbased_always_off", None, SAMPLED, True),
        ("parentbased_traceidratio", "0", {}, False),
        ("traceidratio", "1", NOT_SAMPLED, True),
    ],
)
async def test_the_sampler_of_the_environment_decides(
    start_proxy, receiver, monkeypatch, sampler, argument, headers, is_recorded
):
    for name, value in {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        await ask(proxy, headers)
        line = await proxy.log.line()

    passed_on = upstream.requests[0].header("traceparent")
    assert passed_on[3:35] == line["trace_id"]
    assert passed_on.endswith("-01" if is_recorded else "-00")
    if is_recorded:
        spans = await receiver.trace(line["trace_id"], ROUTE, CHAT)
        assert passed_on[36:52] == named(spans, CHAT).span_id
    else:
        assert passed_on[36:52] == line["span_id"]
        await proxy.edge.tracer.close()
        assert receiver.bodies == []


@pytest.mark.parametrize("settings", [{}, {"otlp_endpoint": "http://127.0.0.1:9", "otel_sdk_disabled": True}])
async def test_without_a_receiver_nothing_is_invented_and_what_came_is_passed_on(start_proxy, settings):
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, **settings)
        await ask(proxy, {"baggage": "user=alice"})
        await ask(proxy, {**SAMPLED, "baggage": "user=alice"})
        lines = proxy.log.lines("request")

    assert (lines[0]["trace_id"], lines[0]["span_id"]) == (None, None)
    assert proxy.edge.tracer is None
    first, second = upstream.requests
    assert first.header("traceparent") is first.header("tracestate") is None
    assert second.header("traceparent") == f"00-{TRACE_ID}-{lines[1]['span_id']}-01"
    assert second.header("tracestate") == "vendor=value"
    assert second.header("baggage") is None


# --- the receiver


async def test_a_receiver_that_is_away_costs_no_request_and_is_told_once(start_proxy, unused_port, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=f"http://127.0.0.1:{unused_port}")
        for number in range(1, 4):
            assert (await ask(proxy)).status == 200
            async with asyncio.timeout(20):
                while (await spans_counted(proxy))["failed"] < 6 * number:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
        down = await proxy.log.line("otlp_down")
        async with Receiver(unused_port) as receiver:
            await ask(proxy, {"traceparent": f"00-{'a' * 32}-{PARENT_ID}-01"})
            await receiver.trace("a" * 32, ROUTE, CHAT)
            await proxy.log.line("otlp_up")

    assert (down["level"], down["error"]) == ("warning", "no answer")
    assert len(proxy.log.lines("otlp_down")) == len(proxy.log.lines("otlp_up")) == 1
    assert "OTEL" not in proxy.log.text
    counts = await spans_counted(proxy)
    assert counts["failed"] >= 6
    assert counts["exported"] >= 6


@pytest.mark.parametrize("status", [400, 503])
async def test_a_receiver_that_refuses_is_told_with_its_status(start_proxy, receiver, status, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    receiver.status = status
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        assert (await ask(proxy)).status == 200
        down = await proxy.log.line("otlp_down")

    assert down["error"] == f"status {status}"
    assert (await spans_counted(proxy))["failed"] == 6


async def test_what_a_slow_receiver_does_not_take_is_dropped_and_counted(start_proxy, receiver, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "20")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    receiver.may_answer.clear()
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        await ask(proxy)
        await receiver.wait_for(lambda: receiver.bodies)
        for _ in range(10):
            assert (await ask(proxy)).status == 200
        counts = await spans_counted(proxy)
        assert counts["dropped"] >= 6 * (10 - 5)
        assert counts["dropped"] % 6 == 0  # no trace is torn
        receiver.may_answer.set()


async def spans_counted(proxy):
    """Return the metric by its label."""
    async with proxy.session.get(f"{proxy.url}/metrics") as response:
        text = await response.text()
    lines = [line for line in text.splitlines() if line.startswith("devstral_proxy_spans_total{")]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


async def test_headers_and_names_of_the_environment_reach_the_receiver(start_proxy, receiver, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "front")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        url = f"{receiver.url}/elsewhere"
        headers = "authorization=Bearer%20secret-of-receiver,x-scope=a"
        proxy = await start_proxy(upstream.url, otlp_traces_endpoint=url, otlp_headers=headers)
        await ask(proxy)
        spans = await receiver.trace(TRACE_ID, ROUTE)

    assert receiver.paths[0] == "/elsewhere"
    assert receiver.heads[0]["authorization"] == "Bearer secret-of-receiver"
    assert receiver.heads[0]["x-scope"] == "a"
    assert spans[0].resource["service.name"] == "front"
    assert spans[0].resource["deployment.environment.name"] == "test"
    assert "secret-of-receiver" not in proxy.log.text


async def test_the_service_has_a_name_of_its_own(start_proxy, receiver):
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        await ask(proxy)
        [root, *_] = await receiver.trace(TRACE_ID, ROUTE)

    assert root.resource["service.name"] == "devstral-proxy"
    assert root.resource["service.version"]


async def test_half_a_character_in_a_name_costs_no_batch(start_proxy, receiver):
    async with ScriptedUpstream([whole_answer(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, otlp_endpoint=receiver.url)
        proxy.session.headers.update(SAMPLED)
        target = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        body = b'{"model":"m\\ud800","messages":[{"role":"user","content":"Hi"}]}'
        traced = f"traceparent: {SAMPLED['traceparent']}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        reader, writer = await proxy.raw(target + traced + body)
        await reader.read()
        writer.close()
        spans = await receiver.trace(TRACE_ID, ROUTE)

    assert spans[0].name == ROUTE
