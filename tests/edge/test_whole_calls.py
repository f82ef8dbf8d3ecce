"""R9: a client that reads every delta as a whole call gets each call in one delta; its User-Agent tells."""

import json

import pytest

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, event, text_chunk

TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
START = {"index": 0, "id": "abcDEF123", "type": "function", "function": {"name": "get_weather", "arguments": '{"ci'}}


def delta(call):
    part = text_chunk()
    part["choices"][0]["delta"] = {"tool_calls": [call]}
    return event(part)


SCRIPT = [
    STREAM_HEAD,
    event(text_chunk("", role="assistant")),
    delta(START),
    delta({"index": 0, "function": {"arguments": 'ty": 1}'}}),
    event(text_chunk(finish="tool_calls")),
    DONE,
    STREAM_END,
]


@pytest.mark.parametrize(
    ("user_agent", "option", "fragments"),
    [
        ("ai-sdk/mistral/3.0.58 runtime/node.js/v20", "auto", 1),
        ("mistral-client-python/2.2.0", "auto", 1),
        ("mistral-client-typescript/2.7.0", "auto", 1),
        ("OpenAI/Python 3.54.0", "auto", 2),
        ("ai-sdk/openai-compatible/2.0.91", "auto", 2),
        ("mistral-client-python/2.2.0", "incremental", 2),
        ("OpenAI/Python 3.54.0", "whole", 1),
    ],
)
async def test_calls_come_whole_to_clients_that_cannot_take_fragments(start_proxy, user_agent, option, fragments):
    async with ScriptedUpstream(SCRIPT) as upstream:
        proxy = await start_proxy(upstream.url, options={"tool_stream": option})
        proxy.session.headers["User-Agent"] = user_agent
        async with proxy.chat(stream=True, tools=TOOLS) as response:
            events = [part.removeprefix(b"data: ") for part in (await response.read()).split(b"\n\n")]

        choices = [json.loads(data)["choices"][0] for data in events if data.startswith(b"{")]
        calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
        assert len(calls) == fragments
        assert "".join(call["function"]["arguments"] for call in calls) == '{"city": 1}'
