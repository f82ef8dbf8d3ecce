"""What a model server, or whoever sits before it, may answer that is not what it should be."""

from enum import Enum, auto
from typing import Final, NamedTuple

from tests.fakes import DONE, STREAM_END, STREAM_HEAD, Do, Script, completion, event, text_chunk, whole
from tests.fakes import chunk as http_chunk


class Result(Enum):
    """What the client gets for it."""

    RIGHT = auto()  #: the answer, whole
    ERROR = auto()  #: an error, by status or, in a stream that has begun, as an event
    EITHER = auto()  #: one of the two, by what the parser in use takes


RIGHT, ERROR, EITHER = Result


#: What comes so much later finds the connection in the pool, with nothing running on it.
LATER: Final = 0.02


class Evil(NamedTuple):
    """An answer to one request, which a connection of the pool brings; `why` is the rule that it breaks."""

    name: str
    script: Script
    result: Result
    why: str
    is_streamed: bool = False


def _json(text: str) -> bytes:
    return whole(completion(text)).partition(b"\r\n\r\n")[2]


FIRST = _json("first")
#: What must never be taken for an answer to anybody.
LEFTOVER = whole(completion("leftover"))
_TYPE = b"Content-Type: application/json"
_OK = b"HTTP/1.1 200 OK"
_LENGTH = b"Content-Length: %d" % len(FIRST)
_CHUNKED = b"Transfer-Encoding: chunked"
_CHUNKS = http_chunk(FIRST) + b"0\r\n\r\n"


def _answer(*lines: bytes, content: bytes = FIRST, start: bytes = _OK) -> bytes:
    return b"\r\n".join([start, _TYPE, *lines, b"", content])


def _evil(name: str, *script: bytes | Do | float, result: Result, why: str) -> Evil:
    return Evil(name, script, result, why)


def _with_line(name: str, line: bytes, result: Result, why: str) -> Evil:
    return Evil(f"header: {name}", (_answer(_LENGTH, line),), result, why)


def _with_chunks(name: str, content: bytes, result: Result, why: str = "RFC 9112, 7.1") -> Evil:
    return Evil(f"chunks: {name}", (_answer(_CHUNKED, content=content), Do.CLOSE), result, why)


_SIZE = b"%x" % len(FIRST)
_BOTH = "RFC 9112, 6.3: both are an attempt at response splitting"
_INVALID = "RFC 9112, 6.3: an invalid length is an error that cannot be recovered from"
_EXTRA = "RFC 9112, 9.2: what nobody asked for closes the connection"
_STATUS = "RFC 9112, 4: HTTP-version SP 3DIGIT SP"

