"""Header lines: their ends, their names, what may be in them, how many and how long."""

from tests.security.cases.case import (
    HOST,
    POST,
    SMUGGLED,
    Case,
    Outcome,
    body,
    either,
    get,
    length,
    message,
    post,
    refused,
    taken,
)

_BODY = body()
_LENGTH = length(_BODY)
_END = "RFC 9112, 2.2: a lone LF may be taken for a line end; whoever does not and whoever does disagree"
_CR = "RFC 9112, 2.2: a lone CR is invalid"
_NAME = "RFC 9110, 5.1 and 5.6.2: a name is a token; CVE-2023-49082, CVE-2024-23829: aiohttp took others"
_VALUE = "RFC 9110, 5.5: CR, LF and NUL are dangerous; other control characters are invalid"
_FOLD = "RFC 9112, 5.2: a folded line is refused or replaced by blanks"


def _with_line(name: str, line: bytes, why: str) -> Case:
    """A line among others; behind the body a second request, for whoever loses count."""
    return refused(f"line: {name}", message(POST, HOST, line, _LENGTH, content=_BODY + SMUGGLED), why)


def _good(name: str, line: bytes, why: str) -> Case:
    return taken(f"line: {name}", post("case", line), why)


CASES = (
    # --- line ends
    refused("line: LF ends every line", post().replace(b"\r\n", b"\n"), _END),
    refused("line: LF ends the head", message(POST, HOST, _LENGTH)[:-2] + b"\n" + _BODY, _END),
    refused("line: LF ends the start line", post().replace(b"1.1\r\n", b"1.1\n"), _END),
    refused("line: LF ends a header", post().replace(b"proxy.test\r\n", b"proxy.test\n"), _END),
    refused("line: LF LF inside the head", message(POST, HOST, b"X: a\n\n" + SMUGGLED), _END),
    refused("line: CR ends a header", post().replace(b"proxy.test\r\n", b"proxy.test\r"), _CR),
    refused("line: CR ends every line", get().replace(b"\r\n", b"\r"), _CR),
    refused("line: CR CR LF ends a header", post().replace(b"proxy.test\r\n", b"proxy.test\r\r\n"), _CR),
    refused("line: CR CR LF ends the head", message(POST, HOST, _LENGTH)[:-2] + b"\r\r\n" + _BODY, _CR),
    taken("line: an empty line before the request", b"\r\n" + post(), "RFC 9112, 2.2: at least one is ignored"),
    taken("line: an empty line between requests", post("one") + b"\r\n" + post("two"), "RFC 9112, 2.2", "one", "two"),
    refused("line: a blank line before the request", b" \r\n" + post(), "RFC 9112, 3: no blanks before a method"),
    refused("line: a blank line behind the start line", post().replace(b"1.1\r\n", b"1.1\r\n \r\n"), "RFC 9112, 2.2"),
    refused("line: a blank before the first header", post().replace(b"Host", b" Host"), "RFC 9112, 2.2"),
    # --- folding
    _with_line("folded", b"X: a\r\n b", _FOLD),
    _with_line("folded with a tab", b"X: a\r\n\tb", _FOLD),
    _with_line("folded into a header", b"X: a\r\n Content-Length: 0", _FOLD),
    _with_line("only blanks", b"   ", _FOLD),
    # --- names
    _with_line("a blank before the colon", b"X : a", "RFC 9112, 5.1: 400"),
    _with_line("a tab before the colon", b"X\t: a", "RFC 9112, 5.1: 400"),
    _with_line("no name", b": a", _NAME),
    _with_line("no name and no blank", b":a", _NAME),
    _with_line("no colon", b"evil", _NAME),
    _with_line("a blank in the name", b"X Y: a", _NAME),
    _with_line("a NUL in the name", b"X\x00Y: a", _NAME),
    _with_line("a control byte in the name", b"X\x07Y: a", _NAME),
    _with_line("DEL in the name", b"X\x7fY: a", _NAME),
    _with_line("a byte over 127 in the name", b"X\xe9: a", _NAME),
    _with_line("UTF-8 in the name", "Łańcuch: a".encode(), _NAME),
    _with_line("brackets in the name", b"X[Y]: a", _NAME),
    _with_line("a slash in the name", b"X/Y: a", _NAME),
    _with_line("an at sign in the name", b"X@Y: a", _NAME),
    _with_line("quotes in the name", b'"X": a', _NAME),
    _with_line("a semicolon in the name", b"X;Y: a", _NAME),
    _with_line("an equals sign in the name", b"X=Y: a", _NAME),
    _with_line("a comma in the name", b"X,Y: a", _NAME),
    _good("every odd letter of a token", b"!#$%&'*+-.^_`|~1: a", "RFC 9110, 5.6.2"),
    # --- values
    _with_line("a NUL in the value", b"X: a\x00b", _VALUE),
    _with_line("a CR in the value", b"X: a\rb", _VALUE),
    _with_line("an LF in the value", b"X: a\nb", _VALUE),
    _with_line("a control byte in the value", b"X: a\x01b", _VALUE),
    _with_line("a vertical tab in the value", b"X: a\x0bb", _VALUE),
    _with_line("a backspace in the value", b"X: a\x08b", _VALUE),
    _with_line("DEL in the value", b"X: a\x7fb", _VALUE),
    _good("a tab in the value", b"X: a\tb", "RFC 9110, 5.5"),
    _good("an empty value", b"X:", "RFC 9110, 5.5"),
    _good("a byte over 127 in the value", b"X: \xe9", "RFC 9110, 5.5: opaque"),
    _good("colons in the value", b"X: a: b: c", "RFC 9110, 5.5"),
    # --- how many, how long
    refused("line: a long start line", get(b"/" + b"a" * 9000), "RFC 9112, 3: 414, or what the server says", 431),
    refused("line: a long value", post("case", b"X: " + b"a" * 9000), "RFC 6585, 5", 431),
    refused("line: a long name", post("case", b"X" * 9000 + b": a"), "RFC 6585, 5", 431),
    refused("line: a megabyte of value", post("case", b"X: " + b"a" * 1_000_000), "RFC 6585, 5", 431),
    refused(
        "line: many headers", post("case", *(b"X-%d: a" % i for i in range(2000))), "RFC 6585, 5: aiohttp says 400"
    ),
    refused("line: many headers of one name", post("case", *[b"X: a"] * 10_000), "RFC 6585, 5: aiohttp says 400"),
    refused(
        "line: many long headers", post("case", *(b"X-%d: " % i + b"a" * 8000 for i in range(100))), "RFC 6585, 5", 431
    ),
    taken("line: a hundred headers", post("case", *(b"X-%d: a" % i for i in range(100))), "RFC 9110, 5.4"),
    taken("line: seven kilobytes", post("case", b"X: " + b"a" * 7000), "RFC 9110, 5.4: what agents' tokens need"),
    # --- not HTTP at all
    refused("line: TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32) + b"\r\n\r\n", "HTTP Garden"),
    refused(
        "line: a proxy's own protocol", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + post(), "HAProxy, PROXY protocol 1"
    ),
    refused("line: SSH", b"SSH-2.0-OpenSSH_9.9\r\n", "HTTP Garden"),
    refused("line: NULs", bytes(100) + b"\r\n\r\n", "HTTP Garden"),
    refused("line: JSON", _BODY + b"\r\n\r\n", "HTTP Garden"),
    refused("line: an answer", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + SMUGGLED, "HTTP Garden"),
    either(
        "line: a NUL between requests",
        post("one") + b"\x00" + post("two"),
        "HTTP Garden",
        Outcome((400,), "closed"),
        Outcome((200, 400), "closed", ("one",)),
    ),
)
