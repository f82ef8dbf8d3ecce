"""
Few bytes that would become many, or much work: refused or done in bounded memory, while the proxy answers others.

Each is thrown at a real process with one worker. Its peak of resident memory is the kernel's own figure (VmHWM), and as
long as the bomb is under way, /livez is asked again and again and must answer every time. What is bounded is memory and
who else is served; how long it takes is the machine's affair. CWE-409, CWE-674, CWE-770; OWASP API4:2023.
"""

import asyncio
import contextlib
import json
import re
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import STREAM_HEAD, Do, ScriptedUpstream, chunk, completion, event, head, text_chunk, whole
from tests.process.conftest import Group, running

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for a peak of memory")

MIB = 1024 * 1024
#: The longest that anything here may take: far above what it does, and no claim.
DEADLINE_S = 120
LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Target:
    """A proxy with one worker, and the worker's memory in MiB."""

    def __init__(self, group: Group) -> None:
        [self._pid] = group.workers() or [group.process.pid]
        self.port = group.port

    @property
    def peak(self) -> int:
        """The most that was resident since `forget()`."""
        [kib] = re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{self._pid}/status").read_text())
        return int(kib) // 1024

    def forget(self) -> None:
        """Let the peak be what is resident now."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    async def ask(self, *pieces: bytes, until: bytes = b"\0") -> bytes:
        """Send these pieces; return what is answered up to `until` or the end, whether or not everything was taken."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        sending = asyncio.create_task(_send(writer, pieces))
        try:
            async with asyncio.timeout(DEADLINE_S):
                answer = b""
                with contextlib.suppress(ConnectionError):
                    while until not in answer and (piece := await reader.read(65536)):
                        answer += piece
                return answer
        finally:
            sending.cancel()
            await asyncio.wait([sending])
            writer.close()

    async def thrown(self, *pieces: bytes, until: bytes = b"\0") -> bytes:
        """Do the same, and ask /livez meanwhile: each time it must answer."""
        asking = asyncio.create_task(self.ask(*pieces, until=until))
        while not asking.done():
            assert (await self.ask(LIVE)).startswith(b"HTTP/1.1 200 "), "nobody else is served"
            await asyncio.sleep(0.01)
        return await asking


async def _send(writer: asyncio.StreamWriter, pieces: Sequence[bytes]) -> None:
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()


class Running:
    """`async with Running(upstream, NAME=value, ...) as target`: the proxy, with its log read away."""

    def __init__(self, upstream: ScriptedUpstream, **environment: str) -> None:
        self._running = running(1, VLLM_BASE=upstream.url, **environment)

    async def __aenter__(self) -> Target:
        group = await self._running.__aenter__()
        assert group.process.stdout is not None
        self._log = asyncio.create_task(_read_away(group.process.stdout))
        return Target(group)

    async def __aexit__(self, *problem: Any) -> None:
        self._log.cancel()
        await asyncio.wait([self._log])
        await self._running.__aexit__(*problem)