ANSWERS: tuple[Evil, ...] = (
    # --- framing
    _evil("a length and chunks", _answer(_LENGTH, _CHUNKED, content=_CHUNKS), result=EITHER, why=_BOTH),
    _evil(
        "chunks and a length",
        _answer(_CHUNKED, b"Content-Length: 5", content=_CHUNKS + LEFTOVER),
        result=EITHER,
        why=_BOTH,
    ),
    _evil(
        "a length of zero and chunks",
        _answer(b"Content-Length: 0", _CHUNKED, content=_CHUNKS),
        result=EITHER,
        why=_BOTH,
    ),
    _evil("the same length twice", _answer(_LENGTH, _LENGTH), result=EITHER, why="RFC 9112, 6.3"),
    _evil("two lengths, the right one first", _answer(_LENGTH, b"Content-Length: 5"), result=ERROR, why=_INVALID),
    _evil("two lengths, the right one last", _answer(b"Content-Length: 5", _LENGTH), result=ERROR, why=_INVALID),
    _evil(
        "a list of lengths", _answer(b"Content-Length: %d, %d" % (len(FIRST), len(FIRST))), result=ERROR, why=_INVALID
    ),
    _evil("a length with a plus", _answer(b"Content-Length: +%d" % len(FIRST)), result=ERROR, why=_INVALID),
    _evil("a length with a minus", _answer(b"Content-Length: -%d" % len(FIRST)), result=ERROR, why=_INVALID),
    _evil("a length in hexadecimal", _answer(b"Content-Length: 0x%x" % len(FIRST)), result=ERROR, why=_INVALID),
    _evil("a length over 64 bits", _answer(b"Content-Length: %d" % 2**70), result=ERROR, why=_INVALID),
    _evil("a length that is empty", _answer(b"Content-Length:"), result=ERROR, why=_INVALID),
    _evil("a length that is too short", _answer(b"Content-Length: %d" % (len(FIRST) - 9)), result=ERROR, why=_EXTRA),
    _evil(
        "a length that is too long, and the end",
        _answer(b"Content-Length: %d" % (len(FIRST) + 9)),
        Do.CLOSE,
        result=ERROR,
        why="RFC 9112, 8",
    ),
    _evil("a length of zero", _answer(b"Content-Length: 0", content=LEFTOVER), result=ERROR, why=_EXTRA),
    _evil(
        "an unknown coding",
        _answer(b"Transfer-Encoding: xchunked", content=_CHUNKS),
        Do.CLOSE,
        result=ERROR,
        why="RFC 9112, 6.3",
    ),
    _evil(
        "chunked, then identity",
        _answer(b"Transfer-Encoding: chunked, identity", content=_CHUNKS),
        Do.CLOSE,
        result=ERROR,
        why="RFC 9112, 6.3",
    ),
    _evil(
        "chunked and a vertical tab",
        _answer(b"Transfer-Encoding: \x0bchunked", content=_CHUNKS),
        Do.CLOSE,
        result=ERROR,
        why="RFC 9112, 6.3",
    ),
    _evil(
        "no framing, and the end",
        _answer(b"Connection: close"),
        Do.CLOSE,
        result=RIGHT,
        why="RFC 9112, 6.3: read until the end",
    ),
    # --- more than one answer
    _evil("a whole answer more", _answer(_LENGTH) + LEFTOVER, result=RIGHT, why=_EXTRA),
    _evil("a whole answer more, in the next packet", _answer(_LENGTH), LATER, LEFTOVER, result=RIGHT, why=_EXTRA),
    _evil("letters more", _answer(_LENGTH) + b"evil", result=EITHER, why=_EXTRA),
    _evil("a line end more", _answer(_LENGTH) + b"\r\n", result=RIGHT, why=_EXTRA),
    _evil("half an answer more", _answer(_LENGTH) + LEFTOVER[:30], result=RIGHT, why=_EXTRA),
    _evil("an answer behind chunks", _answer(_CHUNKED, content=_CHUNKS) + LEFTOVER, result=RIGHT, why=_EXTRA),
    _evil(
        "an answer behind Connection: close",
        _answer(_LENGTH, b"Connection: close") + LEFTOVER,
        result=EITHER,
        why=_EXTRA,
    ),
    _evil(
        "an answer behind 204",
        b"HTTP/1.1 204 No Content\r\n\r\n" + LEFTOVER,
        result=ERROR,
        why="RFC 9110, 15.3.5: no content",
    ),
    _evil(
        "204 with a length",
        b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n" % len(LEFTOVER) + LEFTOVER,
        result=ERROR,
        why="RFC 9110, 15.3.5: no content",
    ),
    _evil(
        "304 with content",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n" % len(FIRST) + FIRST,
        result=ERROR,
        why="RFC 9110, 15.4.5: no content",
    ),
    _evil(
        "205 with content",
        b"HTTP/1.1 205 Reset Content\r\nContent-Length: %d\r\n\r\n" % len(FIRST) + FIRST,
        result=ERROR,
        why="RFC 9110, 15.3.6",
    ),
    # --- interim answers
    _evil(
        "100, then the answer",
        b"HTTP/1.1 100 Continue\r\n\r\n" + _answer(_LENGTH),
        result=RIGHT,
        why="RFC 9110, 15.2: ignored",
    ),
    _evil(
        "a hundred hints, then the answer",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100 + _answer(_LENGTH),
        result=RIGHT,
        why="RFC 9110, 15.2",
    ),
    _evil(
        "interim answers without an end",
        *[b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 5000] * 4,
        Do.WAIT_FOR_PEER,
        result=ERROR,
        why="RFC 9110, 15.2: bounded all the same",
    ),
    _evil(
        "100 with a length",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n" + _answer(_LENGTH),
        result=RIGHT,
        why="RFC 9110, 15.2: no content, whatever it says",
    ),
    _evil(
        "101",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: evil\r\n\r\n" + LEFTOVER,
        Do.CLOSE,
        result=ERROR,
        why="RFC 9110, 15.2.2: nobody asked for another protocol",
    ),
    # --- status lines
    _evil("HTTP/0.9", FIRST, Do.CLOSE, result=ERROR, why=_STATUS),
    _evil("HTTP/2.0", _answer(_LENGTH, start=b"HTTP/2.0 200 OK"), Do.CLOSE, result=EITHER, why=_STATUS),
    _evil("http/1.1", _answer(_LENGTH, start=b"http/1.1 200 OK"), Do.CLOSE, result=ERROR, why=_STATUS),
    _evil("a version of two digits", _answer(_LENGTH, start=b"HTTP/1.10 200 OK"), Do.CLOSE, result=ERROR, why=_STATUS),
    _evil("a status of two digits", _answer(_LENGTH, start=b"HTTP/1.1 20 OK"), Do.CLOSE, result=ERROR, why=_STATUS),
    _evil("a status of four digits", _answer(_LENGTH, start=b"HTTP/1.1 2000 OK"), Do.CLOSE, result=ERROR, why=_STATUS),
    _evil("a status with a plus", _answer(_LENGTH, start=b"HTTP/1.1 +200 OK"), Do.CLOSE, result=ERROR, why=_STATUS),
    _evil("a status of 000", _answer(_LENGTH, start=b"HTTP/1.1 000 OK"), Do.CLOSE, result=ERROR, why=_STATUS),
    _evil("a status of 999", _answer(_LENGTH, start=b"HTTP/1.1 999 OK"), result=ERROR, why="RFC 9110, 15"),
    _evil("a reason with a CR", _answer(_LENGTH, start=b"HTTP/1.1 200 O\rK"), Do.CLOSE, result=EITHER, why=_STATUS),
    _evil("no reason", _answer(_LENGTH, start=b"HTTP/1.1 200 "), result=RIGHT, why=_STATUS),
    # --- lines
    _evil("LF ends every line", _answer(_LENGTH).replace(b"\r\n", b"\n"), Do.CLOSE, result=EITHER, why="RFC 9112, 2.2"),
    _evil(
        "LF ends the head",
        _answer(_LENGTH).replace(b"\r\n\r\n", b"\r\n\n"),
        Do.CLOSE,
        result=EITHER,
        why="RFC 9112, 2.2",
    ),
    _evil(
        "CR ends a line", _answer(_LENGTH).replace(b"json\r\n", b"json\r"), Do.CLOSE, result=EITHER, why="RFC 9112, 2.2"
    ),
    _with_line("folded", b"X: a\r\n b", EITHER, "RFC 9112, 5.2"),
    _with_line("folded into a length", b"X: a\r\n Content-Length: 5", EITHER, "RFC 9112, 5.2"),
    _with_line("a NUL in the value", b"X: a\x00b", ERROR, "RFC 9110, 5.5"),
    _with_line("a NUL in the name", b"X\x00: a", ERROR, "RFC 9110, 5.1"),
    _with_line("a CR in the value", b"X: a\rb", EITHER, "RFC 9110, 5.5"),
    _with_line("an LF in the value", b"X: a\nContent-Length: 5", ERROR, "RFC 9110, 5.5"),
    _with_line("a control byte in the value", b"X: a\x01b", EITHER, "RFC 9110, 5.5"),
    _with_line("a blank before the colon", b"X : a", ERROR, "RFC 9112, 5.1"),
    _with_line("no name", b": a", ERROR, "RFC 9110, 5.1"),
    _with_line("no colon", b"evil", ERROR, "RFC 9112, 5"),
    _with_line("a long value", b"X: " + b"a" * 100_000, EITHER, "RFC 6585, 5"),
    _with_line("a megabyte", b"X: " + b"a" * 1_000_000, ERROR, "RFC 6585, 5"),
    _with_line("thousands", b"\r\n".join(b"X-%d: a" % i for i in range(5000)), EITHER, "RFC 6585, 5"),
    _with_line(
        "a cookie and a redirect", b"Set-Cookie: a=b\r\nLocation: http://evil.test/", RIGHT, "None reaches the client"
    ),
    _with_line("a compressed body that is none", b"Content-Encoding: gzip", EITHER, "Accept-Encoding was identity"),
    # --- chunks
    _with_chunks("0x before the size", http_chunk(FIRST).replace(_SIZE, b"0x" + _SIZE, 1) + b"0\r\n\r\n", ERROR),
    _with_chunks("a minus before the size", b"-" + _CHUNKS, ERROR),
    _with_chunks("a size over 64 bits", b"1" + b"0" * (16 - len(_SIZE)) + _CHUNKS, ERROR),
    _with_chunks("a size that is no number", b"xyz\r\n" + FIRST + b"\r\n0\r\n\r\n", ERROR),
    _with_chunks("LF behind the size", _CHUNKS.replace(_SIZE + b"\r\n", _SIZE + b"\n", 1), EITHER),
    _with_chunks("nothing behind the data", _SIZE + b"\r\n" + FIRST + b"0\r\n\r\n", ERROR),
    _with_chunks("data longer than the size", b"%x\r\n%b\r\n0\r\n\r\n" % (len(FIRST) - 9, FIRST), ERROR),
    _with_chunks("data shorter than the size", b"%x\r\n%b\r\n0\r\n\r\n" % (len(FIRST) + 2, FIRST), ERROR),
    _with_chunks("no last one", http_chunk(FIRST), ERROR, "RFC 9112, 8"),
    _with_chunks("half a last one", http_chunk(FIRST) + b"0\r\n", ERROR, "RFC 9112, 8"),
    _with_chunks("an extension", _CHUNKS.replace(_SIZE, _SIZE + b";a=b", 1), RIGHT),
    _with_chunks("a trailer with a length", http_chunk(FIRST) + b"0\r\nContent-Length: 5\r\n\r\n", EITHER),
    _with_chunks(
        "a trailer", http_chunk(FIRST) + b"0\r\nContent-Type: text/event-stream\r\nRetry-After: 9\r\n\r\n", RIGHT
    ),
    # --- bodies
    _evil("no JSON", whole(b"evil"), result=ERROR, why="The answer is a JSON object"),
    _evil("a JSON list", whole([]), result=ERROR, why="The answer is a JSON object"),
    _evil("nothing", b"", Do.CLOSE, result=ERROR, why="RFC 9112, 8"),
    _evil("a reset", Do.RESET, result=ERROR, why="RFC 9112, 9.5"),
    _evil("half a head, and the end", _answer(_LENGTH)[:40], Do.CLOSE, result=ERROR, why="RFC 9112, 8"),
    _evil("half a body, and the end", _answer(_LENGTH)[:-9], Do.CLOSE, result=ERROR, why="RFC 9112, 8"),
)


