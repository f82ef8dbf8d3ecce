"""POST /v1/responses from end to end: OpenAI's own SDK at one side, a model server that plays chats at the other."""

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from proxy.config import Tier
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
    until,
    whole,
)
from tests.fronts.test_responses_answer import check_invariants, events_of

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASKED = "What is the weather in Paris?"


def sdk(proxy, key="none"):
    """Return OpenAI's client for the proxy. It retries nothing, and no proxy of this machine is between them."""
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    return AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0, http_client=http)


def ask(proxy, **fields):
    return proxy.session.post(f"{proxy.url}/v1/responses", json={"model": "devstral", "input": "Hi"} | fields)


async def stream_of(proxy, **fields):
    """Return a streamed answer's events, which are all in order, and its final response."""
    async with ask(proxy, stream=True, **fields) as response:
        assert response.status == 200
        events = events_of(await response.read())
    return events, check_invariants(events)


# --- OpenAI's SDK


@pytest.mark.parametrize("shortcuts", ["push", "none"])
async def test_the_sdk_makes_two_turns_with_a_tool(start_proxy, demo, shortcuts):
    proxy = await start_proxy(demo.url, shortcuts=shortcuts)
    history = [{"role": "user", "content": ASKED}]
    async with sdk(proxy) as client:
        first = await client.responses.create(model="devstral", input=history, tools=[WEATHER])
        (call,) = first.output
        history += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "sunny, 25"}]
        async with client.responses.stream(model="devstral", input=history, tools=[WEATHER]) as stream:
            types = [each.type async for each in stream]
            second = await stream.get_final_response()

    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Paris"})
    assert len(call.call_id) == 9
    assert "sunny, 25" in second.output_text
    assert (second.status, types[0], types[-1]) == ("completed", "response.created", "response.completed")
    assert second.usage.total_tokens == second.usage.input_tokens + second.usage.output_tokens > 0


async def test_the_sdk_parses_a_schema_and_the_arguments_of_a_call(start_proxy):
    class City(BaseModel):
        name: str

    said = completion('{"name": "Paris"}')
    async with ScriptedUpstream([whole(said)], [text_stream('{"name":', ' "Rome"}')]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with sdk(proxy) as client:
            parsed = await client.responses.parse(model="devstral", input="Where?", text_format=City)
            async with client.responses.stream(model="devstral", input="Where?", text_format=City) as stream:
                streamed = await stream.get_final_response()

    assert (parsed.output_parsed, streamed.output_parsed) == (City(name="Paris"), City(name="Rome"))
    form = upstream.requests[0].json["response_format"]
    assert (form["type"], form["json_schema"]["name"]) == ("json_schema", "City")


async def test_the_blocking_sdk_works_too(start_proxy, demo):
    proxy = await start_proxy(demo.url)

    def asking():
        http = openai.DefaultHttpxClient(trust_env=False)
        with OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0, http_client=http) as client:
            answer = client.responses.create(model="devstral", input="Hi")
            events = list(client.responses.create(model="devstral", input="Hi", stream=True))
        return answer, events

    answer, events = await asyncio.to_thread(asking)

    assert answer.output_text.startswith("Hello")
    assert events[-1].response.output_text == answer.output_text
    assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == answer.output_text


async def test_errors_are_the_sdks(start_proxy, demo):
    proxy = await start_proxy(demo.url, api_keys="sk-right")
    async with sdk(proxy, "sk-right") as client, sdk(proxy, "sk-wrong") as stranger:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="devstral", input="Hi", previous_response_id="resp_1")
        with pytest.raises(openai.AuthenticationError):
            await stranger.responses.create(model="devstral", input="Hi")
        for method in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                await method("resp_1")
        with pytest.raises(openai.NotFoundError):
            await client.responses.input_items.list("resp_1")

    assert (refused.value.param, refused.value.code) == ("previous_response_id", "invalid_request")
    assert "input" in refused.value.message


async def test_an_error_of_the_model_server_has_its_status(start_proxy):
    refusal = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}
    async with ScriptedUpstream([whole(refusal, status=400)]) as upstream:
        proxy = await start_proxy(upstream.url)
        for stream in (False, True):
            async with ask(proxy, stream=stream) as response:
                assert (response.status, (await response.json())["error"]["message"]) == (400, "too long")


async def test_the_error_of_a_rule_of_the_chat_names_the_place_in_the_clients_body(start_proxy, demo):
    proxy = await start_proxy(demo.url)
    items = [{"role": "user", "content": "Hi"}, {"type": "function_call", "call_id": "a", "name": "f", "arguments": ""}]
    async with ask(proxy, input=items, tools=[WEATHER], tool_choice={"type": "function", "name": "nope"}) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "tool_choice.name")
    async with ask(proxy, stream="x") as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "stream")


# --- streams that go wrong


FIRST = [STREAM_HEAD, event(text_chunk("", role="assistant")), event(text_chunk("Hello"))]
REST = [STREAM_HEAD, event(text_chunk("", role="assistant")), event(text_chunk(", world!", finish="stop")), DONE]


async def test_a_stream_that_another_replica_goes_on_with_is_one_stream(start_proxy, monkeypatch):
    monkeypatch.setattr("proxy.upstream.pool.make_policy", lambda name: lambda loads, asking: loads[0])
    async with ScriptedUpstream([*FIRST, 0.05, Do.RESET]) as a, ScriptedUpstream([*REST, STREAM_END]) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        _, final = await stream_of(proxy)
        line = await proxy.log.line()

    assert [part["text"] for item in final["output"] for part in item["content"]] == ["Hello, world!"]
    assert (line["failover"], line["status"]) == ("continued", 200)


