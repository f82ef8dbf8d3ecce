"""Where a body ends: Content-Length, Transfer-Encoding, both, twice, and spelled in odd ways."""

from tests.security.cases.case import (
    CHUNKED,
    HOST,
    LAST_CHUNK,
    POST,
    SMUGGLED,
    Case,
    Outcome,
    body,
    chunk,
    chunked,
    declined,
    either,
    ended,
    framed,
    get,
    last,
    length,
    message,
    post,
    refused,
    taken,
)

_BODY = body()
_N = len(_BODY)
_LENGTH = length(_BODY)
_BOTH = "RFC 9112, 6.1 and 6.3: both are an attempt at smuggling; the server ought to answer 400 and close"
_INVALID_LENGTH = "RFC 9112, 6.3: an invalid Content-Length is an error that cannot be recovered from"
_LAST_CODING = "RFC 9112, 6.3: where chunked is not the last coding, the length is not known: 400 and close"
_CODING = "RFC 9112, 6.1: a coding that is not understood is refused"
_HIDDEN = "PortSwigger, HTTP request smuggling: a Transfer-Encoding that one of two servers does not see"


def _with_length(name: str, value: bytes, why: str = _INVALID_LENGTH) -> Case:
    return refused(f"length: {name}", framed(b"Content-Length:" + value, content=_BODY), why)


def _with_coding(name: str, *lines: bytes, why: str = _HIDDEN) -> Case:
    """A length for those who do not see the coding; for those who do, the body ends before a second request."""
    return refused(f"coding: {name}", framed(*lines, content=chunked() + SMUGGLED), why)


_CL_TE_CONTENT = b"0\r\n\r\n" + SMUGGLED
_TE_CL_CONTENT = chunk(SMUGGLED) + b"0\r\n\r\n"

