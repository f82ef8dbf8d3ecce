"""
R4: an answer that the model server's own parser swallowed never reaches the client as an empty one.

vllm-project/vllm#20028: up to vLLM 0.12 a streamed call of a newer model is logged there and lost.
"""

import asyncio
import json

import pytest

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, event, text_chunk, whole

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
DONE_BYTES = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 9, "completion_tokens": 14, "total_tokens": 23}
SWALLOWED = [
    STREAM_HEAD,
    event(text_chunk("", role="assistant")),
    event(text_chunk(finish="stop")),
    event({**text_chunk(), "choices": [], "usage": USAGE}),
    DONE,
    STREAM_END,
]
CALL = {"id": "abcDEF123", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
LEAKED = '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}'


def completion(message, finish):
    message = {"role": "assistant", "content": None, **message}
    return {
        "id": "chatcmpl-second",
        "object": "chat.completion",
        "created": 2,
        "model": "devstral",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": USAGE,
    }


async def streamed(proxy, **fields):
    async with proxy.chat(stream=True, tools=TOOLS, **fields) as response:
        body = await response.read()
        events = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
        return response.status, [json.loads(data) for data in events if data != b"[DONE]"], events[-1]


async def test_a_swallowed_answer_is_an_error_and_not_an_empty_answer(start_proxy):
    async with ScriptedUpstream([b"".join(SWALLOWED)]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True, tools=TOOLS) as response:
            assert response.status == 502
            assert (await response.json())["error"]["code"] == "tool_call_swallowed"

        assert (await proxy.log.line())["error"] == "tool_call_swallowed"
        assert len(upstream.requests) == 1


async def test_a_swallowed_answer_that_had_begun_ends_in_an_error_event(start_proxy):
    begun = asyncio.Event()
    async with ScriptedUpstream([*SWALLOWED[:2], begun, *SWALLOWED[2:]]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True, tools=TOOLS) as response:
            assert b'"assistant"' in await response.content.readuntil(b"\n\n")
            begun.set()
            rest = await response.read()

        assert b"tool_call_swallowed" in rest
        assert rest.endswith(DONE_BYTES)
        assert b'"finish_reason":"' not in rest


@pytest.mark.parametrize(
    ("message", "finish"),
    [({"tool_calls": [CALL]}, "tool_calls"), ({"content": LEAKED}, "stop")],
    ids=["a real call", "a call leaked as text"],
)
@pytest.mark.parametrize("pieces", ["event by event", "at once"])
async def test_it_is_asked_again_whole_once_where_configured(start_proxy, message, finish, pieces):
    first = SWALLOWED if pieces == "event by event" else [b"".join(SWALLOWED)]
    async with ScriptedUpstream(first, [whole(completion(message, finish))]) as upstream:
        proxy = await start_proxy(upstream.url, options={"retry_swallowed": "non_stream"})
        status, events, last = await streamed(proxy)

        deltas = [choice["delta"] for part in events for choice in part["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        assert (status, last) == (200, b"[DONE]")
        assert [call["function"] for call in calls] == [CALL["function"]]
        assert [delta["role"] for delta in deltas if "role" in delta] == ["assistant"]
        assert [c["finish_reason"] for part in events for c in part["choices"] if c["finish_reason"]] == ["tool_calls"]
        assert len({part["id"] for part in events}) == 1
        again = upstream.requests[1].json
        assert (again["stream"], "stream_options" in again, len(upstream.requests)) == (False, False, 2)
        assert (await proxy.log.line())["finish_reason"] == "tool_calls"


async def test_an_answer_that_is_swallowed_twice_is_an_error(start_proxy):
    async with ScriptedUpstream(SWALLOWED, [whole(completion({}, "stop"))]) as upstream:
        proxy = await start_proxy(upstream.url, options={"retry_swallowed": "non_stream"})
        _, events, _ = await streamed(proxy)

        assert events[-1]["error"]["code"] == "tool_call_swallowed"
        assert len(upstream.requests) == 2
