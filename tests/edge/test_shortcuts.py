"""Whatever shortcuts are taken, clients and model servers get the same bytes as without any."""

import asyncio
import re

import pytest

from proxy.config import Config
from proxy.upstream.shortcuts import is_tested, takes
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

LEVELS = ["answer", "upstream", "push"]


def post(body, *headers, version="1.1", path="/v1/chat/completions"):
    lines = [f"POST {path} HTTP/{version}", "Host: proxy", "x-request-id: same", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", body]).encode()


ASK = '{"model":"devstral","messages":[{"role":"user","content":"Hi"}]}'
ASK_STREAM = ASK[:-1] + ',"stream":true}'
ASK_REPAIRED = ASK_STREAM[:-1] + ',"store":true}'
LAST = "Connection: close"
FAILED = b'{"object":"error","message":"no","type":"BadRequestError","param":null,"code":400}'


def failed(status, **headers):
    return head(status=status, content_type="application/json", content_length=str(len(FAILED)), **headers) + FAILED


#: A traceparent up to its span.
SPAN_ID = r"(00-[0-9a-f]{32}-)[0-9a-f]{16}"

#: name -> what the client sends, what the model server answers
EXCHANGES = {
    "whole": (post(ASK, LAST), [whole(completion())]),
    "whole, in two pieces": (post(ASK, LAST), [whole(completion())[:-9], 0.02, whole(completion())[-9:]]),
    "two on one connection": (post(ASK) + post(ASK, LAST), [whole(completion())]),
    "a stream": (post(ASK_STREAM, LAST), [text_stream("Hello", " you")]),
    "a stream and one more request": (post(ASK_STREAM) + post(ASK_STREAM, LAST), [text_stream("Hello")]),
    "a stream in pieces": (post(ASK_STREAM, LAST), [text_stream("a", "b")[:150], 0.02, text_stream("a", "b")[150:]]),
    "a repaired request": (post(ASK_REPAIRED, LAST), [text_stream("Hello")]),
    "a trace": (post(ASK, f"traceparent: 00-{'a' * 32}-{'b' * 16}-01", "tracestate: a=1", LAST), [whole(completion())]),
    "HTTP/1.0": (post(ASK, version="1.0"), [whole(completion())]),
    "a stream over HTTP/1.0": (post(ASK_STREAM, version="1.0"), [text_stream("Hello")]),
    "HEAD": (b"HEAD /health/live HTTP/1.1\r\nHost: a\r\nx-request-id: same\r\nConnection: close\r\n\r\n", [b""]),
    "no such path": (post(ASK, LAST, path="/nowhere"), [b""]),
    "invalid JSON": (post(ASK[:-1], LAST), [b""]),
    "a body that nobody reads": (post(ASK, "Content-Type: text/plain", LAST), [b""]),
    "refused": (post(ASK, LAST), [failed(400)]),
    "refused, to a stream": (post(ASK_STREAM, LAST), [failed(422)]),
    "too many requests": (post(ASK, LAST), [failed(429, retry_after="7")]),
    "an unknown status": (post(ASK, LAST), [failed(499)]),
    "nothing": (post(ASK, LAST), [Do.CLOSE]),
    "no HTTP": (post(ASK, LAST), [b"SSH-2.0-OpenSSH\r\n", Do.CLOSE]),
    "half a whole answer": (post(ASK, LAST), [whole(completion())[:-9], Do.CLOSE]),
    "a cut stream": (post(ASK_STREAM, LAST), [STREAM_HEAD, event(text_chunk("Hel")), 0.02, Do.CLOSE]),
    "a reset stream": (post(ASK_STREAM, LAST), [STREAM_HEAD, event(text_chunk("Hel")), 0.05, Do.RESET]),
    "no reason to end": (post(ASK_STREAM, LAST), [STREAM_HEAD, event(text_chunk("Hel")), DONE, STREAM_END]),
    "events where JSON should be": (post(ASK, LAST), [text_stream("Hello")]),
    "JSON where events should be": (post(ASK_STREAM, LAST), [whole(completion())]),
}


async def exchanged(start_proxy, asked, script, shortcuts):
    """Return what the client got and what the model server was asked, without what differs between any two."""
    async with ScriptedUpstream(script) as upstream:
        proxy = await start_proxy(upstream.url, shortcuts=shortcuts)
        reader, writer = await proxy.raw(asked)
        async with asyncio.timeout(20):
            got = await reader.read()
        writer.close()
        line = (await proxy.log.line()) | {
            "timestamp": 0,
            "duration_ms": 0,
            "sent_ms": 0,
            "ttft_ms": 0,
            "upstream_ms": 0,
            "read_ms": 0,
            "translate_ms": 0,
            "connect_ms": 0 if upstream.requests else None,
            "span_id": "",
            "replica": "",
        }
        requests = [(each.method, each.target, sorted(each.headers), each.body) for each in upstream.requests]
    port = upstream.url.rpartition(":")[2]
    got = re.sub(rb"\r\nDate: [^\r]+", b"\r\nDate: now", got.replace(port.encode(), b"PORT"))
    got = re.sub(rb";dur=[0-9.]+", b";dur=0", got)
    asked = [re.sub(SPAN_ID, r"\1" + "0" * 16, repr(each).replace(port, "PORT")) for each in requests]
    return joined(got), asked, line


def joined(got):
    """Return an answer with its chunks joined: where one ends is the network's choice."""
    out, _, rest = got.partition(b"Transfer-Encoding: chunked")
    while size := re.search(rb"\r\n([0-9a-f]+)\r\n", rest):
        length = int(size[1], 16)
        out += rest[: size.start()] + rest[size.end() : size.end() + length] + (b"" if length else b"<end>")
        rest = rest[size.end() + length :]
        if not length and b"chunked" not in rest:
            break
    return out + rest


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", EXCHANGES)
async def test_a_shortcut_says_the_same(start_proxy, name, level):
    asked, script = EXCHANGES[name]

    plain = await exchanged(start_proxy, asked, script, "none")
    short = await exchanged(start_proxy, asked, script, level)

    assert plain[0].startswith(b"HTTP/1.")
    assert short == plain


@pytest.mark.parametrize(
    ("level", "taken"), [("none", []), ("answer", LEVELS[:1]), ("upstream", LEVELS[:2]), ("push", LEVELS)]
)
def test_each_level_includes_the_one_before(level, taken):
    config = Config(shortcuts=level)

    assert [name for name in LEVELS if takes(config, name)] == taken


@pytest.mark.parametrize(
    ("version", "tested"), [("3.14.5", True), ("3.14.99", True), ("3.15.0", False), ("4.0.0a1", False), ("3.1", False)]
)
def test_shortcuts_are_for_the_aiohttp_that_they_were_tested_with(version, tested):
    assert is_tested(version) is tested


def test_with_another_aiohttp_the_plain_way_is_taken(monkeypatch):
    monkeypatch.setattr("aiohttp.__version__", "3.15.0")

    assert not any(takes(Config(), name) for name in LEVELS)
