"""POST /v1/messages as Anthropic's SDK sees it: against the demo, and against upstreams that play a script."""

import asyncio
import json
import socket
from queue import Queue
from threading import Thread

import anthropic
import pydantic
import pytest
import uvloop
from multidict import CIMultiDict

from proxy.config import Config, Tier
from proxy.demo import DemoUpstream
from proxy.edge.admission import Priority
from proxy.edge.listener import listening
from proxy.edge.server import opened
from proxy.observe.logs import configure_logs
from proxy.process.serve import new_metrics
from tests.clients.answers import begun, call, delta, more
from tests.conftest import libraries_restored
from tests.fakes import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Do,
    ScriptedUpstream,
    completion,
    event,
    text_chunk,
    text_stream,
    whole,
)
from tests.fronts.judge import message_of, parsed

TOOLS = [
    {
        "name": "get_weather",
        "description": "The weather in a city",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
ASKED = {"model": "devstral", "max_tokens": 100, "messages": QUESTION}


def client_of(proxy, **options):
    http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    return anthropic.AsyncAnthropic(
        **{"base_url": proxy.url, "api_key": "none", "max_retries": 0, "http_client": http} | options
    )


async def answered(client, *, streams, **more):
    if not streams:
        return await client.messages.create(**ASKED | more)
    async with client.messages.stream(**ASKED | more) as stream:
        return await stream.get_final_message()


both_ways = pytest.mark.parametrize("streams", [False, True], ids=["whole", "streamed"])
every_shortcut = pytest.mark.parametrize("shortcuts", ["push", "none"])


# --- the way that an agent goes


@both_ways
async def test_a_call_its_result_and_the_answer(start_proxy, demo, streams):
    """The demo refuses whatever mistral-common would."""
    proxy = await start_proxy(demo.url)
    async with client_of(proxy) as client:
        first = await answered(client, streams=streams, tools=TOOLS, system="Be brief.")
        (block,) = first.content
        result = {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "sunny, 25 °C"}]}
        history = [*QUESTION, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        second = await answered(client, streams=streams, tools=TOOLS, messages=history)

    assert (block.type, block.name, block.input) == ("tool_use", "get_weather", {"city": "Paris"})
    assert len(block.id) == 9
    assert (first.stop_reason, second.stop_reason) == ("tool_use", "end_turn")
    assert "sunny, 25 °C" in second.content[0].text
    assert first.usage.input_tokens > 0
    assert second.usage.output_tokens > 0
    line = await proxy.log.line()
    assert (line["path"], line["model"], line["stream"], line["finish_reason"]) == (
        "/v1/messages", "devstral", streams, "tool_calls",
    )  # fmt: skip
    assert line["tokens_in"] == first.usage.input_tokens


def test_the_synchronous_sdk_takes_it_too(demo_of_its_own):
    with anthropic.Anthropic(base_url=demo_of_its_own, api_key="none", max_retries=0) as client:
        whole_one = client.messages.create(**ASKED, tools=TOOLS)
        with client.messages.stream(**ASKED, tools=TOOLS) as stream:
            kinds = [part.type for part in stream]
            streamed = stream.get_final_message()

    assert whole_one.content[0].input == streamed.content[0].input == {"city": "Paris"}
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"


@pytest.fixture
def demo_of_its_own():
    """A proxy in front of the demo on a loop of another thread, since the synchronous SDK blocks this one."""
    loop = uvloop.new_event_loop()
    addresses, done = Queue(), asyncio.Event()

    async def serve():
        upstream = DemoUpstream(chunk_delay_s=0)
        await upstream.start()
        config = Config(vllm_base=upstream.url, profile="vllm-mistral-tokenizer", log_level="error")
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        async with opened(config, configure_logs(config), new_metrics()) as edge, listening(edge, [bound]):
            addresses.put(f"http://127.0.0.1:{bound.getsockname()[1]}")
            await done.wait()
        await upstream.close()

    with libraries_restored():
        thread = Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        yield addresses.get(timeout=20)
        loop.call_soon_threadsafe(done.set)
        thread.join(20)
        loop.close()


# --- streams, event by event


@every_shortcut
async def test_every_event_of_a_stream_and_its_figures(start_proxy, shortcuts):
    usage = {
        "prompt_tokens": 30,
        "completion_tokens": 9,
        "total_tokens": 39,
        "prompt_tokens_details": {"cached_tokens": 16},
    }
    answer = begun(
        delta({"reasoning": "Hm."}),
        text_chunk("I look."),
        call(0, "get_weather", '{"city"'),
        more(0, ': "Paris"}'),
        call(1, "get_weather", '{"city": "Rome"}', "Gh4Ij5Kl6"),
        delta({}, "tool_calls"),
        {**text_chunk(), "choices": [], "usage": usage},
    )
    async with ScriptedUpstream([answer + DONE + STREAM_END]) as upstream:
        proxy = await start_proxy(upstream.url, shortcuts=shortcuts)
        async with client_of(proxy) as client:
            events = [part async for part in await client.messages.create(**ASKED, tools=TOOLS, stream=True)]
            async with client.messages.stream(**ASKED, tools=TOOLS) as stream:
                message = await stream.get_final_message()

    assert [event.type for event in events if event.type != "content_block_delta"] == [
        "message_start",
        *["content_block_start", "content_block_stop"] * 4,
        "message_delta",
        "message_stop",
    ]
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in message.content[2:]] == [{"city": "Paris"}, {"city": "Rome"}]
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (
        14,
        16,
        9,
    )
    assert upstream.requests[0].json["stream_options"] == {"include_usage": True}


