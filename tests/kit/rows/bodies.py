"""F14, F39, and the framing of requests: large bodies, odd JSON, and bytes that two servers could read in two ways."""

import json
from typing import Any, Final

from tests.fakes import STREAM_END, chunk
from tests.kit.client import Answer, connected
from tests.kit.rig import CHAT, Rig, user
from tests.kit.row import Row
from tests.kit.verdict import Fails

_IMAGE_BYTES: Final = 8 << 20
#: More than any gateway should be ready to keep.
_DECLARED_BYTES: Final = 64 << 30
_DEPTH: Final = 200_000


# --- F14


async def large_body(rig: Rig) -> str:
    """A body of 8 MB with an image arrives as it was sent."""
    play = rig.play()
    url = "data:image/png;base64," + "iVBORw0KGgo" + "A" * _IMAGE_BYTES
    parts = [{"type": "text", "text": f"Look {play.mark}"}, {"type": "image_url", "image_url": {"url": url}}]
    body = await rig.upstream(play, messages=[{"role": "user", "content": parts}])
    found = json.dumps(body["messages"])
    if url not in found:
        raise Fails(f"{len(found)} bytes of messages arrive, and the image does not")
    return ""


async def declared_too_large(rig: Rig) -> str:
    """A body that is declared as 64 GiB is refused before it is read: 413, in JSON."""
    async with connected(rig.target) as connection:
        head = f"POST {rig.target.prefix}{CHAT} HTTP/1.1\r\nHost: {rig.target.host}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {_DECLARED_BYTES}\r\n\r\n"
        connection.write(head.encode() + rig.body(rig.play()))
        answer = await connection.answer()
        if answer.status != 413:
            raise Fails(f"the client got {answer.status}")
        await _in_openais_shape(answer)
    return ""


# --- F39


def _with(mark: str, tail: bytes) -> bytes:
    return b'{"model": "devstral", "messages": [{"role": "user", "content": "%b"}]%b' % (mark.encode(), tail)


async def malformed(rig: Rig) -> str:
    """A body that is cut JSON is 400 in OpenAI's shape."""
    return await _refused(rig, _with(rig.play().mark, b""))


async def no_object(rig: Rig) -> str:
    """A body that is a JSON list is 400 in OpenAI's shape."""
    return await _refused(rig, b'["a"]')


async def deep(rig: Rig) -> str:
    """A body that is 200,000 lists deep is 400 in OpenAI's shape."""
    return await _refused(rig, _with(rig.play().mark, b', "x": ' + b"[" * _DEPTH + b"]" * _DEPTH + b"}"))


async def not_a_number(rig: Rig) -> str:
    """NaN, which is not JSON, is 400 in OpenAI's shape."""
    return await _refused(rig, _with(rig.play().mark, b', "temperature": NaN}'))


async def not_utf8(rig: Rig) -> str:
    """A lone surrogate in bytes, which is not UTF-8, is 400 in OpenAI's shape."""
    return await _refused(rig, _with(rig.play().mark, b', "user": "\xed\xa0\x80"}'))


async def _refused(rig: Rig, body: bytes) -> str:
    answer = await _send(rig, body)
    if answer.status != 400:
        raise Fails(f"the client got {answer.status}")
    await _in_openais_shape(answer)
    return ""


async def _send(rig: Rig, body: bytes) -> Answer:
    async with connected(rig.target) as connection:
        rig.send(connection, body)
        answer = await connection.answer()
        await answer.read()
        return answer


async def _in_openais_shape(answer: Answer) -> None:
    found: Any = None
    if (answer.header("content-type") or "").startswith("application/json"):
        found = await answer.json()
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        raise Fails(f"{answer.status}, not in OpenAI's shape")


async def escaped_surrogate(rig: Rig) -> str:
    r"""A lone surrogate, "\ud800", is refused with 400, or what goes upstream is text without it."""
    play = rig.play()
    answer = await _send(rig, _with(f"{play.mark} \\ud800", b"}"))
    if play.calls:
        try:
            json.dumps(play.calls[0].json, ensure_ascii=False).encode()
        except ValueError:
            raise Fails("it goes upstream, where it is no text") from None
        return f"mended, the client got {answer.status}"
    if answer.status != 400:
        raise Fails(f"the client got {answer.status}")
    await _in_openais_shape(answer)
    return "400"


