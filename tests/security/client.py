"""A client that sends bytes as they are, and reads answers by the letter."""

import asyncio
import contextlib
import json
import re
from typing import Final, NamedTuple

from tests.security.cases.case import Case, Then, get

PROBE_ID: Final = b"the-probe"
PROBE: Final = get(b"/livez", b"x-request-id: " + PROBE_ID)
#: What is waited for must come: this ends a test that hangs.
_PATIENCE_S: Final = 20
#: In how many pieces a case's bytes are sent at the most, where they are sent piece by piece.
_MOST_PIECES: Final = 600

_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([^\r\n\x00]*)")


class Answer(NamedTuple):
    """One answer: its status, its headers with names in lower case, its body without chunks."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def is_probe(self) -> bool:
        return self.headers.get(b"x-request-id") == PROBE_ID

    @property
    def text(self) -> str | None:
        """The text of a completion; None if the answer is none."""
        if self.status != 200 or b'"choices"' not in self.body:
            return None
        return str(json.loads(self.body)["choices"][0]["message"]["content"])


class Heard(NamedTuple):
    """All that came on a connection: the answers, and whether the probe behind the case's bytes got one."""

    answers: list[Answer]
    end: str

    @property
    def statuses(self) -> tuple[int, ...]:
        return tuple(answer.status for answer in self.answers)

    @property
    def texts(self) -> list[str]:
        return [answer.text for answer in self.answers if answer.text is not None]


async def play(port: int, case: Case, *, piecewise: bool = False) -> Heard:
    """
    Send a case's bytes and do what is to be done then; return when the probe is answered or the connection is over.

    Raises:
        AssertionError: what came are not answers.
        TimeoutError: the connection neither ended nor was the probe answered.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reading = asyncio.ensure_future(_answers(reader, is_head=case.data.startswith(b"HEAD ")))
            await _send(writer, reading, case, piecewise=piecewise)
            return await reading
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _send(writer: asyncio.StreamWriter, reading: asyncio.Future[Heard], case: Case, *, piecewise: bool) -> None:
    data = case.data + (PROBE if case.then is Then.PROBE else b"")
    size = max(1, len(data) // _MOST_PIECES) if piecewise else len(data)
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(data), size):
            if reading.done():
                return
            writer.write(data[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)
        if case.then is Then.LEAVE:
            writer.write_eof()


async def _answers(reader: asyncio.StreamReader, *, is_head: bool) -> Heard:
    answers: list[Answer] = []
    while True:
        try:
            answer = await _answer(reader, is_head=is_head and not answers)
        except ConnectionError:
            answer = None
        if answer is None or answer.is_probe:
            return Heard(answers, "closed" if answer is None else "kept")
        if answer.status != 100:
            answers.append(answer)


async def _answer(reader: asyncio.StreamReader, *, is_head: bool) -> Answer | None:
    """Read one answer; None at the proper end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        head = exc.partial
    if not head:
        return None
    assert head.endswith(b"\r\n\r\n"), f"not an answer: {head!r}"
    first, *lines = head[:-4].split(b"\r\n")
    found = re.fullmatch(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) [\x20-\x7e]*", first)
    assert found, f"not a status line: {first!r}"
    headers: dict[bytes, bytes] = {}
    for line in lines:
        parts = _LINE.fullmatch(line)
        assert parts, f"not a header: {line!r}"
        name = parts[1].lower()
        assert name not in headers, f"twice: {line!r}"
        headers[name] = parts[2].strip()
    status = int(found[1])
    body = b"" if (is_head and status != 400) or status < 200 or status in (204, 304) else await _body(reader, headers)
    return Answer(status, headers, body)


async def _body(reader: asyncio.StreamReader, headers: dict[bytes, bytes]) -> bytes:
    coding, size = headers.get(b"transfer-encoding"), headers.get(b"content-length")
    assert coding is None or size is None, "both framings in one answer"
    if coding is not None:
        assert coding == b"chunked"
        return b"".join([piece async for piece in _chunks(reader)])
    if size is None:
        return await reader.read()
    return await reader.readexactly(int(size))


async def _chunks(reader: asyncio.StreamReader):  # type: ignore[no-untyped-def]
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