async def test_events_pass_while_the_model_still_writes(start_proxy):
    more_to_come = asyncio.Event()
    async with ScriptedUpstream(
        [STREAM_HEAD, event(text_chunk("Hel")), more_to_come, event(text_chunk("lo", finish="stop")), DONE, STREAM_END]
    ) as upstream:
        proxy = await start_proxy(upstream.url)
        async with client_of(proxy) as client, client.messages.stream(**ASKED) as stream:
            first = await anext(aiter(stream.text_stream))
            more_to_come.set()
            text = await stream.get_final_text()

    assert (first, text) == ("Hel", "Hello")


@both_ways
async def test_the_sequence_that_ended_an_answer(start_proxy, streams):
    ending = {**text_chunk("x", finish="stop")}
    ending["choices"][0]["stop_reason"] = "END"
    body = completion("x")
    body["choices"][0]["stop_reason"] = "END"
    script = STREAM_HEAD + event(ending) + DONE + STREAM_END if streams else whole(body)
    async with ScriptedUpstream([script]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with client_of(proxy) as client:
            stopped = await answered(client, streams=streams, stop_sequences=["END"])
            other = await answered(client, streams=streams)

    assert upstream.requests[0].json["stop"] == ["END"]
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "END")
    assert (other.stop_reason, other.stop_sequence) == ("end_turn", None)


async def test_a_server_that_swallows_streamed_calls_is_asked_whole_and_played(start_proxy):
    body = completion()
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    body["choices"][0] |= {
        "message": {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "Ab1Cd2Ef3", "type": "function", "function": function}],
        },
        "finish_reason": "tool_calls",
    }
    async with ScriptedUpstream([whole(body)]) as upstream:
        proxy = await start_proxy(upstream.url, options={"upstream_stream": "never"})
        async with client_of(proxy) as client:
            message = await answered(client, streams=True, tools=TOOLS)

    assert (message.content[0].input, message.stop_reason) == ({"city": "Paris"}, "tool_use")
    assert message.usage.input_tokens == 3


# --- errors


def error_of(caught):
    assert caught.value.body["type"] == "error"
    assert caught.value.body["request_id"] == caught.value.request_id
    return caught.value.status_code, caught.value.body["error"]["type"]