async def repeated_key(rig: Rig) -> str:
    """A key that is there twice is refused with 400, or goes upstream once."""
    play = rig.play()
    answer = await _send(rig, _with(play.mark, b', "temperature": 0.1, "temperature": 0.9}'))
    if not play.calls:
        if answer.status != 400:
            raise Fails(f"the client got {answer.status}")
        return "400"
    if play.calls[0].body.count(b'"temperature"') > 1:
        raise Fails("both go upstream")
    return "once"


# --- framing: RFC 9112, 5.1, 6.1 and 6.3

_SMUGGLED: Final = b"POST /smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


async def two_lengths(rig: Rig) -> str:
    """A request with two different lengths is refused with 400."""
    return await _is_refused(rig, b"Content-Length: 5\r\nContent-Length: %d\r\n\r\n" % len(_SMUGGLED), _SMUGGLED)


async def length_and_chunks(rig: Rig) -> str:
    """A request with a length and with chunks is refused, or ends its connection; nothing behind it is a request."""
    framing = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % (len(_SMUGGLED) + 5)
    async with connected(rig.target) as connection:
        connection.write(_head(rig) + framing + b"0\r\n\r\n" + _SMUGGLED)
        answer = await connection.answer()
        await answer.read()
        if not await connection.has_ended():
            raise Fails(f"{answer.status}, and what stands behind it is answered")
    _nothing_smuggled(rig)
    return str(answer.status)


async def space_before_colon(rig: Rig) -> str:
    """A header with a space before its colon is refused with 400."""
    return await _is_refused(rig, b"Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n", b"0\r\n\r\n" + _SMUGGLED)


async def _is_refused(rig: Rig, framing: bytes, rest: bytes) -> str:
    async with connected(rig.target) as connection:
        connection.write(_head(rig) + framing + rest)
        answer = await connection.answer()
    _nothing_smuggled(rig)
    if answer.status != 400:
        raise Fails(f"the client got {answer.status}")
    return ""


def _head(rig: Rig) -> bytes:
    head = f"POST {rig.target.prefix}{CHAT} HTTP/1.1\r\nHost: {rig.target.host}\r\nContent-Type: application/json\r\n"
    return head.encode()


def _nothing_smuggled(rig: Rig) -> None:
    if any(call.path == "/smuggled" for call in rig.model.strays):
        raise Fails("a request inside the body reaches the model")


# --- the other way round


async def framing_is_its_own(rig: Rig) -> str:
    """A body in chunks arrives whole, under the gateway's own framing."""
    play = rig.play()
    body = rig.body(play, messages=[user(f"{play.mark} " + "x" * 5000)])
    async with connected(rig.target) as connection:
        connection.write(_head(rig) + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.write(b"".join(chunk(body[at : at + 999]) for at in range(0, len(body), 999)) + STREAM_END)
        answer = await connection.answer()
    if not play.calls:
        raise Fails(f"{answer.status}, and nothing went upstream")
    call = play.calls[0]
    if call.values("content-length") and call.values("transfer-encoding"):
        raise Fails("it is sent on with a length and with chunks")
    if "x" * 5000 not in json.dumps(call.json):
        raise Fails("it does not arrive whole")
    return ""


ROWS: Final = (
    Row("F14a", large_body, probe="I"),
    Row("F14b", declared_too_large),
    Row("F14c", framing_is_its_own),
    Row("F39a", malformed, probe="N"),
    Row("F39b", deep, probe="N2"),
    Row("F39c", no_object),
    Row("F39d", not_a_number),
    Row("F39e", not_utf8),
    Row("F39f", escaped_surrogate),
    Row("F39g", repeated_key),
    Row("F39h", two_lengths),
    Row("F39i", length_and_chunks),
    Row("F39j", space_before_colon),
)
