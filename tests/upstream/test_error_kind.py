"""What goes wrong with a model server has one word, in the log and in the metrics: real sockets, real faults."""

import asyncio
import contextlib
import socket

import pytest

from proxy.upstream.error_kind import KINDS
from tests.fakes import (
    DONE,
    STREAM_END,
    STREAM_HEAD,
    Do,
    ScriptedUpstream,
    completion,
    event,
    head,
    text_chunk,
    text_stream,
    whole,
)
from tests.observe.told import told

REFUSAL = {"error": {"message": "no", "type": "x"}}
BEGUN = STREAM_HEAD + event(text_chunk("", role="assistant")) + event(text_chunk("a"))
SILENT = {"first_byte_timeout_s": 0.1, "between_bytes_timeout_s": 0.1}
#: An answer whose usage says that the model spoke, and that has nothing in it.
MUTE = {
    **completion(),
    "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "total_tokens": 43, "completion_tokens": 40},
}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]

#: kind, what the model server does, what is asked, settings
CASES = [
    ("no_answer", [Do.CLOSE], {}, {}),
    ("no_answer", [Do.RESET], {"stream": True}, {}),
    ("first_byte_timeout", [Do.WAIT_FOR_PEER], {}, SILENT),
    ("first_byte_timeout", [Do.WAIT_FOR_PEER], {"stream": True}, SILENT),
    ("total_timeout", [Do.WAIT_FOR_PEER], {}, {"timeout_s": 0.1}),
    ("between_bytes_timeout", [BEGUN, Do.WAIT_FOR_PEER], {"stream": True}, SILENT),
    ("cut", [BEGUN, Do.RESET], {"stream": True}, {}),
    ("cut", [BEGUN + STREAM_END], {"stream": True}, {}),
    ("cut", [head(content_type="application/json", content_length="900") + b"{", Do.CLOSE], {}, {}),
    ("malformed", [b"nothing like HTTP\r\n\r\n"], {}, {}),
    ("malformed", [whole(b"not JSON")], {}, {}),
    ("malformed", [STREAM_HEAD + event(b"not JSON") + DONE + STREAM_END], {"stream": True}, {}),
    ("malformed", [whole(b"", 307, location="http://127.0.0.1:1/")], {}, {}),
    ("status_4xx", [whole(REFUSAL, 400)], {}, {}),
    ("status_429", [whole(REFUSAL, 429)], {"stream": True}, {}),
    ("status_5xx", [whole(REFUSAL, 500)], {}, {}),
    ("error_in_answer", [whole(REFUSAL)], {}, {}),
    ("error_in_answer", [BEGUN + event(REFUSAL) + DONE + STREAM_END], {"stream": True}, {}),
    ("swallowed_call", [whole(MUTE)], {"tools": TOOLS, "tool_choice": "auto"}, {}),
]


@pytest.mark.parametrize(
    ("kind", "script", "asked", "settings"), CASES, ids=[f"{number}-{case[0]}" for number, case in enumerate(CASES)]
)
async def test_a_fault_has_one_word(start_proxy, kind, script, asked, settings):
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url, max_attempts=1, **settings)
        async with proxy.chat(**asked) as response:
            await response.read()
        line = await proxy.log.line()
        values = await told(proxy.edge.metrics)

    assert line["upstream_errors"] == [kind]
    assert values["upstream_errors_total", kind] == 1
    assert [name for name in values if name[0] == "upstream_errors_total"] == [("upstream_errors_total", kind)]


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("connect_refused", "http://127.0.0.1:{port}"),
        ("dns", "http://nowhere.invalid:{port}"),
        ("connect_failed", "unix:/nowhere/at/all.sock"),
    ],
)
@pytest.mark.parametrize("shortcuts", ["push", "none"])
async def test_no_connection_has_a_word_for_why(start_proxy, unused_port, kind, url, shortcuts):
    proxy = await start_proxy(url.format(port=unused_port), max_attempts=1, shortcuts=shortcuts)
    async with proxy.chat() as response:
        assert response.status == 502

    assert (await proxy.log.line())["upstream_errors"] == [kind]


@pytest.mark.parametrize("shortcuts", ["push", "none"])
async def test_a_server_without_tls_where_it_should_speak_it_has_a_word(start_proxy, shortcuts):
    async with await asyncio.start_server(_in_plain_words, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxy = await start_proxy(url, max_attempts=1, shortcuts=shortcuts)
        async with proxy.chat() as response:
            assert response.status == 502

    assert (await proxy.log.line())["upstream_errors"] == ["tls"]


async def _in_plain_words(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def test_a_connection_that_does_not_come_about_in_time_has_a_word(start_proxy):
    """A listener whose queue is full lets nobody in."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as fillers:
        for _ in range(4):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        proxy = await start_proxy(url, max_attempts=1, connect_timeout_s=0.2)
        async with proxy.chat() as response:
            assert response.status == 504

    assert (await proxy.log.line())["upstream_errors"] == ["connect_timeout"]


async def test_every_time_that_a_request_is_sent_counts(start_proxy):
    """The second answer is fine: the client sees no error, and the metrics do."""
    async with (
        ScriptedUpstream([whole(REFUSAL, 503)], [whole(completion())]) as a,
        ScriptedUpstream([whole(REFUSAL, 503)], [whole(completion())]) as b,
    ):
        proxy = await start_proxy(f"{a.url},{b.url}")
        async with proxy.chat() as response:
            assert response.status == 503
        line = await proxy.log.line()

    assert line["upstream_errors"] == ["status_5xx", "status_5xx"]


async def test_a_stale_connection_has_a_word_although_nobody_sees_it(start_proxy):
    async with ScriptedUpstream([whole(completion())], [Do.CLOSE], [text_stream("a")]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.chat() as response:
            assert response.status == 200
        async with proxy.chat(stream=True) as response:
            assert response.status == 200
            await response.read()
        values = await told(proxy.edge.metrics)

    assert values["upstream_errors_total", "stale_connection"] == 1
    assert values["retries_total", "stale_connection"] == 1


def test_every_word_is_seen_in_a_test():
    seen = {case[0] for case in CASES}
    elsewhere = {"connect_refused", "connect_timeout", "connect_failed", "dns", "tls", "stale_connection"}

    assert set(KINDS) == seen | elsewhere