@pytest.mark.parametrize("shortcuts", ["push", "none"])
async def test_a_stream_that_breaks_ends_in_a_failed_response(start_proxy, shortcuts):
    async with ScriptedUpstream([*FIRST, 0.05, Do.RESET]) as upstream:
        proxy = await start_proxy(upstream.url, shortcuts=shortcuts)
        async with ask(proxy, stream=True) as response:
            events = events_of(await response.read())
        line = await proxy.log.line()

    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"
    assert (line["error"], line["status"]) == ("upstream_disconnected", 200)


async def test_an_error_after_comments_is_a_failed_response(start_proxy):
    gone = asyncio.Event()
    async with ScriptedUpstream([gone, Do.RESET]) as upstream:
        proxy = await start_proxy(upstream.url, keep_alive_s=0.05)
        async with ask(proxy, stream=True) as response:
            assert (await response.content.readuntil(b"\n\n")).startswith(b": ")
            gone.set()
            events = events_of(await response.read())

    assert [each["type"] for each in events] == ["response.created", "response.in_progress", "response.failed"]


async def test_a_process_that_ends_says_so_in_a_failed_response(start_proxy):
    held = asyncio.Event()
    async with ScriptedUpstream([*FIRST, held]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with ask(proxy, stream=True) as response:
            begun = await response.content.readuntil(b"Hello")
            proxy.edge.in_flight.cut_off()
            events = events_of(begun + await response.read())
        held.set()

    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"] == "The proxy is shutting down."


async def test_a_swallowed_call_that_is_asked_for_again_is_one_stream(start_proxy):
    swallowed = [
        STREAM_HEAD,
        *(event(text_chunk("", role="assistant")), event(text_chunk(finish="stop"))),
        event(text_chunk() | {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 20}}),
        *(DONE, STREAM_END),
    ]
    found = completion("")
    call = {"id": "Ab1Cd2Ef3", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    found["choices"][0] |= {"message": {"role": "assistant", "content": None, "tool_calls": [call]}}
    async with ScriptedUpstream(swallowed, [whole(found)]) as upstream:
        proxy = await start_proxy(upstream.url, options={"retry_swallowed": "non_stream"})
        _, final = await stream_of(proxy, tools=[WEATHER])

    assert [item["name"] for item in final["output"]] == ["get_weather"]


# --- what is counted, kept and limited


async def test_the_log_and_the_metrics_have_it(start_proxy, demo):
    proxy = await start_proxy(demo.url)
    async with ask(proxy, tools=[{"type": "web_search"}]) as response:
        assert response.headers["x-proxy-rewrites"].split(",")[0] == "built_in_tool_removed"
        body = await response.read()
    line = await proxy.log.line()
    metrics = (await proxy.edge.metrics.render()).decode()

    assert (line["path"], line["model"], line["status"], line["finish_reason"]) == (
        "/v1/responses", "devstral", 200, "stop"
    )  # fmt: skip
    assert line["tokens_out"] == json.loads(body)["usage"]["output_tokens"] > 0
    assert line["bytes_out"] == len(body)
    assert 'requests_total{route="/v1/responses",status="2xx"} 1.0' in metrics
    assert 'rule="built_in_tool_removed"} 1.0' in metrics


async def test_an_answer_comes_from_the_cache_whole_or_as_a_stream(start_proxy, demo):
    proxy = await start_proxy(demo.url, cache="ask")
    url, asked = f"{proxy.url}/v1/responses", {"model": "devstral", "input": ASKED, "tools": [WEATHER]}
    used = {"headers": {"x-proxy-cache": "use"}}
    answers = []
    for stream, result in ((False, "miss"), (False, "hit"), (True, "hit")):
        async with proxy.session.post(url, json=asked | {"stream": stream}, **used) as response:
            assert response.headers["x-proxy-cache"] == result
            body = await response.read()
        answers.append(check_invariants(events_of(body)) if stream else json.loads(body))

    assert answers[0]["output"][0]["type"] == "function_call"
    assert answers[0] == answers[1] == answers[2]


async def test_requests_that_ask_the_same_at_once_are_asked_once(start_proxy):
    held = asyncio.Event()
    async with ScriptedUpstream([held, whole(completion("Hello"))]) as upstream:
        proxy = await start_proxy(upstream.url, cache="ask")
        url, asked = f"{proxy.url}/v1/responses", {"model": "devstral", "input": "Hi"}

        async def text():
            async with proxy.session.post(url, json=asked, headers={"x-proxy-cache": "use"}) as response:
                return (await response.json())["output"][0]["content"][0]["text"]

        first, second = asyncio.create_task(text()), asyncio.create_task(text())
        await until(lambda: len(proxy.edge.in_flight) == 2)
        held.set()
        assert [await first, await second] == ["Hello", "Hello"]
        assert len(upstream.requests) == 1


async def test_limits_are_a_chats(start_proxy, demo):
    proxy = await start_proxy(demo.url, tiers={"default": Tier(requests_per_minute=1)})
    async with ask(proxy) as response:
        assert (response.status, response.headers["x-ratelimit-remaining-requests"]) == (200, "0")
    async with ask(proxy) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (429, "rate_limit_exceeded")


async def test_with_passthrough_the_answer_is_the_model_servers_own(start_proxy):
    said = completion("Hello") | {"id": "x"}
    async with ScriptedUpstream([whole(said)], [text_stream("Hel", "lo")], [whole({"object": "list"})]) as upstream:
        proxy = await start_proxy(upstream.url, profile="passthrough")
        async with ask(proxy) as response:
            answer = await response.json()
        _, final = await stream_of(proxy)
        async with ask(proxy) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (502, "upstream_disconnected")

    assert answer["output"][0]["content"] == final["output"][0]["content"]
