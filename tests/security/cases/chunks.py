"""Chunked bodies: sizes, extensions, line ends and trailers."""

from tests.security.cases.case import (
    CHUNKED,
    LAST_CHUNK,
    SMUGGLED,
    Case,
    Outcome,
    Then,
    body,
    chunk,
    chunked,
    either,
    framed,
    get,
    last,
    refused,
)

_BODY = body()
_SIZE = b"%x" % len(_BODY)
_SIZES = "RFC 9112, 7.1: a size is hexadecimal digits and nothing else"
_ENDS = "RFC 9112, 7.1: chunks end in CRLF; PortSwigger and HTTP Garden: servers that read on smuggle"
_EXTENSIONS = "RFC 9112, 7.1.1"
_TRAILERS = "RFC 9110, 6.5.1: a trailer never changes the framing; CVE-2025-53643: aiohttp's parser in Python kept them"
#: Behind it the body goes on for whoever does not stop where the fault is.
_REST = LAST_CHUNK + SMUGGLED


def _of_size(name: str, size: bytes, why: str = _SIZES) -> Case:
    return refused(f"chunks: {name}", framed(CHUNKED, content=chunk(_BODY, size) + _REST), why)


def _good(name: str, content: bytes, why: str, text: str = "case") -> Case:
    return last(f"chunks: {name}", framed(CHUNKED, content=content), why, text)


def _bad(name: str, content: bytes, why: str = _ENDS, then: Then = Then.PROBE) -> Case:
    return refused(f"chunks: {name}", framed(CHUNKED, content=content), why, then=then)


def _with_trailer(name: str, trailer: bytes, why: str = _TRAILERS) -> Case:
    return _good(name, chunk(_BODY) + b"0\r\n" + trailer + b"\r\n\r\n", why)


def _with_bad_trailer(name: str, trailer: bytes, why: str = _TRAILERS) -> Case:
    return _bad(name, chunk(_BODY) + b"0\r\n" + trailer + b"\r\n\r\n" + SMUGGLED, why)


