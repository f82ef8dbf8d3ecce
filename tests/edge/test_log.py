"""One line per request, with facts and without content."""

import msgspec
import pytest

from proxy.edge.record import Record
from tests.fakes import ScriptedUpstream, completion, text_stream, whole

CONTENT = "text that a client wrote"
FIELDS = {field.name for field in msgspec.structs.fields(Record)}


async def test_a_whole_answer_leaves_one_line(start_proxy):
    async with ScriptedUpstream([whole(completion("Hello"))]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(model="m" * 300) as response:
            body = await response.read()

        line = await proxy.log.line()
        assert len(proxy.log.text.splitlines()) == 1
        assert line.keys() - {"event", "level", "timestamp"} == FIELDS
        assert line["model"] == "m" * 200 + "…"
        assert (line["status"], line["stream"], line["error"], line["level"]) == (200, False, None, "info")
        assert (line["finish_reason"], line["tokens_in"], line["tokens_out"]) == ("stop", 3, 2)
        assert line["bytes_out"] == len(body)
        assert 0 < line["upstream_ms"] <= line["duration_ms"]


async def test_a_stream_leaves_one_line(start_proxy):
    async with ScriptedUpstream([text_stream("Hel", "lo")]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            body = await response.read()

        line = await proxy.log.line()
        assert len(proxy.log.text.splitlines()) == 1
        assert (line["status"], line["stream"], line["finish_reason"]) == (200, True, "stop")
        assert line["events"] >= 4
        assert line["bytes_out"] == len(body)
        assert 0 < line["ttft_ms"] <= line["duration_ms"]


async def test_an_upstream_that_is_down_is_a_warning(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    async with proxy.chat() as response:
        assert response.status == 502

    line = await proxy.log.line()
    assert (line["level"], line["error"], line["error_type"]) == ("warning", "upstream_unavailable", "server_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unexpected_error_is_500_without_detail_and_a_traceback_in_the_log(start_proxy, monkeypatch, stream):
    def failing(*_args, **_options):
        raise RuntimeError(CONTENT)

    monkeypatch.setattr("proxy.edge.question.translate_request", failing)
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=stream) as response:
            assert response.status == 500
            error = (await response.json())["error"]
            request_id = response.headers["x-request-id"]

        assert (error["type"], error["code"]) == ("server_error", "internal_error")
        assert CONTENT not in error["message"]
        assert request_id in error["message"]
        assert "RuntimeError" in proxy.log.lines("unexpected_error")[0]["exception"]
        assert CONTENT not in proxy.log.text
        assert (await proxy.log.line())["status"] == 500


async def test_an_unexpected_error_inside_a_stream_ends_it_with_an_error_event(start_proxy, monkeypatch):
    async with ScriptedUpstream([text_stream("Hello")]) as upstream:
        proxy = await start_proxy(upstream.url)

        async def failing(_answer):
            raise RuntimeError(CONTENT)

        monkeypatch.setattr("proxy.upstream.exchange.Exchange.settle", failing)
        monkeypatch.setattr("proxy.upstream.plain.PlainAnswer.settle", failing)
        async with proxy.chat(stream=True) as response:
            stream = await response.read()

        assert response.status == 200
        assert stream.endswith(b"data: [DONE]\n\n")
        assert CONTENT.encode() not in stream
        assert (await proxy.log.line())["error"] == "internal_error"