_TEXT = event(text_chunk("", role="assistant")) + event(text_chunk("first"))
_LAST = event(text_chunk("", finish="stop")) + DONE
_STREAM = STREAM_HEAD + _TEXT + _LAST + STREAM_END


def _stream(name: str, *script: bytes | Do | float, result: Result, why: str) -> Evil:
    return Evil(f"stream: {name}", script, result, why, is_streamed=True)


STREAMS: tuple[Evil, ...] = (
    _stream("whole", _STREAM, result=RIGHT, why="RFC 9112, 7.1"),
    _stream("two at once", _STREAM + _STREAM.replace(b"first", b"leftover"), result=EITHER, why=_EXTRA),
    _stream("a whole answer more", _STREAM + LEFTOVER, result=RIGHT, why=_EXTRA),
    _stream("an answer behind it, in the next packet", _STREAM, LATER, LEFTOVER, result=RIGHT, why=_EXTRA),
    _stream(
        "events behind the end",
        STREAM_HEAD + _TEXT + _LAST + _TEXT.replace(b"first", b"leftover") + STREAM_END,
        result=EITHER,
        why="[DONE] is the end",
    ),
    _stream(
        "a bad size in the middle",
        STREAM_HEAD + _TEXT + b"zz\r\n" + _LAST + STREAM_END,
        result=ERROR,
        why="RFC 9112, 7.1",
    ),
    _stream(
        "a size over 64 bits in the middle",
        STREAM_HEAD + _TEXT + b"f" * 17 + b"\r\n" + _LAST,
        result=ERROR,
        why="RFC 9112, 7.1",
    ),
    _stream("an answer in the middle", STREAM_HEAD + _TEXT + LEFTOVER, result=ERROR, why="RFC 9112, 7.1"),
    _stream(
        "LF for line ends of chunks",
        STREAM_HEAD + (_TEXT + _LAST + STREAM_END).replace(b"\r\n", b"\n"),
        Do.CLOSE,
        result=ERROR,
        why="RFC 9112, 7.1",
    ),
    _stream("no last chunk", STREAM_HEAD + _TEXT + _LAST, Do.CLOSE, result=RIGHT, why="[DONE] is the end"),
    _stream("cut in the middle", STREAM_HEAD + _TEXT, Do.CLOSE, result=ERROR, why="RFC 9112, 8"),
    _stream("an answer that is not one", whole(completion("first")), result=EITHER, why="A stream was asked for"),
)
