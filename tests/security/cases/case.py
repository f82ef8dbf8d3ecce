"""What a case is, and the pieces of requests that cases are made of."""

import json
from enum import Enum, auto
from typing import Final, NamedTuple


class Then(Enum):
    """What the client does when the case's bytes are out."""

    PROBE = auto()  #: send one more request right behind them
    WAIT = auto()  #: nothing: a timer of the proxy's has to end it
    LEAVE = auto()  #: close its side, and read on


class Outcome(NamedTuple):
    """
    What may become of a case.

    `answers` are the statuses of all answers but the probe's; `seen` is what the origin gets: the text of every chat
    request, in order; `end` says whether the probe behind the bytes is answered ("kept") or never is ("closed").
    """

    answers: tuple[int, ...]
    end: str
    seen: tuple[str, ...] = ()


class Case(NamedTuple):
    """
    One connection's bytes, and what may become of them; `why` is the rule or the report that the case stems from.

    Where there are two outcomes it depends on how the bytes were cut on their way. aiohttp refuses all of what one
    read brought when a part of it is not HTTP, requests before that part among it; and a body that has not come when
    its request is answered is not waited for: the connection ends.
    """

    name: str
    data: bytes
    why: str
    outcomes: tuple[Outcome, ...]
    then: Then = Then.PROBE


def taken(name: str, data: bytes, why: str, *texts: str, then: Then = Then.PROBE) -> Case:
    """Return a case that is a right request, or several: by default one with the text "case"."""
    texts = texts or ("case",)
    return Case(name, data, why, (Outcome((200,) * len(texts), "kept", texts),), then)


def ended(name: str, data: bytes, why: str) -> Case:
    """Return a case whose request says itself that it is the last: llhttp refuses all of a read with more behind it."""
    outcomes = (Outcome((200,), "closed", ("case",)), Outcome((400,), "closed"))
    return Case(name, data, why, outcomes)


def last(name: str, data: bytes, why: str, text: str = "case", then: Then = Then.PROBE) -> Case:
    """Return a case that is a right request, after which the connection ends, and what follows is not answered."""
    return Case(name, data, why, (Outcome((200,), "closed", (text,)),), then)


def refused(name: str, data: bytes, why: str, status: int = 400, then: Then = Then.PROBE) -> Case:
    """Return a case that is refused, after which the connection ends: where the next request begins is not known."""
    return Case(name, data, why, (Outcome((status,), "closed"),), then)


def declined(name: str, data: bytes, why: str, status: int) -> Case:
    """Return a case that is refused for what it asks; its framing is right, so that the connection may go on."""
    return Case(name, data, why, (Outcome((status,), "kept"), Outcome((status,), "closed")))


def either(name: str, data: bytes, why: str, *outcomes: Outcome) -> Case:
    """Return a case of which different things may become; see `Case`."""
    return Case(name, data, why, outcomes)


POST: Final = b"POST /v1/chat/completions HTTP/1.1"
HOST: Final = b"Host: proxy.test"
CHUNKED: Final = b"Transfer-Encoding: chunked"


def body(text: str = "case") -> bytes:
    """Return the JSON of a chat request with this text."""
    return json.dumps({"model": "devstral", "messages": [{"role": "user", "content": text}]}).encode()


def length(content: bytes) -> bytes:
    """Return the right Content-Length line."""
    return b"Content-Length: %d" % len(content)


def message(*lines: bytes, content: bytes = b"") -> bytes:
    """Return a start line and header lines, ended as they should be, and what follows them."""
    return b"\r\n".join([*lines, b"", content])


def post(text: str = "case", *lines: bytes, start: bytes = POST, host: bytes = HOST) -> bytes:
    """Return a right chat request with a length, and these lines besides."""
    content = body(text)
    return message(start, host, length(content), *lines, content=content)


def framed(*lines: bytes, content: bytes, start: bytes = POST) -> bytes:
    """Return a chat request whose framing is these lines."""
    return message(start, HOST, *lines, content=content)


def get(target: bytes = b"/livez", *lines: bytes, method: bytes = b"GET", host: bytes = HOST) -> bytes:
    """Return a request without a body."""
    return message(method + b" " + target + b" HTTP/1.1", host, *lines)


def chunk(data: bytes, size: bytes | None = None) -> bytes:
    """Return one chunk; `size` is what stands in the place of its right size and extensions."""
    return b"%b\r\n%b\r\n" % (b"%x" % len(data) if size is None else size, data)


LAST_CHUNK: Final = b"0\r\n\r\n"


def chunked(text: str = "case") -> bytes:
    """Return a whole chunked body."""
    return chunk(body(text)) + LAST_CHUNK


#: A right request. Where it stands inside another, it must never be taken for one.
SMUGGLED: Final = post("smuggled")