CASES = (
    taken("length: one", post(), "RFC 9112, 6.2"),
    last("coding: chunked", framed(CHUNKED, content=chunked()), "RFC 9112, 7.1"),
    # --- both
    refused("CL.TE", framed(length(_CL_TE_CONTENT), CHUNKED, content=_CL_TE_CONTENT), _BOTH),
    refused("TE.CL", framed(CHUNKED, length(b"88\r\n"), content=_TE_CL_CONTENT), _BOTH),
    refused("CL.TE with one body for both", framed(length(chunked()), CHUNKED, content=chunked()), _BOTH),
    refused("CL.TE with a length of zero", framed(b"Content-Length: 0", CHUNKED, content=chunked()), _BOTH),
    refused(
        "TE.CL where the coding is in capitals", framed(b"TRANSFER-ENCODING: CHUNKED", _LENGTH, content=_BODY), _BOTH
    ),
    refused("CL and a coding of identity", framed(_LENGTH, b"Transfer-Encoding: identity", content=_BODY), _BOTH),
    refused("CL and an empty coding", framed(_LENGTH, b"Transfer-Encoding:", content=_BODY), _BOTH),
    refused("CL and an unknown coding", framed(_LENGTH, b"Transfer-Encoding: xchunked", content=_BODY), _BOTH),
    refused(
        "CL.TE on a GET", message(b"GET /livez HTTP/1.1", HOST, length(SMUGGLED), CHUNKED, content=SMUGGLED), _BOTH
    ),
    # --- lengths
    refused(
        "length: the same twice", framed(_LENGTH, _LENGTH, content=_BODY), "RFC 9112, 6.3: refusing is one of two ways"
    ),
    refused("length: two different", framed(_LENGTH, b"Content-Length: 0", content=SMUGGLED), _INVALID_LENGTH),
    refused(
        "length: two different, the short one first",
        framed(b"Content-Length: 0", _LENGTH, content=_BODY),
        _INVALID_LENGTH,
    ),
    _with_length("a list of the same", b" %d, %d" % (_N, _N), "RFC 9110, 8.6: refusing is one of two ways"),
    _with_length("a list of two", b" %d, 0" % _N),
    _with_length("a plus", b" +%d" % _N, "CVE-2023-37276, CVE-2023-47627: aiohttp read it as int() does"),
    _with_length("a minus", b" -%d" % _N),
    _with_length("minus zero", b" -0"),
    _with_length("an underscore", b" %d_%d" % divmod(_N, 10), "CVE-2023-47627: aiohttp read it as int() does"),
    _with_length("hexadecimal", b" 0x%x" % _N),
    _with_length("hexadecimal without a prefix", b" %xh" % _N),
    _with_length("a fraction", b" %d.0" % _N),
    _with_length("an exponent", b" 9e1"),
    _with_length("nothing", b""),
    _with_length("blanks", b"   "),
    _with_length("quoted", b' "%d"' % _N),
    _with_length("a blank inside", b" %d %d" % divmod(_N, 10)),
    _with_length("a second number behind a blank", b" %d 0" % _N),
    _with_length("a semicolon behind", b" %d;" % _N),
    _with_length("a comma behind", b" %d," % _N),
    _with_length("a vertical tab before", b" \x0b%d" % _N, "GHSA-vqfr-h8mv-ghfj and its like: blanks that are none"),
    _with_length("a form feed behind", b" %d\x0c" % _N),
    _with_length("a NUL behind", b" %d\x00" % _N),
    _with_length("a no-break space before", b" \xa0%d" % _N),
    _with_length("digits of another script", " \N{FULLWIDTH DIGIT NINE}\N{FULLWIDTH DIGIT ZERO}".encode()),
    _with_length("a superscript digit", b" 8\xb2", "str.isdigit() takes it"),
    _with_length("over 64 bits", b" %d" % (2**64 + _N)),
    _with_length("over 64 bits by far", b" " + b"9" * 60),
    _with_length("in words", b" many"),
    taken(
        "length: leading zeros",
        framed(b"Content-Length: 000%d" % _N, content=_BODY),
        "RFC 9110, 8.6: digits, so a number",
    ),
    taken("length: no blank before it", framed(b"Content-Length:%d" % _N, content=_BODY), "RFC 9112, 5.1"),
    taken("length: blanks around it", framed(b"Content-Length: \t %d \t " % _N, content=_BODY), "RFC 9112, 5.1"),
    taken("length: in other letters", framed(b"cOnTeNt-LeNgTh: %d" % _N, content=_BODY), "RFC 9110, 5.1"),
    refused(
        "length: far over the limit", framed(b"Content-Length: 99999999999", content=_BODY), "RFC 9110, 15.5.14", 413
    ),
    refused(
        "length: the largest of 63 bits",
        framed(b"Content-Length: 9223372036854775807", content=_BODY),
        "RFC 9110, 15.5.14",
        413,
    ),
    # --- no framing
    either(
        "no length, and a body that is a request",
        framed(content=post("second")),
        "RFC 9112, 6.3: a request without both has no body",
        Outcome((400, 200), "kept", ("second",)),
    ),
    either(
        "no length, and a body",
        framed(content=_BODY),
        "RFC 9112, 6.3: what follows is the next request, and none",
        Outcome((400,), "closed"),
        Outcome((400, 400), "closed"),
    ),
    declined("a GET with a body", get(b"/livez", _LENGTH) + _BODY, "RFC 9110, 9.3.1: its length counts", 200),
    declined("a GET whose body is a request", get(b"/livez", length(SMUGGLED)) + SMUGGLED, "RFC 9110, 9.3.1", 200),
    declined("a GET with chunks", get(b"/livez", CHUNKED) + chunk(SMUGGLED) + LAST_CHUNK, "RFC 9110, 9.3.1", 200),
    declined(
        "a HEAD whose body is a request",
        get(b"/livez", length(SMUGGLED), method=b"HEAD") + SMUGGLED,
        "RFC 9110, 9.3.2",
        200,
    ),
    declined(
        "a body that is a request, to nowhere",
        framed(length(SMUGGLED), content=SMUGGLED, start=b"POST /nowhere HTTP/1.1"),
        "RFC 9112, 9.3: the body of a refused request is read, or the connection closed",
        404,
    ),
    # --- codings
    last(
        "coding: in other letters",
        framed(b"tRANSFER-eNCODING: cHUNKED", content=chunked()),
        "RFC 9112, 7: without regard to case",
    ),
    last("coding: blanks around it", framed(b"Transfer-Encoding:   chunked  ", content=chunked()), "RFC 9112, 5.1"),
    refused(
        "coding: tabs around it",
        framed(b"Transfer-Encoding:\tchunked\t", content=chunked()),
        "RFC 9112, 5.1 allows them; refused all the same",
    ),
    last("coding: no blank before it", framed(b"Transfer-Encoding:chunked", content=chunked()), "RFC 9112, 5.1"),
    _with_coding("xchunked", b"Transfer-Encoding: xchunked", why=_CODING),
    _with_coding("chunkedx", b"Transfer-Encoding: chunkedx", why=_CODING),
    _with_coding("chunk", b"Transfer-Encoding: chunk", why=_CODING),
    _with_coding("chunked, identity", b"Transfer-Encoding: chunked, identity", why=_LAST_CODING),
    _with_coding("identity, chunked", b"Transfer-Encoding: identity, chunked", why=_CODING),
    _with_coding("identity", b"Transfer-Encoding: identity", why=_LAST_CODING),
    _with_coding("gzip", b"Transfer-Encoding: gzip", why=_LAST_CODING),
    _with_coding("gzip, chunked", b"Transfer-Encoding: gzip, chunked", why=_CODING),
    _with_coding("chunked, gzip", b"Transfer-Encoding: chunked, gzip", why=_LAST_CODING),
    _with_coding(
        "chunked, chunked", b"Transfer-Encoding: chunked, chunked", why="RFC 9112, 6.1: chunked once at the most"
    ),
    _with_coding("chunked in two lines", CHUNKED, CHUNKED, why="RFC 9112, 6.1: chunked once at the most"),
    _with_coding("chunked, then identity, in two lines", CHUNKED, b"Transfer-Encoding: identity", why=_LAST_CODING),
    _with_coding("identity, then chunked, in two lines", b"Transfer-Encoding: identity", CHUNKED, why=_CODING),
    _with_coding("x, then chunked, in two lines", b"Transfer-Encoding: x", CHUNKED),
    refused("coding: nothing", framed(b"Transfer-Encoding:", content=SMUGGLED), _LAST_CODING),
    refused("coding: commas", framed(b"Transfer-Encoding: ,", content=SMUGGLED), _LAST_CODING),
    _with_coding("a comma before", b"Transfer-Encoding: ,chunked"),
    _with_coding("a comma behind", b"Transfer-Encoding: chunked,"),
    _with_coding("a parameter", b"Transfer-Encoding: chunked;q=1"),
    _with_coding("quoted", b'Transfer-Encoding: "chunked"'),
    _with_coding(
        "a vertical tab before", b"Transfer-Encoding: \x0bchunked", why="aiohttp CVE-2023-47627, Node.js CVE-2022-32213"
    ),
    _with_coding("a vertical tab behind", b"Transfer-Encoding: chunked\x0b"),
    _with_coding("a NUL behind", b"Transfer-Encoding: chunked\x00"),
    _with_coding("a byte over 127 before", b"Transfer-Encoding: \xffchunked"),
    _with_coding(
        "a letter that lowers to ASCII",
        "Transfer-Encoding: chun\N{KELVIN SIGN}ed".encode(),
        why="str.lower() makes a k of it",
    ),
    _with_coding("a blank before the colon", b"Transfer-Encoding : chunked"),
    _with_coding("a line end before the colon", b"Transfer-Encoding\r\n: chunked"),
    _with_coding("a blank before the name", b" Transfer-Encoding: chunked"),
    _with_coding("a folded value", b"Transfer-Encoding:\r\n chunked"),
    _with_coding("a folded value with a length", _LENGTH, b"Transfer-Encoding:\r\n\tchunked"),
    _with_coding("behind a bare LF", _LENGTH, b"X: a\nTransfer-Encoding: chunked"),
    _with_coding("behind a bare CR", _LENGTH, b"X: a\rTransfer-Encoding: chunked"),
    _with_coding("behind CR CR LF", _LENGTH, b"X: a\r\r\nTransfer-Encoding: chunked"),
    _with_coding("a name with a NUL", _LENGTH, b"Transfer-Encoding\x00: chunked"),
    _with_coding("a name with a control byte", _LENGTH, b"\x01Transfer-Encoding: chunked"),
    taken(
        "coding: a name with an underscore",
        framed(_LENGTH, b"Transfer_Encoding: chunked", content=_BODY),
        "HTTP Garden: another header, that servers behind CGI confuse",
    ),
    taken(
        "length: a name with an underscore",
        framed(_LENGTH, b"Content_Length: 0", content=_BODY),
        "HTTP Garden: another header",
    ),
    declined(
        "length: only a name with an underscore",
        message(POST, HOST, b"Content_Length: 0"),
        "HTTP Garden: another header, so there is no body",
        400,
    ),
    ended(
        "coding: chunked in HTTP/1.0",
        framed(CHUNKED, content=chunked() + SMUGGLED, start=b"POST /v1/chat/completions HTTP/1.0"),
        "RFC 9112, 6.1: the connection ends after it",
    ),
    refused(
        "CL.TE in HTTP/1.0", framed(_LENGTH, CHUNKED, content=_BODY, start=b"POST /v1/chat/completions HTTP/1.0"), _BOTH
    ),
)