async def _read_away(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Connection: close", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> dict[str, Any]:
    """The error of an answer, which has OpenAI's shape."""
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return dict(error)


# --- bodies that are large, deep or many

#: Sixteen times the largest body, which is 32 MiB, on top of what the idle worker has.
MOST_MIB = 512

_USER = b'{"role":"user","content":"x"}'


def _with(members: bytes) -> bytes:
    return b'{"model":"m","messages":[' + _USER + b"]," + members + b"}"


def _of(message: bytes, times: int = 1) -> bytes:
    return b'{"model":"m","messages":[' + b",".join([message] * times) + b"]}"


def _list(item: bytes, times: int) -> bytes:
    return b"[" + b",".join([item] * times) + b"]"


def _keys(times: int, value: bytes) -> bytes:
    return b",".join(b'"key%d":%b' % (number, value) for number in range(times))


def _calls(arguments: bytes) -> bytes:
    return (
        b'{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"%b"}}]}'
        % arguments
    )


BODIES = {
    "a text of 31 MiB": lambda: _of(b'{"role":"user","content":"' + b"x" * (31 * MIB) + b'"}'),
    "a text of escapes": lambda: _of(b'{"role":"user","content":"' + rb"\u0041" * (5 * MIB) + b'"}'),
    "100,000 lists inside each other": lambda: _with(b'"x":' + b"[" * 100_000 + b"]" * 100_000),
    "100,000 objects inside each other": lambda: _with(b'"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "100,000 lists that do not end": lambda: _with(b'"x":' + b"[" * 100_000)[:-1],
    "messages inside each other": lambda: _of(b'{"role":"user","content":[' * 50_000),
    "many lists of 900 levels": lambda: _with(b'"x":' + _list(b"[" * 900 + b"]" * 900, 15_000)),
    "a million keys of the request": lambda: _with(_keys(1_000_000, b"1")),
    "a million keys of a message": lambda: _of(b'{"role":"user","content":"x",' + _keys(1_000_000, b"1") + b"}"),
    "a million keys of a schema": lambda: _with(
        b'"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{'
        + _keys(1_000_000, b"{}")
        + b"}}}}]"
    ),
    "one key four million times": lambda: _with(b",".join([b'"k":1'] * 4_000_000)),
    "a million messages": lambda: _of(_USER, 1_000_000),
    "fifteen million numbers for messages": lambda: _of(b"0", 15_000_000),
    "a million results without a call": lambda: _of(b'{"role":"tool","content":"x"}', 1_000_000),
    "ten million calls of nothing": lambda: _of(b'{"role":"assistant","tool_calls":' + _list(b"{}", 10_000_000) + b"}"),
    "ten million parts of nothing": lambda: _of(b'{"role":"user","content":' + _list(b'""', 10_000_000) + b"}"),
    "ten million tools of nothing": lambda: _with(b'"tools":' + _list(b"{}", 10_000_000)),
    "eight million stop sequences": lambda: _with(b'"stop":' + _list(b'""', 8_000_000)),
    "a number of 30 million digits": lambda: _with(b'"seed":' + b"9" * 30_000_000),
    "a fraction of 30 million digits": lambda: _with(b'"temperature":0.' + b"9" * 30_000_000),
    "31 MiB of white space": lambda: b" " * (31 * MIB) + _of(_USER),
    "31 MiB of nothing but white space": lambda: b" " * (31 * MIB),
    # just under what is refused
    "80,000 messages": lambda: _of(_USER, 80_000),
    "80,000 results without a call": lambda: _of(b'{"role":"tool","content":"x"}', 80_000),
    "240,000 calls of nothing": lambda: _of(b'{"role":"assistant","tool_calls":' + _list(b"{}", 240_000) + b"}"),
    "240,000 parts of nothing": lambda: _of(b'{"role":"user","content":' + _list(b"{}", 240_000) + b"}"),
    "240,000 keys of a schema": lambda: _with(
        b'"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{'
        + _keys(240_000, b"{}")
        + b"}}}}]"
    ),
    "240,000 keys of the request": lambda: _with(_keys(240_000, b"1")),
    "arguments of four million brackets": lambda: _of(_calls(b"{" * 4_000_000)),
    "arguments of a million quotes": lambda: _of(_calls(rb"{\"" + rb"\"" * 1_000_000)),
}


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_a_bomb_is_translated_or_refused_in_bounded_memory(name):
    body = BODIES[name]()
    assert len(body) <= 32 * MIB
    async with ScriptedUpstream([whole(completion())]) as upstream, Running(upstream) as target:
        await target.ask(post(_of(_USER)))
        target.forget()
        idle = target.peak
        answer = await target.thrown(post(body))

        assert status_of(answer) in (200, 400, 413)
        if status_of(answer) != 200:
            error_of(answer)
        assert target.peak - idle <= MOST_MIB
        assert status_of(await target.ask(post(_of(_USER)))) == 200


@pytest.mark.parametrize("name", ["fifteen million numbers for messages", "ten million tools of nothing"])
async def test_a_bomb_is_one_no_more_where_the_choice_of_a_model_server_reads_bodies(name):
    async with ScriptedUpstream([whole(completion())]) as upstream, Running(upstream, BALANCE="prefix") as target:
        await target.ask(post(_of(_USER)))
        target.forget()
        idle = target.peak
        answer = await target.thrown(post(BODIES[name]()))

        assert status_of(answer) in (400, 413)
        assert target.peak - idle <= MOST_MIB


async def test_a_body_in_chunks_of_one_byte_is_read_in_bounded_memory():
    """Six bytes of framing for each byte of the body; no list of pieces is kept."""
    body = _of(b'{"role":"user","content":"' + b"x" * MIB + b'"}')
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with ScriptedUpstream([whole(completion())]) as upstream, Running(upstream) as target:
        await target.ask(post(_of(_USER)))
        target.forget()
        idle = target.peak
        answer = await target.thrown(start, *(pieces[at : at + 65536] for at in range(0, len(pieces), 65536)))

        assert status_of(answer) == 200
        assert upstream.requests[-1].json["messages"][0]["content"] == "x" * MIB
        assert target.peak - idle <= 64


async def test_a_body_that_never_ends_is_cut_off_at_the_limit():
    piece = chunk(b" " * 65536)
    start = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with ScriptedUpstream([whole(completion())]) as upstream, Running(upstream) as target:
        await target.ask(post(_of(_USER)))
        target.forget()
        idle = target.peak
        answer = await target.thrown(start, *[piece] * 2048, until=b"}}")  # 128 MiB

        assert (status_of(answer), error_of(answer)["code"]) == (413, "payload_too_large")
        assert target.peak - idle <= 128


# --- what is compressed


@cache
def compressed(size: int, wbits: int = 31) -> bytes:
    """Return `size` bytes of white space in gzip (wbits 31), zlib (15) or raw deflate (-15): a thousandth of them."""
    packer = zlib.compressobj(9, wbits=wbits)
    block = b" " * MIB
    return b"".join([*(packer.compress(block) for _ in range(size // MIB)), packer.flush()])


CODINGS = [
    "gzip",
    "x-gzip",
    "deflate",
    "compress",
    "br",
    "zstd",
    "GZIP",
    "gzip, gzip",
    "identity, gzip",
    "gzip, identity",
]


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_compressed_body_is_refused_by_its_head(start_proxy, unused_port, coding):
    """Before a byte of it has come, so that there is nothing to inflate."""
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}")
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Content-Encoding: {coding}", "Content-Length: 1000"]
    reader, writer = await proxy.raw("\r\n".join([*lines, "", ""]).encode())
    async with asyncio.timeout(DEADLINE_S):
        answer = await reader.readuntil(b"}}")
    writer.close()

    assert (status_of(answer), error_of(answer)["code"]) == (415, "unsupported_media_type")
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    ("line", "coding"),
    [
        ("POST /v1/chat/completions", "gzip"),
        ("POST /v1/chat/completions", "deflate"),
        ("GET /livez", "gzip"),
        ("GET /v1/models", "deflate"),
        ("POST /nowhere", "gzip"),
    ],
)
async def test_a_compressed_bomb_is_not_inflated_on_any_route(line, coding):
    """1 MiB that would be a gigabyte; it is sent whole, whatever is answered meanwhile."""
    bomb = compressed(1024 * MIB, 31 if coding == "gzip" else 15)
    lines = [f"{line} HTTP/1.1", "Host: x", "Connection: close", f"Content-Encoding: {coding}"]
    start = "\r\n".join([*lines, f"Content-Length: {len(bomb)}", "", ""]).encode()
    async with ScriptedUpstream([whole(completion())]) as upstream, Running(upstream) as target:
        await target.ask(post(_of(_USER)))
        target.forget()
        idle = target.peak
        answer = await target.thrown(start, bomb)

        assert status_of(answer) in (200, 400, 404, 415)
        assert target.peak - idle <= 32


@pytest.mark.parametrize("value", ["gzip", "gzip, chunked", "deflate, chunked", "chunked, gzip", "br"])
async def test_a_coding_of_the_transfer_is_refused(start_proxy, unused_port, value):
    proxy = await start_proxy(f"http://127.0.0.1:{unused_port}", read_timeout_s=0.2)
    body = compressed(MIB)
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Connection: close", f"Transfer-Encoding: {value}"]
    reader, writer = await proxy.raw("\r\n".join([*lines, "", ""]).encode() + chunk(body) + b"0\r\n\r\n")
    async with asyncio.timeout(DEADLINE_S):
        answer = await reader.read()
    writer.close()

    assert 400 <= status_of(answer) < 500
    error_of(answer)


# --- answers of a model server that is not to be trusted


def _endless(piece: bytes, size: int) -> list[bytes]:
    """The same piece again and again, which takes no memory here."""
    return [piece] * (size // len(piece))


def _events(times: int) -> bytes:
    return b"data: %b\n\n" % json.dumps(text_chunk("x")).encode() * times


def _in_chunks_of_one(data: bytes) -> bytes:
    return b"".join(b"1\r\n%c\r\n" % byte for byte in data)


_ZEROS = compressed(1024 * MIB)
#: What it is, its bytes, and the statuses that a client may get for it.
ANSWERS: dict[str, tuple[bool, list[bytes]]] = {
    "a gigabyte in gzip": (False, [whole(_ZEROS, content_encoding="gzip")]),
    "a gigabyte in gzip, as a stream": (
        True,
        [
            head(content_type="text/event-stream", content_encoding="gzip", content_length=str(len(_ZEROS))),
            _ZEROS,
        ],
    ),
    "a gigabyte in gzip, as an error": (False, [whole(_ZEROS, 400, content_encoding="gzip")]),
    "a gigabyte in gzip, as a transfer coding": (
        False,
        [head(content_type="application/json", transfer_encoding="gzip, chunked"), chunk(_ZEROS), b"0\r\n\r\n"],
    ),
    "an answer that never ends": (
        False,
        [head(content_type="application/json", transfer_encoding="chunked"), *_endless(chunk(b" " * MIB), 128 * MIB)],
    ),
    "an error that never ends": (
        False,
        [
            head(400, content_type="application/json", transfer_encoding="chunked"),
            *_endless(chunk(b" " * MIB), 128 * MIB),
        ],
    ),
    "an event that never ends": (True, [STREAM_HEAD, chunk(b"data: "), *_endless(chunk(b"x" * MIB), 128 * MIB)]),
    "comments that never end": (True, [STREAM_HEAD, *_endless(chunk(b": ping\n\n" * 1000), 4 * MIB)]),
    "an answer of nested lists": (False, [whole(b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}")]),
    "an event of nested lists": (True, [STREAM_HEAD, event(b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}")]),
    "an error of nested lists": (False, [whole(b'{"error":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400)]),
    "an answer of a million choices": (False, [whole(b'{"choices":' + _list(b"{}", 1_000_000) + b"}")]),
    "an event of a million choices": (True, [STREAM_HEAD, event(b'{"choices":' + _list(b"{}", 1_000_000) + b"}")]),
    "an error of a million details": (False, [whole(b'{"detail":' + _list(b'{"msg":"x"}', 1_000_000) + b"}", 422)]),
    "a head that never ends": (
        False,
        [b"HTTP/1.1 200 OK\r\n", *_endless(b"X-Header: " + b"x" * 100 + b"\r\n", 32 * MIB)],
    ),
    "a line that never ends": (False, [b"HTTP/1.1 200 OK\r\nX: ", *_endless(b"x" * 65536, 32 * MIB)]),
    "an extension of a chunk that never ends": (
        False,
        [head(content_type="application/json", transfer_encoding="chunked"), b"1;", *_endless(b"x" * 65536, 32 * MIB)],
    ),
    "chunks of one byte": (True, [STREAM_HEAD, _in_chunks_of_one(_events(2000)), b"0\r\n\r\n"]),
    "100,000 events in one piece": (True, [STREAM_HEAD, chunk(_events(100_000)), b"0\r\n\r\n"]),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_that_is_a_bomb_ends_in_bounded_memory(name):
    """In an answer or an error that a client can read, also where the model server's bytes are neither."""
    is_streamed, script = ANSWERS[name]
    scripts = [whole(completion())], [*script, Do.CLOSE], [whole(completion())]
    async with ScriptedUpstream(*scripts) as upstream, Running(upstream) as target:
        await target.ask(post(_of(_USER)))
        target.forget()
        idle = target.peak
        answer = await target.thrown(post(_with(b'"stream":true') if is_streamed else _of(_USER)))

        if status_of(answer) == 200:
            assert answer.endswith((b"data: [DONE]\n\n", b"0\r\n\r\n", b"}"))
        else:
            error_of(answer)
        assert target.peak - idle <= MOST_MIB
        assert status_of(await target.ask(post(_of(_USER)))) == 200


async def test_nothing_compressed_is_asked_for_and_nothing_is_inflated(start_proxy, shortcuts):
    """A model server that compresses all the same is not understood: its bytes are no JSON."""
    packed = zlib.compress(json.dumps(completion()).encode(), wbits=31)
    async with ScriptedUpstream([whole(packed, content_encoding="gzip")]) as upstream:
        proxy = await start_proxy(upstream.url, shortcuts=shortcuts)
        proxy.session.headers["Accept-Encoding"] = "gzip, br"
        async with proxy.chat() as response:
            assert response.status == 502
            assert "Content-Encoding" not in response.headers

        assert {request.header("accept-encoding") for request in upstream.requests} == {"identity"}
