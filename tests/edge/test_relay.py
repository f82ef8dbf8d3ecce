"""POST /v1/chat/completions from end to end, with an upstream that plays a script."""

import asyncio
import json

import pytest

from proxy.edge.call import Call
from tests.fakes import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Do,
    ScriptedUpstream,
    chunk,
    completion,
    event,
    head,
    text_chunk,
    text_stream,
    whole,
)

ERROR = {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}


def payloads(stream: bytes) -> list[bytes]:
    assert stream.endswith(b"\n\n")
    return [event.removeprefix(b"data: ") for event in stream[:-2].split(b"\n\n")]


def text_of(stream: bytes) -> str:
    chunks = [json.loads(payload) for payload in payloads(stream) if payload != b"[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", []))


async def test_a_whole_answer(start_proxy):
    async with ScriptedUpstream([whole(completion("Hello"))]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(model="devstral") as response:
            answer = await response.json()

        assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
        assert answer["choices"][0]["message"]["content"] == "Hello"
        assert upstream.requests[0].json["messages"] == [{"role": "user", "content": "Hi"}]


async def test_a_streamed_answer(start_proxy):
    async with ScriptedUpstream([text_stream("Hel", "lo")]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            stream = await response.read()

        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert text_of(stream) == "Hello"
        assert payloads(stream)[-1] == b"[DONE]"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_rules_that_changed_a_request_are_named_in_a_header(start_proxy, stream):
    script = text_stream("x") if stream else whole(completion())
    async with ScriptedUpstream([script]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=stream) as response:
            untouched = response.headers.get("x-proxy-rewrites", "")
        developer = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        async with proxy.chat(stream=stream, messages=developer) as response:
            rewritten = response.headers["x-proxy-rewrites"]

        assert "developer" not in untouched
        assert "developer" in rewritten
        assert upstream.requests[1].json["messages"][0]["role"] == "system"


async def test_connections_to_the_upstream_are_used_again(start_proxy):
    async with ScriptedUpstream([text_stream("a")], [whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        for stream in (True, False, False):
            async with proxy.chat(stream=stream) as response:
                await response.read()

        assert (len(upstream.requests), upstream.connections_made) == (3, 1)


async def test_a_connection_whose_end_comes_after_done_is_used_again(start_proxy):
    """uvicorn sends the end of the chunked body in a segment of its own."""
    done = asyncio.Event()
    answer = text_stream("a").removesuffix(STREAM_END)
    async with ScriptedUpstream([answer, done, STREAM_END], [whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        done.set()
        await proxy.log.line()
        async with proxy.chat() as response:
            assert response.status == 200

        assert upstream.connections_made == 1


async def test_the_clients_stream_ends_with_done_even_if_the_upstreams_end_is_late(start_proxy):
    script = [STREAM_HEAD, event(text_chunk("a")), event(text_chunk(finish="stop")), DONE, Do.WAIT_FOR_PEER]
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            assert payloads(await response.read())[-1] == b"[DONE]"
        assert (await proxy.log.line())["error"] is None


# --- errors of the model server


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500, 503])
async def test_an_upstreams_error_keeps_its_status(start_proxy, stream, status):
    async with ScriptedUpstream([whole(ERROR, status, retry_after="7")]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=stream) as response:
            error = (await response.json())["error"]

        assert (response.status, error["message"]) == (status, "too long")
        assert response.headers["Retry-After"] == "7"
        assert len(upstream.requests) == 1


async def test_an_error_event_before_anything_else_becomes_a_real_status(start_proxy):
    async with ScriptedUpstream([STREAM_HEAD, event(ERROR), DONE, STREAM_END]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            assert (response.status, response.headers["Content-Type"]) == (400, "application/json")
            assert (await response.json())["error"]["message"] == "too long"


async def test_an_error_event_after_text_ends_the_stream_and_closes_the_upstream(start_proxy):
    relayed = asyncio.Event()
    script = [STREAM_HEAD, event(text_chunk("Hel")), relayed, event(ERROR), Do.WAIT_FOR_PEER]
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            relayed.set()
            stream = await response.read()

        assert response.status == 200
        assert text_of(stream) == "Hel"
        assert json.loads(payloads(stream)[-2])["error"]["message"] == "too long"
        await upstream.left.wait()


async def test_the_upstream_is_closed_before_a_slow_client_has_the_error(start_proxy, monkeypatch):
    relayed = asyncio.Event()
    script = [STREAM_HEAD, event(text_chunk("Hel")), relayed, event(ERROR), Do.WAIT_FOR_PEER]
    async with ScriptedUpstream(script) as upstream, asyncio.timeout(5):

        async def end_late(call):
            await upstream.left.wait()
            return await end(call)

        end = Call.end
        monkeypatch.setattr(Call, "end", end_late)
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            relayed.set()
            await response.read()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_redirect_is_an_error_and_is_not_followed(start_proxy, stream):
    async with ScriptedUpstream([whole(b"", 307, location="/v1/elsewhere")]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=stream) as response:
            assert response.status == 502
            assert "307" in (await response.json())["error"]["message"]

        assert len(upstream.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("content_type", "named"), [("text/html", "text/html"), ("text/Canary", "another type")])
async def test_an_answer_of_another_type_is_an_error_that_names_it_if_it_is_known(
    start_proxy, stream, content_type, named
):
    async with ScriptedUpstream([whole(b"<html>canary</html>", content_type=content_type)]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=stream) as response:
            assert response.status == 502
            message = (await response.json())["error"]["message"]

        assert named in message
        assert "canary" not in (message + proxy.log.text).lower()


@pytest.mark.parametrize("body", [b"", b"canary", b"[]", b'{"choices": 7}', b'{"choices": [{"message": '])
async def test_an_answer_that_is_no_completion_is_502(start_proxy, body):
    async with ScriptedUpstream([whole(body)]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert response.status == 502
            assert "canary" not in await response.text() + proxy.log.text


async def test_a_failure_without_end_is_read_to_a_bound(start_proxy):
    endless = head(500, content_type="text/plain", transfer_encoding="chunked") + chunk(b"x" * (1 << 16)) * 64
    async with ScriptedUpstream([endless, Do.WAIT_FOR_PEER]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert response.status == 500
        await upstream.left.wait()


async def test_an_answer_over_the_bound_is_502(start_proxy, monkeypatch):
    monkeypatch.setattr("proxy.edge.whole.LONGEST_ANSWER", 100)
    async with ScriptedUpstream([whole(completion("x" * 100))]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert response.status == 502
            assert "100 bytes" in (await response.json())["error"]["message"]


# --- a stream made of a whole answer


async def test_json_in_answer_to_a_stream_request_is_played_as_a_stream(start_proxy):
    async with ScriptedUpstream([whole(completion("Hello"))]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            stream = await response.read()

        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert text_of(stream) == "Hello"
        assert payloads(stream)[-1] == b"[DONE]"


async def test_an_upstream_that_is_never_asked_to_stream_still_gives_a_stream(start_proxy):
    async with ScriptedUpstream([whole(completion("Hello"))]) as upstream:
        proxy = await start_proxy(upstream.url, options={"upstream_stream": "never"})
        async with proxy.chat(stream=True) as response:
            stream = await response.read()

        assert not upstream.requests[0].json.get("stream")
        assert text_of(stream) == "Hello"