@both_ways
async def test_errors_have_anthropics_shape_and_the_sdks_classes(start_proxy, streams):
    refusal = {"error": {"message": "too many", "type": "TooMany", "param": None, "code": 429}}
    async with ScriptedUpstream([whole(refusal, 429, retry_after="7")], [whole(b"<h1>no</h1>", 500)]) as upstream:
        proxy = await start_proxy(upstream.url, api_keys="right", max_body_bytes=10_000, max_attempts=1)
        async with client_of(proxy, api_key="right") as client:
            with pytest.raises(anthropic.RateLimitError) as limited:
                await answered(client, streams=streams)
            with pytest.raises(anthropic.InternalServerError) as failed:
                await answered(client, streams=streams)
            with pytest.raises(anthropic.BadRequestError) as refused:
                await answered(client, streams=streams, max_tokens=0)
            with pytest.raises(anthropic.RequestTooLargeError) as large:
                await answered(client, streams=streams, system="x" * 20_000)
            with pytest.raises(anthropic.APIStatusError) as method:
                await client.get("/v1/messages", cast_to=object)
            with pytest.raises(anthropic.AuthenticationError) as unknown:
                await answered(client.with_options(api_key="wrong"), streams=streams)

    assert error_of(limited) == (429, "rate_limit_error")
    assert limited.value.response.headers["retry-after"] == "7"
    assert error_of(failed) == (500, "api_error")
    assert error_of(refused) == (400, "invalid_request_error")
    assert error_of(large) == (413, "request_too_large")
    assert error_of(method) == (405, "invalid_request_error")
    assert error_of(unknown) == (401, "authentication_error")


async def test_a_key_is_a_key_in_either_header_and_only_here(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, api_keys="right,batch", batch_keys="batch")

        async def status(path, *headers):
            async with proxy.session.post(proxy.url + path, json=ASKED, headers=list(headers)) as response:
                return response.status

        right, wrong = ("x-api-key", "right"), ("x-api-key", "wrong")
        bearer, other = ("Authorization", "Bearer right"), ("Authorization", "Bearer wrong")
        assert await status("/v1/messages", right) == 200
        assert await status("/v1/messages", bearer, wrong) == 200
        assert await status("/v1/messages", other, right) == 401
        assert await status("/v1/messages", right, right) == 401
        assert await status("/v1/messages", ("x-api-key", "")) == 401
        assert await status("/v1/chat/completions", right) == 401

    for request in upstream.requests:
        assert request.header("x-api-key") is None
        assert b"right" not in request.raw


async def test_a_batch_key_waits_behind_others_in_either_header(start_proxy):
    async with ScriptedUpstream([]) as upstream:
        proxy = await start_proxy(upstream.url, batch_keys="batch")
        priority = proxy.edge.admission.priority

    assert priority(CIMultiDict({"x-api-key": "batch"})) is Priority.BATCH
    assert priority(CIMultiDict({"x-api-key": "other"})) is Priority.INTERACTIVE
    assert priority(CIMultiDict({"x-api-key": "batch", "Authorization": "Bearer other"})) is Priority.INTERACTIVE


async def test_an_answer_goes_on_from_words_that_it_must_begin_with(start_proxy, demo):
    proxy = await start_proxy(demo.url)
    history = [*QUESTION, {"role": "assistant", "content": "The weather in Paris is"}]
    async with client_of(proxy) as client:
        message = await answered(client, streams=False, messages=history)

    assert message.content[0].text
    assert message.stop_reason == "end_turn"


async def test_in_strict_mode_what_would_be_lost_is_refused_with_its_place(start_proxy):
    async with ScriptedUpstream([]) as upstream:
        proxy = await start_proxy(upstream.url, strict=True)
        tools = [{"type": "bash_20250124", "name": "bash"}]
        async with proxy.session.post(f"{proxy.url}/v1/messages", json=ASKED | {"tools": tools}) as response:
            body = await response.json()

    assert response.status == 400
    assert body["error"]["message"].startswith("Refused in strict mode by server_tools_dropped: ")