CASES = (
    # --- sizes
    _good("many of one byte", b"".join(chunk(_BODY[i : i + 1]) for i in range(len(_BODY))) + LAST_CHUNK, _SIZES),
    _good("capital digits", chunk(body("x" * 100), b"%X" % len(body("x" * 100))) + LAST_CHUNK, _SIZES, "x" * 100),
    _good("leading zeros", chunk(_BODY, b"000" + _SIZE) + LAST_CHUNK, _SIZES),
    _good("a last chunk of many zeros", chunk(_BODY) + b"00000\r\n\r\n", _SIZES),
    _of_size("0x before the size", b"0x" + _SIZE),
    _of_size("a plus before the size", b"+" + _SIZE, "CVE-2023-47627: int() takes it"),
    _of_size("a minus before the size", b"-" + _SIZE, "CVE-2023-47627: int() takes it"),
    _of_size("an underscore in the size", _SIZE[:1] + b"_" + _SIZE[1:], "CVE-2023-47627: int() takes it"),
    _of_size("a blank before the size", b" " + _SIZE),
    _of_size("a tab before the size", b"\t" + _SIZE),
    _of_size("no size", b""),
    _of_size("only an extension", b";a=b"),
    _of_size("letters for a size", b"xyz"),
    _of_size("a fraction", _SIZE + b".0"),
    _of_size("a comma", _SIZE + b",0"),
    _of_size("over 64 bits", b"1" + b"0" * (16 - len(_SIZE)) + _SIZE, "PortSwigger: a size that overflows"),
    refused(
        "chunks: all of 64 bits",
        framed(CHUNKED, content=chunk(_BODY, b"f" * 16) + _REST),
        "PortSwigger: a size that overflows. This one does not, so the rest of it is waited for",
        408,
    ),
    _of_size("a NUL behind the size", _SIZE + b"\x00"),
    _of_size("a vertical tab behind the size", _SIZE + b"\x0b"),
    _of_size("a no-break space behind the size", _SIZE + b"\xa0"),
    _of_size("a blank behind the size", _SIZE + b" ", "RFC 9112, 7.1: not even blanks"),
    _bad("a minus as last chunk", chunk(_BODY) + b"-0\r\n\r\n" + SMUGGLED, _SIZES),
    # --- extensions
    _good("an extension", chunk(_BODY, _SIZE + b";a") + LAST_CHUNK, _EXTENSIONS),
    _good("an extension with a value", chunk(_BODY, _SIZE + b";a=b;c=d") + LAST_CHUNK, _EXTENSIONS),
    _good("an extension that is quoted", chunk(_BODY, _SIZE + b';a="b c"') + LAST_CHUNK, _EXTENSIONS),
    _good("an extension with a quoted semicolon", chunk(_BODY, _SIZE + b';a="b;\\"c"') + LAST_CHUNK, _EXTENSIONS),
    _good("an extension of the last chunk", chunk(_BODY) + b"0;a=b\r\n\r\n", _EXTENSIONS),
    _bad(
        "an extension with LF", chunk(_BODY, _SIZE + b";a\n" + b"b") + _REST, "Funky chunks, 2025: LF in an extension"
    ),
    _bad("an extension with CR", chunk(_BODY, _SIZE + b";a\rb") + _REST, "Funky chunks, 2025: CR in an extension"),
    _bad("an extension with NUL", chunk(_BODY, _SIZE + b";a\x00b") + _REST, _EXTENSIONS),
    _bad(
        "an extension with a quoted line end",
        chunk(_BODY, _SIZE + b';a="\r\n0\r\n\r\n') + SMUGGLED,
        "Funky chunks, 2025: a line end inside quotes",
    ),
    _bad("an extension that ends in LF only", _SIZE + b";\n" + _BODY + b"\r\n" + _REST, "Funky chunks, 2025"),
    # --- line ends
    _bad("LF behind the size", _SIZE + b"\n" + _BODY + b"\r\n" + _REST),
    _bad("CR behind the size", _SIZE + b"\r" + _BODY + b"\r\n" + _REST),
    _bad("CR CR LF behind the size", _SIZE + b"\r\r\n" + _BODY + b"\r\n" + _REST),
    _bad("LF behind the data", _SIZE + b"\r\n" + _BODY + b"\n" + _REST),
    _bad("nothing behind the data", _SIZE + b"\r\n" + _BODY + _REST),
    _bad(
        "two letters behind the data", _SIZE + b"\r\n" + _BODY + b"XX" + _REST, "CVE-2025-43859: h11 took any two bytes"
    ),
    _bad("LF at the very end", chunk(_BODY) + b"0\r\n\n" + SMUGGLED),
    _bad("LF behind the last size", chunk(_BODY) + b"0\n\r\n" + SMUGGLED),
    _bad("LF everywhere", (chunk(_BODY) + LAST_CHUNK).replace(b"\r\n", b"\n") + SMUGGLED),
    _bad("data longer than the size", chunk(_BODY, b"%x" % (len(_BODY) - 4)) + _REST),
    _bad("data shorter than the size", chunk(_BODY, b"%x" % (len(_BODY) + 4)) + _REST),
    # --- bodies that do not come to an end
    refused(
        "chunks: no last chunk, and nothing more",
        framed(CHUNKED, content=chunk(_BODY)),
        "RFC 9112, 8: a message without its end is incomplete",
        408,
        Then.WAIT,
    ),
    Case(
        "chunks: no last chunk, and the client leaves",
        framed(CHUNKED, content=chunk(_BODY)),
        "RFC 9112, 8: a message without its end is incomplete",
        (Outcome((), "closed"),),
        Then.LEAVE,
    ),
    # --- trailers
    _with_trailer("a trailer", b"X-Checksum: 1"),
    either(
        "chunks: a Host in the trailer",
        framed(CHUNKED, content=chunk(_BODY) + b"0\r\nHost: evil.test\r\n\r\n"),
        _TRAILERS,
        Outcome((200,), "closed", ("case",)),
        Outcome((400,), "closed"),
    ),
    _with_trailer("an Authorization in the trailer", b"Authorization: Bearer evil"),
    _with_trailer("an x-request-id in the trailer", b"x-request-id: evil"),
    _with_bad_trailer("a Content-Length in the trailer", b"Content-Length: 5"),
    _with_bad_trailer("a Transfer-Encoding in the trailer", b"Transfer-Encoding: chunked"),
    _with_bad_trailer("a trailer without a colon", b"evil"),
    _with_bad_trailer("a trailer with a NUL", b"X: a\x00b"),
    _with_bad_trailer("a trailer with a bare LF", b"X: a\nY: b"),
    _with_bad_trailer("a folded trailer", b"X: a\r\n b"),
    _with_bad_trailer("a trailer with a blank before the colon", b"X : a"),
    either(
        "chunks: a trailer that is too long",
        framed(CHUNKED, content=chunk(_BODY) + b"0\r\nX: " + b"a" * 70_000 + b"\r\n\r\n" + SMUGGLED),
        "RFC 6585, 5",
        Outcome((431,), "closed"),
        Outcome((400,), "closed"),
    ),
    either(
        "chunks: a GET with a bad trailer",
        get(b"/livez", CHUNKED) + chunk(b"a") + b"0\r\nevil\r\n\r\n" + SMUGGLED,
        _TRAILERS,
        Outcome((400,), "closed"),
        Outcome((200,), "closed"),
    ),
    last(
        "chunks: a trailer, and a request behind it",
        framed(CHUNKED, content=chunk(_BODY) + b"0\r\nAuthorization: Bearer evil\r\n\r\n") + SMUGGLED,
        "aiohttp 3.14.5 gives the last trailer to the next request as a header: none is read behind chunks",
    ),
    last(
        "chunks: two requests",
        framed(CHUNKED, content=chunked()) + framed(CHUNKED, content=chunked("two")),
        "RFC 9112, 9.6: the server may end a connection with any answer",
    ),
)
