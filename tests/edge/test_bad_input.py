"""Every bad input is a 4xx in OpenAI's shape; what the client wrote stays out of the log."""

import asyncio
import json

import pytest

from tests.fakes import ScriptedUpstream, completion, until, whole

CANARY = "canary-7f3a9c"
MIB = 1024 * 1024

BAD_BODIES = {
    "empty": b"",
    "not JSON": b"canary-7f3a9c",
    "cut JSON": b'{"messages": [{"role": "user", "content": "canary-7f3a9c',
    "trailing text": b'{"messages": [{"role": "user", "content": "canary-7f3a9c"}]} x',
    "not UTF-8": b'{"messages": [{"role": "user", "content": "canary-7f3a9c\xff"}]}',
    "a list": b'["canary-7f3a9c"]',
    "a string": b'"canary-7f3a9c"',
    "null": b"null",
    "no messages": b'{"model": "canary-7f3a9c"}',
    "messages empty": b'{"model": "m", "messages": []}',
    "messages no list": b'{"model": "m", "messages": {"role": "user", "content": "canary-7f3a9c"}}',
    "a message no object": b'{"model": "m", "messages": ["canary-7f3a9c"]}',
    "unknown role": b'{"model": "m", "messages": [{"role": "narrator", "content": "canary-7f3a9c"}]}',
    "no role": b'{"model": "m", "messages": [{"content": "canary-7f3a9c"}]}',
    "model no string": b'{"model": 7, "messages": [{"role": "user", "content": "canary-7f3a9c"}]}',
    "stream no boolean": b'{"model": "m", "stream": "canary-7f3a9c", "messages": [{"role": "user", "content": "x"}]}',
    "deep": b'{"model": "m", "messages": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep and open": b'{"model": "m", "messages": ' + b"[" * 200_000,
    "deep in a field that is passed on": (
        b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    ),
    "NaN": b'{"model": "m", "temperature": NaN, "messages": [{"role": "user", "content": "canary-7f3a9c"}]}',
    "Infinity": b'{"model": "m", "temperature": -Infinity, "messages": [{"role": "user", "content": "canary-7f3a9c"}]}',
    "lone surrogate, raw": b'{"model": "m", "messages": [{"role": "user", "content": "canary-7f3a9c \xed\xa0\x80"}]}',
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_bad_body_is_400_in_openais_shape_and_goes_nowhere(start_proxy, body):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with (
            asyncio.timeout(5),
            proxy.session.post(
                f"{proxy.url}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
            ) as response,
        ):
            error = (await response.json())["error"]

        assert response.status == 400
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert upstream.requests == []
        line = await proxy.log.line()
        assert (line["status"], line["level"]) == (400, "info")
        assert CANARY not in proxy.log.text.replace('"model": "canary', "")


ODD_BODIES = {
    "lone surrogate, escaped": b'{"model": "m", "messages": [{"role": "user", "content": "x \\ud800"}]}',
    "duplicate keys": b'{"model": "a", "model": "m", "messages": [], "messages": [{"role": "user", "content": "x"}]}',
    "a huge number": b'{"model": "m", "seed": 1' + b"0" * 400 + b', "messages": [{"role": "user", "content": "x"}]}',
}


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES)
async def test_odd_json_is_either_translated_or_refused_and_never_a_500(start_proxy, body):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.post(
            f"{proxy.url}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status in (200, 400)
        for request in upstream.requests:
            assert request.json["messages"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "Application/JSON; charset=utf-8"}, 200),
        ({"Content-Type": "application/vnd.api+json"}, 200),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "identity"}, 200),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "identity, br"}, 415),
    ],
)
async def test_only_plain_json_is_read(start_proxy, headers, status):
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.post(f"{proxy.url}/v1/chat/completions", data=body, headers=headers) as response:
            assert response.status == status
            if status == 415:
                assert (await response.json())["error"]["code"] == "unsupported_media_type"


async def test_a_missing_content_type_is_taken_for_json(start_proxy):
    async with ScriptedUpstream([whole(completion())]) as upstream:
        proxy = await start_proxy(upstream.url)
        async with proxy.session.post(
            f"{proxy.url}/v1/chat/completions",
            data=b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}',
            skip_auto_headers=["Content-Type"],
        ) as response:
            assert response.status == 200


async def test_a_body_that_does_not_arrive_is_408_and_names_the_timer(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", read_timeout_s=0.05)
    reader, writer = await proxy.raw(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + b'{"model":'
    )

    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readuntil(b"}}")
    writer.close()

    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in head
    assert b"read_timeout_s" in body
    assert (await proxy.log.line())["error"] == "request_timeout"


@pytest.mark.parametrize("together", [True, False], ids=["in one piece", "after the headers"])
async def test_broken_chunks_are_a_400_and_the_end_of_the_connection(start_proxy, unused_port, together):
    """Once the handler reads, aiohttp drops what follows broken framing without a word, and leaves it waiting."""
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    broken = b"zz\r\n{}\r\n"
    reader, writer = await proxy.raw(head + broken if together else head)
    if not together:
        await until(lambda: len(proxy.edge.in_flight))
        writer.write(broken)

    answer = await reader.readuntil(b"}}")
    writer.close()

    first_line, _, rest = answer.partition(b"\r\n")
    assert first_line.split(b" ")[1] == b"400"
    assert json.loads(rest.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
