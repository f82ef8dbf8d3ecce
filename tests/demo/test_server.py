"""The routes over a real socket: streams arrive piece by piece, errors look like vLLM's, a client may leave."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from proxy.demo import DemoUpstream
from tests.demo.conftest import Post
from tests.demo.requests import RESULT, TOOLS, USER, assistant, call, chat

CHAT = "/v1/chat/completions"


async def test_an_agents_history_is_refused(ask: Post) -> None:
    call_id = "call_abc123DEF456ghi789JKL0"
    turn = (USER, assistant(call(id=call_id)), RESULT | {"tool_call_id": call_id})
    status, answer = await ask(chat(*turn, tools=TOOLS))
    assert status == 400
    assert answer == {
        "error": {
            "message": f"Tool call id was {call_id} but must be a-z, A-Z, 0-9, with a length of 9.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        }
    }


async def test_the_same_history_in_order_is_answered(ask: Post) -> None:
    status, answer = await ask(chat(USER, assistant(call()), RESULT, tools=TOOLS))
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == "The result is: sunny"


async def test_stream_ends_with_done(demo: DemoUpstream, session: aiohttp.ClientSession) -> None:
    async with session.post(demo.url + CHAT, json=chat(tools=TOOLS, stream=True)) as answer:
        lines = (await answer.text()).split("\n\n")
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert len({event["id"] for event in events}) == 1


async def test_stream_comes_in_pieces(session: aiohttp.ClientSession) -> None:
    slow = DemoUpstream(chunk_delay_s=60)
    await slow.start()
    try:
        answer = await session.post(slow.url + CHAT, json=chat(stream=True))
        first = await answer.content.readuntil(b"\n\n")
        assert b'"role":"assistant"' in first
        answer.close()
    finally:
        await slow.close()


async def test_a_client_that_leaves_ends_its_stream_quietly(
    session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = DemoUpstream(chunk_delay_s=0.001)
    await upstream.start()
    long = chat({"role": "user", "content": "long"}, stream=True, max_tokens=100_000)
    answer = await session.post(upstream.url + CHAT, json=long)
    await answer.content.readuntil(b"\n\n")
    answer.close()
    await asyncio.sleep(0.05)
    await upstream.close()
    assert caplog.records == []


async def test_a_refusal_comes_before_the_stream(ask: Post) -> None:
    status, answer = await ask(chat(model="nope", stream=True))
    assert status == 404
    assert answer["error"]["type"] == "NotFoundError"


async def test_leaking_server_streams_the_call_as_text(session: aiohttp.ClientSession) -> None:
    leaking = DemoUpstream(leak=True, chunk_delay_s=0)
    await leaking.start()
    try:
        async with session.post(leaking.url + CHAT, json=chat(tools=TOOLS)) as answer:
            choice = (await answer.json())["choices"][0]
        async with session.post(leaking.url + CHAT, json=chat(tools=TOOLS, stream=True)) as answer:
            streamed = await answer.text()
    finally:
        await leaking.close()
    assert choice["message"]["content"] == '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}'
    assert choice["finish_reason"] == "stop"
    assert "[TOOL_CALLS]" in streamed
    assert "tool_calls" not in streamed


async def test_two_answers_are_given_when_two_are_asked_for(ask: Post) -> None:
    _, whole = await ask(chat(n=2))
    _, streamed = await ask(chat(n=2, stream=True))
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    assert streamed.count('"finish_reason":"stop"') == 2


async def test_half_a_surrogate_pair_is_answered(demo: DemoUpstream, session: aiohttp.ClientSession) -> None:
    body = json.dumps(chat(USER, assistant(call()), RESULT | {"content": "\ud83d"}))
    headers = {"Content-Type": "application/json"}
    async with session.post(demo.url + CHAT, data=body, headers=headers) as answer:
        assert (await answer.json())["choices"][0]["message"]["content"] == "The result is: ?"


DETAILS = [
    ("GET", "/", 404, {"detail": "Not Found"}),
    ("POST", "/v1/embeddings", 404, {"detail": "Not Found"}),
    ("GET", "/v1/models/devstral", 404, {"detail": "Not Found"}),
    ("GET", CHAT, 405, {"detail": "Method Not Allowed"}),
    ("HEAD", "/health", 405, None),
]


@pytest.mark.parametrize(("method", "path", "status", "body"), DETAILS)
async def test_other_paths_answer_as_fastapi_does(
    demo: DemoUpstream, session: aiohttp.ClientSession, method: str, path: str, status: int, body: Any
) -> None:
    async with session.request(method, demo.url + path) as answer:
        assert answer.status == status
        assert body is None or await answer.json() == body
        assert ("Allow" in answer.headers) == (status == 405)


async def test_a_trailing_slash_is_a_redirect(demo: DemoUpstream, session: aiohttp.ClientSession) -> None:
    async with session.post(f"{demo.url}{CHAT}/", json=chat(), allow_redirects=False) as answer:
        assert answer.status == 307
        assert answer.headers["Location"] == demo.url + CHAT


ONE = "1 validation error:\n  "
MISSING = f"{ONE}{{'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}}"
BROKEN = f"{ONE}{{'type': 'json_invalid', 'loc': 'body.1', 'msg': 'JSON decode error', 'input': '<dict of 0 items>'}}"
BODIES = [
    (b"", "application/json", MISSING),
    (b"{", "application/json", BROKEN),
    (b"{}", "text/plain", f"{ONE}Unsupported Media Type: Only 'application/json' is allowed"),
]


@pytest.mark.parametrize(("body", "content_type", "text"), BODIES)
async def test_a_body_that_is_no_json_is_refused(
    demo: DemoUpstream, session: aiohttp.ClientSession, body: bytes, content_type: str, text: str
) -> None:
    async with session.post(demo.url + CHAT, data=body, headers={"Content-Type": content_type}) as answer:
        assert answer.status == 400
        error = (await answer.json())["error"]
    assert (error["message"], error["type"]) == (text, "Bad Request")


@pytest.mark.parametrize("body", [b'"\xff"', b"[" * 100_000])
async def test_an_undecodable_body_is_refused(demo: DemoUpstream, session: aiohttp.ClientSession, body: bytes) -> None:
    async with session.post(demo.url + CHAT, data=body, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 400
        assert await answer.json() == {"detail": "There was an error parsing the body"}


async def test_model_health_and_version(demo: DemoUpstream, session: aiohttp.ClientSession) -> None:
    async with session.get(f"{demo.url}/v1/models") as answer:
        models = await answer.json()
    assert [(model["id"], model["max_model_len"], model["owned_by"]) for model in models["data"]] == [
        ("devstral", 4096, "vllm")
    ]
    async with session.get(f"{demo.url}/health") as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    async with session.get(f"{demo.url}/version") as answer:
        assert list(await answer.json()) == ["version"]


async def test_any_bearer_key_is_taken(demo: DemoUpstream, session: aiohttp.ClientSession) -> None:
    headers = {"Authorization": "Bearer anything"}
    async with session.post(demo.url + CHAT, json=chat(), headers=headers) as answer:
        assert answer.status == 200
