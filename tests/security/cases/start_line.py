"""The start line, Host, versions, methods, and what asks for another protocol."""

from tests.security.cases.case import (
    CHUNKED,
    HOST,
    POST,
    SMUGGLED,
    Case,
    Outcome,
    Then,
    body,
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
_LENGTH = length(_BODY)
_START = "RFC 9112, 3: one blank between the parts, nothing else"
_BLANKS = "RFC 9112, 3: a server may take more blanks than one"
_VERSION = "RFC 9112, 2.3: HTTP, a slash, a digit, a dot, a digit"
_HOST = "RFC 9112, 3.2: exactly one valid Host"
_METHOD = "RFC 9110, 9.1: methods are tokens, and heed case"
_UPGRADE = "RFC 9110, 7.8: an upgrade may be ignored; RFC 9113, 3.1: h2c is no more; h2c smuggling, 2020"


def _start(name: str, line: bytes, why: str = _START, status: int = 400) -> Case:
    return refused(f"start: {name}", post(start=line) + SMUGGLED, why, status)


def _version(version: bytes) -> Case:
    return _start("version " + version.decode("latin-1"), b"POST /v1/chat/completions " + version, _VERSION)


def _method(name: str, method: bytes, status: int) -> Case:
    return declined(f"method: {name}", get(b"/v1/chat/completions", method=method), _METHOD, status)


def _bad_method(name: str, method: bytes) -> Case:
    return refused(f"method: {name}", get(b"/v1/chat/completions", method=method), _METHOD)


CASES = (
    # --- parts and blanks
    taken("start: two blanks", post(start=b"POST  /v1/chat/completions HTTP/1.1"), _BLANKS),
    taken("start: two blanks before the version", post(start=b"POST /v1/chat/completions  HTTP/1.1"), _BLANKS),
    _start("a tab", b"POST\t/v1/chat/completions HTTP/1.1"),
    _start("a tab before the version", b"POST /v1/chat/completions\tHTTP/1.1"),
    _start("a blank at the end", b"POST /v1/chat/completions HTTP/1.1 "),
    _start("a blank at the beginning", b" POST /v1/chat/completions HTTP/1.1"),
    _start("a blank in the target", b"POST /v1/chat /completions HTTP/1.1"),
    _start("a fourth word", b"POST /v1/chat/completions HTTP/1.1 HTTP/1.1"),
    _start("no target", b"POST HTTP/1.1"),
    _start("an empty target", b"POST  HTTP/1.1"),
    _start("only a method", b"POST"),
    _start("a NUL in the target", b"POST /v1/chat\x00/completions HTTP/1.1"),
    _start("a control byte in the target", b"POST /v1/chat\x01/completions HTTP/1.1"),
    _start("a CR in the target", b"POST /v1/chat\r/completions HTTP/1.1"),
    _start("an LF in the target", b"POST /v1/chat\n/completions HTTP/1.1"),
    _start("a vertical tab for a blank", b"POST\x0b/v1/chat/completions HTTP/1.1"),
    _start("no slash before the path", b"POST v1/chat/completions HTTP/1.1"),
    # --- versions
    _version(b"HTTP/0.9"),
    _version(b"HTTP/1.2"),
    _version(b"HTTP/2.0"),
    _version(b"HTTP/3.0"),
    _version(b"HTTP/9.9"),
    _version(b"HTTP/1.10"),
    _version(b"HTTP/01.1"),
    _version(b"HTTP/1"),
    _version(b"HTTP/1."),
    _version(b"HTTP/.1"),
    _version(b"HTTP/1,1"),
    _version(b"HTTP/ 1.1"),
    _version(b"HTTP\\1.1"),
    _version(b"HTTP/-1.1"),
    _version(b"HTTP/+1.1"),
    _version(b"HTTP/1.1x"),
    _version(b"HTTP/1_1"),
    _version(b"http/1.1"),
    _version(b"Http/1.1"),
    _version(b"HTTPS/1.1"),
    _version(b"XHTTP/1.1"),
    _version(b"ICE/1.0"),
    ended("start: version RTSP/1.0", post(start=b"POST /v1/chat/completions RTSP/1.0"), "llhttp takes it for HTTP/1.0"),
    _start(
        "version in digits of another script",
        "POST /v1/chat/completions HTTP/1.\N{FULLWIDTH DIGIT ONE}".encode(),
        "CVE-2024-23829",
    ),
    refused("start: HTTP/0.9", b"GET /\r\n", "RFC 9112, 2.3: HTTP/0.9 is no more", 408, Then.WAIT),
    refused("start: HTTP/0.9 with headers", b"GET /\r\nHost: x\r\n\r\n", "RFC 9112, 2.3"),
    last(
        "HTTP/1.0", post(start=b"POST /v1/chat/completions HTTP/1.0"), "RFC 9112, 9.3: closed after it", then=Then.WAIT
    ),
    last(
        "HTTP/1.0 without Host",
        message(b"POST /v1/chat/completions HTTP/1.0", _LENGTH, content=_BODY),
        "RFC 9112, 3.2",
        then=Then.WAIT,
    ),
    either(
        "HTTP/1.0, and one more request behind it",
        post(start=b"POST /v1/chat/completions HTTP/1.0") + SMUGGLED,
        "RFC 9112, 9.3: nothing follows",
        Outcome((400,), "closed"),
        Outcome((200,), "closed", ("case",)),
    ),
    taken(
        "HTTP/1.0 keep-alive",
        post("case", b"Connection: keep-alive", start=b"POST /v1/chat/completions HTTP/1.0"),
        "RFC 9112, 9.3 and appendix C.2.2",
    ),
    # --- Host
    refused("no Host", message(POST, _LENGTH, content=_BODY), _HOST),
    refused("two Hosts", post("case", b"Host: evil.test"), _HOST),
    refused("two equal Hosts", post("case", HOST), _HOST),
    refused("Host with a blank", post(host=b"Host: proxy.test evil.test"), _HOST),
    refused("Host with a comma and a blank", post(host=b"Host: proxy.test, evil.test"), _HOST),
    refused("Host with a path", post(host=b"Host: proxy.test/evil"), _HOST),
    refused("Host with a user", post(host=b"Host: proxy.test@evil.test"), _HOST),
    refused("Host with a fragment", post(host=b"Host: proxy.test#evil"), _HOST),
    refused("Host with a bad port", post(host=b"Host: proxy.test:evil"), _HOST),
    refused("Host with quotes", post(host=b'Host: "proxy.test"'), _HOST),
    taken("an empty Host", post(host=b"Host:"), "RFC 9112, 3.2: valid where the target has no authority"),
    taken("a foreign Host", post(host=b"Host: evil.test"), "One service for every name: nothing depends on it"),
    taken("Host with a port", post(host=b"Host: [::1]:9000"), _HOST),
    # --- methods
    _method("GET", b"GET", 405),
    _method("PUT", b"PUT", 405),
    _method("DELETE", b"DELETE", 405),
    _method("PATCH", b"PATCH", 405),
    _method("TRACE", b"TRACE", 405),
    _method("OPTIONS", b"OPTIONS", 405),
    _method("of WebDAV", b"PROPFIND", 405),
    _method("of caches", b"PURGE", 405),
    _bad_method("in small letters", b"post"),
    _bad_method("in mixed letters", b"Post"),
    _bad_method("unknown", b"EVIL"),
    _bad_method("very long", b"A" * 500),
    _bad_method("with a slash", b"PO/ST"),
    _bad_method("with a colon", b"PO:ST"),
    _bad_method("with brackets", b"PO(ST)"),
    _bad_method("with an at sign", b"PO@ST"),
    _bad_method("with a NUL", b"PO\x00ST"),
    _bad_method("with a byte over 127", b"PO\xffST"),
    _bad_method("of RTSP", b"DESCRIBE"),
    refused("method: none", b" /livez HTTP/1.1\r\nHost: x\r\n\r\n", _METHOD),
    refused(
        "method: HEAD with a length that is none", get(b"/livez", b"Content-Length: x", method=b"HEAD"), "RFC 9112, 6.3"
    ),
    # --- other forms of targets, other protocols
    either(
        "CONNECT",
        message(b"CONNECT evil.test:443 HTTP/1.1", b"Host: evil.test:443") + SMUGGLED,
        "RFC 9110, 9.3.6: this is no tunnel",
        Outcome((405,), "closed"),
        Outcome((404,), "closed"),
        Outcome((400,), "closed"),
    ),
    either(
        "CONNECT to a path",
        message(b"CONNECT /v1/chat/completions HTTP/1.1", HOST, _LENGTH, content=_BODY) + SMUGGLED,
        "RFC 9112, 3.2.3",
        Outcome((405,), "closed"),
        Outcome((400,), "closed"),
    ),
    either(
        "the preface of HTTP/2",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        "RFC 9113, 3.4",
        Outcome((400,), "closed"),
    ),
    last(
        "an upgrade to h2c",
        post(
            "case", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
        ),
        _UPGRADE,
    ),
    taken("an upgrade to a websocket", post("case", b"Connection: Upgrade", b"Upgrade: websocket"), _UPGRADE),
    last(
        "an upgrade with chunks",
        framed(CHUNKED, b"Connection: Upgrade", b"Upgrade: h2c", content=chunked()),
        _UPGRADE,
    ),
    declined(
        "a websocket on a GET",
        get(
            b"/v1/chat/completions",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ),
        _UPGRADE,
        405,
    ),
    last(
        "an upgrade, and a request behind it",
        post("case", b"Connection: Upgrade", b"Upgrade: h2c") + SMUGGLED,
        "aiohttp 3.14.5 drops what comes in one read behind an upgrade that it does not know: none is read behind it",
    ),
    taken(
        "an upgrade to a websocket, and a request behind it",
        post("one", b"Connection: Upgrade", b"Upgrade: websocket") + post("two"),
        _UPGRADE,
        "one",
        "two",
    ),
)
