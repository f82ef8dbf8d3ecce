"""
F18 to F25, from end to end: what clients and vLLM's parsers say to each other is put right on the way.

The rules have their own tests in tests/translate; here each is seen to be on the way of a request, and to be named.
vllm-project/vllm#20028; anomalyco/opencode#14963, #1680; openai/codex#7517; charmbracelet/crush#279, #1590;
jundot/omlx#464; kortix-ai/suna#5986.
"""

import json
import re

import pytest

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, completion, event, text_chunk, whole

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
LONG_ID = "call_longer_than_nine"
CALL = {"id": LONG_ID, "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": LONG_ID, "content": "the result"},
]


def call_event(**call):
    return event({**text_chunk(), "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]})


def streamed(*events, finish="stop"):
    return [STREAM_HEAD, event(text_chunk("", role="assistant")), *events, event(text_chunk("", finish=finish)),
            DONE, STREAM_END]  # fmt: skip


async def deltas(proxy):
    """Return the pieces of calls, the text and the finish reasons of a streamed answer."""
    async with proxy.chat(stream=True, tools=TOOLS) as response:
        assert response.status == 200
        blocks = (await response.read()).split(b"\n\n")
    choices = [json.loads(block[6:])["choices"][0] for block in blocks if block.startswith(b"data: {")]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    return calls, text, [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


async def received(upstream, proxy, **fields):
    """Return the body that the model server got, and the rules that the client is told of."""
    async with proxy.chat(**fields) as response:
        assert response.status == 200
        return upstream.requests[-1].json, response.headers.get("x-proxy-rewrites", "").split(",")


async def test_f18_f20_a_garbled_call_has_its_id_and_name_once_a_stable_index_and_whole_arguments(start_proxy):
    garbled = [
        call_event(index=3, id="abcdefghi", type="function", function={"name": "f", "arguments": '{"a"'}),
        call_event(index=3, id="abcdefghi", type="function", function={"name": "f", "arguments": ': "b"}'}),
    ]
    async with ScriptedUpstream(streamed(*garbled, finish="stop")) as upstream:
        proxy = await start_proxy(upstream.url)
        calls, text, finish = await deltas(proxy)

    assert [call["index"] for call in calls] == [0] * len(calls)
    assert [call["id"] for call in calls if "id" in call] == ["abcdefghi"]
    assert [call["function"]["name"] for call in calls if "name" in call["function"]] == ["f"]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"a": "b"}
    assert (text, finish) == ("", ["tool_calls"])


async def test_f20_a_call_in_a_whole_answer_has_no_index(start_proxy):
    answer = completion()
    answer["choices"][0] |= {"finish_reason": "tool_calls"}
    answer["choices"][0]["message"] |= {"content": None, "tool_calls": [{**CALL, "index": 0}]}
    async with ScriptedUpstream([whole(answer)]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(tools=TOOLS) as response:
            [call] = (await response.json())["choices"][0]["message"]["tool_calls"]

    assert "index" not in call
    assert call["function"] == CALL["function"]


@pytest.mark.parametrize("size", [1, 5, 100])
async def test_f19_a_call_that_leaks_as_text_comes_as_a_call_however_it_is_cut(start_proxy, size):
    leaked = '[TOOL_CALLS]f[ARGS]{"a": "b"}'
    pieces = [event(text_chunk(leaked[i : i + size])) for i in range(0, len(leaked), size)]
    async with ScriptedUpstream(streamed(*pieces)) as upstream:
        proxy = await start_proxy(upstream.url)
        calls, text, finish = await deltas(proxy)

    assert "".join(call["function"].get("name", "") for call in calls) == "f"
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"a": "b"}
    assert (text, finish) == ("", ["tool_calls"])


async def test_f21_a_user_may_speak_after_a_result_and_no_result_is_lost(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        body, rules = await received(
            upstream, proxy, messages=[*CALLED, {"role": "user", "content": "and?"}], tools=TOOLS
        )

    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    assert [message["content"] for message in body["messages"] if message["role"] != "assistant"] == [
        "x", "the result", "and?"
    ]  # fmt: skip
    assert "bridge_tool_to_user" in rules


async def test_f21_strict_mode_refuses_instead_and_names_the_rule(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url, strict=True)
        async with proxy.chat(messages=[{**CALLED[0], "role": "developer"}, CALLED[0]]) as response:
            assert response.status == 400
            assert "developer" in (await response.json())["error"]["message"]
        assert upstream.requests == []


async def test_f22_an_id_is_nine_alphanumerics_on_the_wire_the_same_at_every_turn_and_in_every_proxy(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        found = set()
        for _ in range(2):
            proxy = await start_proxy(upstream.url)
            for more in ([], [{"role": "assistant", "content": "done"}, {"role": "user", "content": "next"}]):
                body, rules = await received(upstream, proxy, messages=[*CALLED, *more], tools=TOOLS)
                call, result = body["messages"][1]["tool_calls"][0]["id"], body["messages"][2]["tool_call_id"]
                assert call == result
                assert "nine_char_tool_ids" in rules
                found.add(call)

    assert len(found) == 1
    assert re.fullmatch("[A-Za-z0-9]{9}", found.pop())


async def test_f23_a_field_that_vllm_refuses_is_left_out_and_named(start_proxy):
    past = {"role": "assistant", "content": "t", "reasoning_content": "thoughts"}
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        body, rules = await received(
            upstream, proxy, messages=[CALLED[0], past, CALLED[0]], frequency_penalty=0.5, seed=1
        )

    assert body["messages"][1] == {"role": "assistant", "content": "t"}
    assert (body["frequency_penalty"], body["seed"]) == (0.5, 1)
    assert "reasoning_dropped" in rules


@pytest.mark.parametrize("content", ["", None])
async def test_f24_an_assistant_turn_of_nothing_is_not_sent(start_proxy, content):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        body, rules = await received(
            upstream, proxy, messages=[CALLED[0], {"role": "assistant", "content": content}, CALLED[0]]
        )

    assert [message["content"] for message in body["messages"]] == ["x", "x"]
    assert "empty_assistant_removed" in rules


@pytest.mark.parametrize("stream", [False, True])
async def test_f25_a_prompt_that_is_too_long_has_its_status_its_words_and_the_code_that_agents_act_on(
    start_proxy, stream
):
    words = "This model's maximum context length is 100 tokens. However, you requested 200 tokens."
    refusal = {"error": {"message": words, "type": "BadRequestError", "param": None, "code": 400}}
    async with ScriptedUpstream([whole(refusal, 400)]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=stream) as response:
            error = (await response.json())["error"]

    assert (response.status, error["code"], error["type"]) == (400, "context_length_exceeded", "invalid_request_error")
    assert error["message"] == words
