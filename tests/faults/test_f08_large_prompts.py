"""
F08: what a large prompt costs is not paid by the streams of others, and no event costs a timer.

kubernetes-sigs/gateway-api-inference-extension#2928; BerriAI/litellm#13546; ray-project/ray#59681.
"""

import ast
import asyncio
import threading
from pathlib import Path

import pytest

import proxy.edge.question as question
from tests.fakes import DONE, STREAM_END, STREAM_HEAD, ScriptedUpstream, completion, event, text_chunk, whole

#: Twice what is translated on the loop, and half of what aiohttp's client warns about.
LARGE = 512 * 1024
TEXTS = ["a", "b", "c"]
#: Only a bound for a test that would else hang.
PATIENCE_S = 10

#: What an event passes on its way: from the model server's socket through the translator to the client's.
PATH = [
    *("upstream/exchange.py", "edge/streaming.py", "edge/answer.py", "edge/heartbeat.py"),
    *("translate/stream.py", "translate/answer_plain.py", "wire/sse.py"),
]
TIMERS = {"call_later", "call_at", "wait_for", "timeout", "timeout_at", "sleep"}


async def test_a_streams_events_pass_while_a_large_body_is_translated(start_proxy, monkeypatch):
    """No clocks: the translation does not end before the stream has."""
    begun, may_end = threading.Event(), threading.Event()
    translate = question.translate_request

    def held(body, *arguments, **options):
        if len(body) > LARGE:
            begun.set()
            assert may_end.wait(PATIENCE_S), "the loop waited for the translation"
        return translate(body, *arguments, **options)

    monkeypatch.setattr(question, "translate_request", held)
    seen = [asyncio.Event() for _ in TEXTS]
    script = [STREAM_HEAD]
    for text, relayed in zip(TEXTS, seen, strict=True):
        script += [event(text_chunk(text)), relayed]
    script += [event(text_chunk(finish="stop")), DONE, STREAM_END]
    async with ScriptedUpstream(script, [whole(completion())]) as upstream, asyncio.timeout(PATIENCE_S):
        proxy = await start_proxy(upstream.url)
        async with proxy.chat(stream=True) as response:
            large = asyncio.ensure_future(proxy.chat(messages=[{"role": "user", "content": "x" * LARGE}]).__aenter__())
            await asyncio.to_thread(begun.wait, PATIENCE_S)
            for text, relayed in zip(TEXTS, seen, strict=True):
                await until_text(response, text)
                relayed.set()
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
            assert not large.done()
        may_end.set()
        assert (await large).status == 200
        assert len(upstream.requests[1].body) > LARGE


async def until_text(response, text):
    """Read events up to the one with this text."""
    while f'"content":"{text}"'.encode() not in (await response.content.readuntil(b"\n\n")).replace(b" ", b""):
        pass


@pytest.mark.parametrize("name", PATH)
def test_nothing_on_the_path_of_an_event_sets_a_timer(name):
    """One timer of a worker looks at all exchanges (upstream/sweep.py); another one beats for silent streams."""
    tree = ast.parse((Path(proxy_folder()) / name).read_text(encoding="utf-8"))
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "") for func in called}

    assert names & TIMERS == set()


def proxy_folder():
    return Path(question.__file__).parent.parent
