"""
F03: an answer that was cut never looks like a whole one.

BerriAI/litellm#42085 (a synthesised "stop"); open-webui/open-webui#29628.
"""

import asyncio
import json

import pytest

from tests.fakes import STREAM_END, STREAM_HEAD, Do, ScriptedUpstream, completion, event, head, text_chunk, whole

CUTS = {
    "reset": [Do.RESET],
    "FIN inside the chunked body": [Do.CLOSE],
    "a clean end without [DONE]": [STREAM_END],
    "a clean end inside an event": [b'8\r\ndata: {"\r\n' + STREAM_END],
    "broken chunked framing": [b"zz\r\n"],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_a_stream_that_was_cut_ends_in_an_error_event_and_done(start_proxy, cut):
    relayed = asyncio.Event()
    async with ScriptedUpstream([STREAM_HEAD, event(text_chunk("Hel")), relayed, *cut]) as upstream, asyncio.timeout(5):
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            assert response.status == 200
            start = await response.content.readuntil(b"\n\n")
            relayed.set()
            stream = start + await response.content.read()

        *_, error, done, rest = stream.split(b"\n\n")
        assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == "upstream_disconnected"
        assert (done, rest) == (b"data: [DONE]", b"")
        assert b'"finish_reason":"' not in stream.replace(b" ", b"")
        line = await proxy.log.line()
        assert (line["error"], line["level"], line["finish_reason"]) == ("upstream_disconnected", "warning", None)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
async def test_a_stream_that_was_cut_before_its_first_event_is_502(start_proxy, cut):
    async with ScriptedUpstream([STREAM_HEAD, *cut]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            assert response.status == 502
            assert (await response.json())["error"]["code"] == "upstream_disconnected"


@pytest.mark.parametrize("end", [Do.CLOSE, Do.RESET], ids=["FIN", "RST"])
async def test_a_whole_answer_that_was_cut_is_502(start_proxy, end):
    async with ScriptedUpstream([whole(completion())[:-5], end]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert response.status == 502
            assert (await response.json())["error"]["code"] == "upstream_disconnected"


async def test_an_answer_without_a_length_that_ends_with_the_connection_is_whole(start_proxy):
    body = json.dumps(completion("Hello")).encode()
    async with ScriptedUpstream([head(content_type="application/json") + body, Do.CLOSE]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert response.status == 200