async def test_no_limit_is_refused_as_anthropic_does(start_proxy):
    async with ScriptedUpstream([]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.post(f"{proxy.url}/v1/messages", json={"messages": QUESTION}) as response:
            body = await response.json()

    assert response.status == 400
    assert body["error"] == {"type": "invalid_request_error", "message": "max_tokens: Field required"}
    assert upstream.requests == []


CUTS = {
    "in text": [begun(text_chunk("Hel")), Do.CLOSE],
    "in a call": [begun(*[call(0, "get_weather", '{"city"'), more(0, ': "Par')]), Do.CLOSE],
    "after its reason": [begun(text_chunk("Hello"), text_chunk("", finish="stop")), Do.RESET],
}


@every_shortcut
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_a_cut_answer_raises_and_never_looks_whole(start_proxy, cut, shortcuts):
    async with ScriptedUpstream(cut) as upstream:
        proxy = await start_proxy(upstream.url, shortcuts=shortcuts, failover="off")
        async with proxy.session.post(f"{proxy.url}/v1/messages", json=ASKED | {"stream": True}) as response:
            raw = await response.read()
        async with client_of(proxy) as client:
            with pytest.raises(anthropic.APIError) as caught:
                await answered(client, streams=True, tools=TOOLS)

    assert raw.count(b"event: error\n") == 1
    assert raw.rpartition(b"event: ")[2].startswith(b"error\n")
    assert b"message_stop" not in raw
    assert b"message_delta" not in raw
    assert b"[DONE]" not in raw
    assert caught.value.body["error"]["type"] == "api_error"
    assert caught.value.body["request_id"]


async def test_an_error_of_the_model_server_inside_its_stream(start_proxy):
    held = asyncio.Event()
    error = event({"error": {"message": "lost", "type": "x", "code": 500}})
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hel")), held, error, DONE, STREAM_END]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.post(f"{proxy.url}/v1/messages", json=ASKED | {"stream": True}) as response:
            raw = await response.content.readuntil(b'"Hel"}}')
            held.set()
            raw += await response.read()

    assert json.loads(raw.rpartition(b"data: ")[2])["error"] == {"type": "api_error", "message": "lost"}
    assert b"message_stop" not in raw


async def test_a_process_that_ends_says_so_in_the_streams_own_words(start_proxy):
    held = asyncio.Event()
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hel")), held]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.post(f"{proxy.url}/v1/messages", json=ASKED | {"stream": True}) as response:
            raw = await response.content.readuntil(b'"Hel"}}')
            proxy.edge.in_flight.cut_off()
            raw += await response.read()
        held.set()

    last = json.loads(raw.rpartition(b"data: ")[2])
    assert last["error"]["type"] == "overloaded_error"
    assert b"message_stop" not in raw


# --- what a chat has, too


async def test_a_stream_that_breaks_off_in_text_goes_on_from_another_replica(start_proxy):
    cut = [STREAM_HEAD, event(text_chunk("", role="assistant")), event(text_chunk("It is")), Do.RESET]
    rest = [text_stream(" sunny", " today.")]
    async with ScriptedUpstream(cut, rest) as one, ScriptedUpstream(rest) as other:
        proxy = await start_proxy(f"{one.url},{other.url}", failover="text", retry_budget=1.0)
        async with client_of(proxy) as client:
            messages = [await answered(client, streams=True) for _ in range(2)]

    assert {message.content[0].text for message in messages} == {"It is sunny today.", " sunny today."}
    assert {message.stop_reason for message in messages} == {"end_turn"}
    assert "continued" in {line["failover"] for line in proxy.log.lines("request")}


async def test_a_limit_of_the_proxys_own_is_anthropics_error_with_its_headers(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        tier = Tier(requests_per_minute=1, burst_s=1)
        proxy = await start_proxy(upstream.url, api_keys="right", tiers={"default": tier})
        async with client_of(proxy, api_key="right") as client:
            await answered(client, streams=False)
            with pytest.raises(anthropic.RateLimitError) as limited:
                await answered(client, streams=False)

    assert error_of(limited) == (429, "rate_limit_error")
    assert int(limited.value.response.headers["retry-after"]) > 0
    assert limited.value.response.headers["x-ratelimit-limit-requests"] == "1"


async def test_a_model_that_thinks_for_long_is_waited_for_with_comments(start_proxy):
    held = asyncio.Event()
    end = [event(text_chunk("lo", finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hel")), held, *end]) as upstream:
        proxy = await start_proxy(upstream.url, keep_alive_s=0.05)
        async with proxy.session.post(f"{proxy.url}/v1/messages", json=ASKED | {"stream": True}) as response:
            raw = await response.content.readuntil(b": keep-alive\n\n")
            held.set()
            raw += await response.read()

    assert message_of(parsed(raw))["content"] == [{"type": "text", "text": "Hello"}]


async def test_an_answer_by_schema_is_parsed_by_the_sdk(start_proxy):
    class City(pydantic.BaseModel):
        name: str

    async with ScriptedUpstream([whole(completion('{"name": "Paris"}'))]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with client_of(proxy) as client:
            message = await client.messages.parse(**ASKED, output_format=City)

    assert message.parsed_output == City(name="Paris")
    assert upstream.requests[0].json["response_format"]["json_schema"]["schema"]["required"] == ["name"]


# --- what is said about it


async def test_what_was_lost_is_named(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        asked = ASKED | {"context_management": {}, "tools": [{"type": "bash_20250124", "name": "bash"}]}
        async with proxy.session.post(f"{proxy.url}/v1/messages?beta=true", json=asked) as response:
            assert response.status == 200

    assert response.headers["x-proxy-rewrites"].split(",")[:2] == ["foreign_members_dropped", "server_tools_dropped"]
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert (await proxy.log.line())["rules"][:2] == ["foreign_members_dropped", "server_tools_dropped"]


async def test_metrics_have_the_route_and_the_rules(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.post(f"{proxy.url}/v1/messages", json=ASKED | {"container": "x"}) as response:
            await response.read()
        await proxy.log.line()
        async with proxy.session.get(f"{proxy.url}/metrics") as response:
            text = await response.text()

    assert 'devstral_proxy_requests_total{route="/v1/messages",status="2xx"} 1.0' in text
    assert 'devstral_proxy_rules_applied_total{rule="foreign_members_dropped"} 1.0' in text


async def test_a_conversation_stays_on_its_replica_by_its_user(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as one, ScriptedUpstream([whole(completion())]) as other:
        proxy = await start_proxy(f"{one.url},{other.url}", balance="session")
        async with client_of(proxy) as client:
            for number in range(24):
                await answered(client, streams=False, metadata={"user_id": f"session-{number % 4}"})

    users = [{request.json["user"] for request in upstream.requests} for upstream in (one, other)]
    assert len(one.requests) + len(other.requests) == 24
    assert users[0] & users[1] == set()


@both_ways
async def test_an_answer_from_the_cache_is_a_message_too(start_proxy, streams):
    usage = {**text_chunk(), "choices": [], "usage": completion()["usage"]}
    streamed = begun(text_chunk("Hello"), text_chunk("", finish="stop"), usage) + DONE + STREAM_END
    async with ScriptedUpstream([streamed if streams else whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, cache="on")
        async with client_of(proxy) as client:
            messages = [await answered(client, streams=streams, extra_body={"temperature": 0}) for _ in range(2)]

    assert len(upstream.requests) == 1
    assert messages[0].content == messages[1].content
    assert messages[1].stop_reason == "end_turn"
