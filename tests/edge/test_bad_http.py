"""
What aiohttp answers by itself has this project's shape too.

This also holds aiohttp to the two methods of `web.RequestHandler` that `Connection` replaces.
"""

import json

import pytest

BAD = {
    "not HTTP": b"canary-7f3a9c\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03canary-7f3a9c\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: x\r\ncanary-7f3a9c\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: x\r\nX-A : canary-7f3a9c\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: canary-7f3a9c\r\n b\r\n\r\n",
    "a NUL in a value": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: canary-7f3a9c\x00\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "an unknown transfer coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
}


def parsed(answer: bytes) -> tuple[int, dict[str, str], dict]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split(" ")[1]), headers, json.loads(body)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
async def test_bytes_that_are_not_http_get_a_400_in_openais_shape_and_the_connection_ends(
    start_proxy, unused_port, capfd, data
):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    reader, writer = await proxy.raw(data)
    status, headers, body = parsed(await reader.read())
    writer.close()

    assert status == 400
    assert body["error"] == {
        "message": "The request is not valid HTTP/1.1.",
        "type": "invalid_request_error",
        "param": None,
        "code": "malformed_http",
    }
    line = await proxy.log.line()
    assert (line["status"], line["client_ip"]) == (400, "127.0.0.1")
    assert headers["x-request-id"] == line["request_id"]
    assert "canary" not in proxy.log.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n",
    ],
    ids=["request line", "header"],
)
async def test_a_line_over_the_limit_is_431_and_names_the_limit(start_proxy, unused_port, data):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    reader, writer = await proxy.raw(data)
    status, _, body = parsed(await reader.read())
    writer.close()

    assert (status, body["error"]["code"]) == (431, "headers_too_large")
    assert "8190 bytes" in body["error"]["message"]


async def test_a_target_that_the_router_cannot_place_gets_the_same_shape(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    reader, writer = await proxy.raw(b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    status, headers, body = parsed(await reader.read())
    writer.close()

    assert (status, headers["content-type"], body["error"]["code"]) == (404, "application/json", "not_found")


async def test_no_answer_names_the_server_software(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    for path in ("/", "/nowhere"):
        async with proxy.session.get(proxy.url + path) as response:
            assert response.headers["Server"] == "devstral-proxy"


async def test_100_continue_is_sent_only_when_the_body_will_be_read(start_proxy, unused_port):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", max_body_bytes=100)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"

    reader, writer = await proxy.raw(head % 101)
    assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()

    reader, writer = await proxy.raw(head % 2)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"[]")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
    writer.close()
