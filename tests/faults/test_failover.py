"""A stream that breaks off in plain text goes on at another replica; what cannot go on ends in an error."""

import json

import pytest

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, ScriptedUpstream, event, text_chunk, text_stream

FIRST = [STREAM_HEAD, event(text_chunk("", role="assistant")), event(text_chunk("Hello")), event(text_chunk(", wor"))]
END = [event(text_chunk("", finish="stop")), DONE, STREAM_END]
REST = [STREAM_HEAD, event(text_chunk("", role="assistant")), event(text_chunk("ld!")), *END]


@pytest.fixture(autouse=True)
def in_order(monkeypatch):
    """The first replica is chosen first: what happens is then the same each time."""
    monkeypatch.setattr("proxy.upstream.pool.make_policy", lambda name: lambda loads, ask: loads[0])


async def events_of(proxy, **fields):
    """Return the payloads of all events and the comments of a streamed answer."""
    async with proxy.chat(stream=True, **fields) as response:
        assert response.status == 200
        blocks = (await response.content.read()).decode().split("\n\n")
    comments = [block for block in blocks if block.startswith(":")]
    payloads = [block.removeprefix("data: ") for block in blocks if block.startswith("data: ")]
    return [each if each == "[DONE]" else json.loads(each) for each in payloads], comments


def text_of(events):
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in events if "choices" in each)


def error_of(events):
    return next((each["error"] for each in events if "error" in each), None)


@pytest.mark.parametrize("end", [Do.RESET, Do.CLOSE])
async def test_the_client_gets_one_whole_answer(start_proxy, end):
    async with ScriptedUpstream([*FIRST, 0.05, end]) as a, ScriptedUpstream(REST) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        events, comments = await events_of(proxy, max_tokens=100)

        assert text_of(events) == "Hello, world!"
        assert [each["choices"][0]["finish_reason"] for each in events[:-1]].count("stop") == 1
        assert sum("role" in each["choices"][0]["delta"] for each in events[:-1]) == 1
        assert len({each["id"] for each in events[:-1]}) == 1
        assert (events[-1], events.count("[DONE]")) == ("[DONE]", 1)
        assert comments == [": continued on another replica after 10 characters"]
        asked = b.requests[0].json
        assert asked["messages"][-1] == {"role": "assistant", "content": "Hello, wor"}
        assert (asked["continue_final_message"], asked["add_generation_prompt"], asked["max_tokens"]) == (
            True,
            False,
            98,
        )
        line = await proxy.log.line()
        assert (line["failover"], line["attempts"], line["status"], line["error"]) == ("continued", 2, 200, None)


async def test_an_error_event_of_a_dying_engine_is_made_good_too(start_proxy):
    """vLLM 0.32 whose engine is killed says so in the stream, then `[DONE]`, then exits."""
    died = {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}}
    async with ScriptedUpstream([*FIRST, event(died), DONE, STREAM_END]) as a, ScriptedUpstream(REST) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        events, _ = await events_of(proxy)

        assert (text_of(events), error_of(events)) == ("Hello, world!", None)


async def test_a_third_replica_goes_on_when_the_second_dies_too(start_proxy):
    middle = [STREAM_HEAD, event(text_chunk("ld")), 0.05, Do.RESET]
    last = [STREAM_HEAD, event(text_chunk("!", finish="stop")), DONE, STREAM_END]
    async with (
        ScriptedUpstream([*FIRST, 0.05, Do.RESET]) as a,
        ScriptedUpstream(middle) as b,
        ScriptedUpstream(last) as c,
    ):
        proxy = await start_proxy(f"{a.url},{b.url},{c.url}")
        events, comments = await events_of(proxy)

        assert text_of(events) == "Hello, world!"
        assert c.requests[0].json["messages"][-1]["content"] == "Hello, world"
        assert len(comments) == 2


def call_chunk(arguments, **first):
    function = {"arguments": arguments} | ({"name": first.pop("name")} if "name" in first else {})
    chunk = text_chunk()
    chunk["choices"][0]["delta"] = {"tool_calls": [{"index": 0, "function": function} | first]}
    return chunk


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
CALL_BEGINS = call_chunk('{"a', name="f", id="abcdefghi", type="function")
CALL = [STREAM_HEAD, event(text_chunk("", role="assistant")), event(CALL_BEGINS)]
THOUGHT = {**text_chunk(), "choices": [{"index": 0, "delta": {"reasoning": "Hm"}, "finish_reason": None}]}

CANNOT = {
    "a call in progress": ([*CALL], {"tools": TOOLS}),
    "a thought": ([STREAM_HEAD, event(THOUGHT)], {}),
    "two choices": (FIRST, {"n": 2}),
    "a schema": (FIRST, {"response_format": {"type": "json_object"}}),
    "a demanded call": (FIRST, {"tools": TOOLS, "tool_choice": "required"}),
    "log-probabilities": (FIRST, {"logprobs": True}),
}


@pytest.mark.parametrize(("begin", "fields"), CANNOT.values(), ids=CANNOT)
async def test_what_cannot_go_on_ends_in_an_error_and_no_finish_reason(start_proxy, begin, fields):
    async with ScriptedUpstream([*begin, 0.05, Do.RESET]) as a, ScriptedUpstream(REST) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        events, comments = await events_of(proxy, **fields)

        assert error_of(events)["code"] == "upstream_disconnected"
        assert events[-1] == "[DONE]"
        assert not any(each["choices"][0]["finish_reason"] for each in events if "choices" in each)
        assert (b.requests, comments) == ([], [])


async def test_it_can_be_switched_off(start_proxy):
    async with ScriptedUpstream([*FIRST, 0.05, Do.RESET]) as a, ScriptedUpstream(REST) as b:
        proxy = await start_proxy(f"{a.url},{b.url}", failover="off")
        events, _ = await events_of(proxy)

        assert error_of(events)["code"] == "upstream_disconnected"
        assert b.requests == []


async def test_with_nobody_to_go_on_it_ends_in_the_first_error(start_proxy, unused_port):
    async with ScriptedUpstream([*FIRST, 0.05, Do.RESET]) as a:
        proxy = await start_proxy(f"{a.url},http://127.0.0.1:{unused_port}")
        events, _ = await events_of(proxy)

        assert error_of(events)["code"] == "upstream_disconnected"
        assert events[-1] == "[DONE]"


async def test_a_replica_that_refuses_to_go_on_leaves_the_first_error(start_proxy):
    from tests.fakes import whole

    refusal = [whole({"error": {"message": "no", "type": "BadRequestError", "code": 400}}, 400)]
    async with ScriptedUpstream([*FIRST, 0.05, Do.RESET]) as a, ScriptedUpstream(refusal) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        events, _ = await events_of(proxy)

        assert error_of(events)["code"] == "upstream_disconnected"
        assert (await proxy.log.line())["failover"] == "failed"


async def test_before_the_clients_first_byte_it_is_asked_anew_and_an_error_would_have_a_status(start_proxy):
    head_only = [STREAM_HEAD, 0.05, Do.RESET]
    async with ScriptedUpstream(head_only) as a, ScriptedUpstream([text_stream("Hello")]) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        events, _ = await events_of(proxy)

        assert text_of(events) == "Hello"
        assert b.requests[0].json == a.requests[0].json

    async with ScriptedUpstream(head_only) as a, ScriptedUpstream(head_only) as b:
        proxy = await start_proxy(f"{a.url},{b.url}")
        async with proxy.chat(stream=True) as response:
            assert response.status == 502
