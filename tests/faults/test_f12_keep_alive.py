"""
F12: a silent stream is kept open by comments, at event boundaries only, and before the first token too.

vllm-project/vllm#47647, #51034; maximhq/bifrost#5010. The upstream stays silent until the client has the comments.
"""

import asyncio

import pytest

from proxy.edge.heartbeat import COMMENT
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, ScriptedUpstream, chunk, event, text_chunk, whole
from tests.observe.told import told

BEAT_S = 0.02
#: Only a bound for a test that would else hang.
PATIENCE_S = 10


async def comments(response, count):
    for _ in range(count):
        assert await response.content.readuntil(b"\n\n") == COMMENT


async def test_comments_come_while_the_upstream_has_not_answered_yet(start_proxy):
    heard = asyncio.Event()
    script = [
        heard,
        STREAM_HEAD,
        event(text_chunk("Hi", role="assistant")),
        event(text_chunk(finish="stop")),
        DONE,
        STREAM_END,
    ]
    async with ScriptedUpstream(script) as upstream, asyncio.timeout(PATIENCE_S):
        proxy = await start_proxy(upstream.url, keep_alive_s=BEAT_S)
        async with proxy.chat(stream=True) as response:
            assert response.status == 200
            await comments(response, 2)
            heard.set()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")


async def test_comments_stand_between_events_and_never_inside_one(start_proxy):
    heard, half = asyncio.Event(), event(text_chunk("split"))
    script = [STREAM_HEAD, event(text_chunk("a", role="assistant")), half[:-9], heard, half[-9:]]
    script += [event(text_chunk(finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream(script) as upstream, asyncio.timeout(PATIENCE_S):
        proxy = await start_proxy(upstream.url, keep_alive_s=BEAT_S)
        async with proxy.chat(stream=True) as response:
            while b'"a"' not in await response.content.readuntil(b"\n\n"):
                pass
            await comments(response, 2)
            heard.set()
            rest = (await response.read()).replace(COMMENT, b"")
            assert all(part.startswith(b"data: ") for part in rest.split(b"\n\n")[:-1])
            assert b'"split"' in rest


async def test_comments_keep_a_client_that_streams_while_the_upstream_is_asked_whole(start_proxy):
    heard = asyncio.Event()
    answer = {
        "id": "c",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    }
    async with ScriptedUpstream([heard, whole(answer)]) as upstream, asyncio.timeout(PATIENCE_S):
        proxy = await start_proxy(upstream.url, keep_alive_s=BEAT_S, options={"upstream_stream": "never"})
        async with proxy.chat(stream=True) as response:
            await comments(response, 2)
            heard.set()
            assert b'"content":"Hi"' in await response.read()
        assert upstream.requests[0].json["stream"] is False


async def test_an_error_after_a_comment_is_an_event(start_proxy):
    heard = asyncio.Event()
    async with ScriptedUpstream([heard, whole({"error": {"message": "full"}}, status=503)]) as upstream:
        proxy = await start_proxy(upstream.url, keep_alive_s=BEAT_S)
        async with proxy.chat(stream=True) as response, asyncio.timeout(PATIENCE_S):
            await comments(response, 1)
            heard.set()
            rest = (await response.read()).replace(COMMENT, b"")
        assert rest.startswith(b'data: {"error":')
        assert rest.endswith(b"data: [DONE]\n\n")
        assert (await proxy.log.line())["error"] is not None


async def test_comments_do_not_calm_the_upstreams_timers(start_proxy):
    async with ScriptedUpstream([STREAM_HEAD, Do.WAIT_FOR_PEER]) as upstream, asyncio.timeout(PATIENCE_S):
        proxy = await start_proxy(upstream.url, keep_alive_s=BEAT_S, first_byte_timeout_s=10 * BEAT_S)
        async with proxy.chat(stream=True) as response:
            stream = await response.read()
        assert stream.startswith(COMMENT)
        assert b"first_byte_timeout_s" in stream


async def test_no_comment_comes_when_the_interval_is_zero(start_proxy):
    silence = 5 * BEAT_S
    script = [STREAM_HEAD, silence, event(text_chunk("Hi")), event(text_chunk(finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url, keep_alive_s=0)
        async with proxy.chat(stream=True) as response:
            assert COMMENT not in await response.read()


async def test_comments_are_neither_a_first_token_nor_the_end_of_a_gap(start_proxy):
    began, went_on = asyncio.Event(), asyncio.Event()
    script = [began, STREAM_HEAD, event(text_chunk("a", role="assistant")), went_on, event(text_chunk("b"))]
    script += [event(text_chunk(finish="stop")) + DONE, STREAM_END]
    async with ScriptedUpstream(script) as upstream, asyncio.timeout(PATIENCE_S):
        proxy = await start_proxy(upstream.url, keep_alive_s=BEAT_S)
        async with proxy.chat(stream=True) as response:
            await comments(response, 4)
            began.set()
            while b'"a"' not in await response.content.readuntil(b"\n\n"):
                pass
            await comments(response, 4)
            went_on.set()
            await response.read()
        line = await proxy.log.line()
        values = await told(proxy.edge.metrics)

    # A comment comes after BEAT_S without a write: four of them bridged three times that, or more.
    assert line["ttft_ms"] > 3000 * BEAT_S
    assert values["time_to_first_token_seconds_sum",] > 3 * BEAT_S
    assert values["inter_token_gap_seconds_count",] < line["events"]
    assert values["inter_token_gap_seconds_sum",] > 3 * BEAT_S


async def test_a_stream_of_comments_that_fails_has_no_first_token(start_proxy):
    heard = asyncio.Event()
    async with ScriptedUpstream([heard, whole({"error": {"message": "full"}}, status=503)]) as upstream:
        proxy = await start_proxy(upstream.url, keep_alive_s=BEAT_S)
        async with proxy.chat(stream=True) as response, asyncio.timeout(PATIENCE_S):
            await comments(response, 2)
            heard.set()
            await response.read()
        assert (await proxy.log.line())["ttft_ms"] is None


@pytest.mark.parametrize(
    "fault",
    [
        [event({"error": {"message": "out of memory", "code": 500}}) + DONE, STREAM_END],
        [chunk(b": busy\n\n"), STREAM_END],
    ],
    ids=["error event", "no answer"],
)
async def test_a_stream_that_breaks_after_comments_has_no_first_token(start_proxy, fault):
    heard = asyncio.Event()
    async with ScriptedUpstream([heard, STREAM_HEAD, *fault]) as upstream:
        proxy = await start_proxy(upstream.url, keep_alive_s=BEAT_S)
        async with proxy.chat(stream=True) as response, asyncio.timeout(PATIENCE_S):
            await comments(response, 2)
            heard.set()
            stream = await response.read()
        line = await proxy.log.line()
    assert b'data: {"error"' in stream
    assert stream.endswith(b"data: [DONE]\n\n")
    assert line["ttft_ms"] is None
