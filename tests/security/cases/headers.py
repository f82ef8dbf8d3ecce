"""Headers that mean something to hops, to caches, or to other servers: none of them reaches the model server."""

from tests.security.cases.case import (
    CHUNKED,
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
    post,
    refused,
    taken,
)

_BODY = body()
_LENGTH = length(_BODY)
_HOP = (
    "RFC 9110, 7.6.1: what Connection names is not passed on; here nothing is, and what is needed cannot be named away"
)
_OWN = "F37: a replica gets the proxy's own headers and none of a client's"
_TYPE = "RFC 9110, 15.5.16"
_TRACE = b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"
_LONG_STATE = b"tracestate: " + b",".join(b"k%d=%b" % (n, b"v" * 99) for n in range(32))


def _harmless(name: str, *lines: bytes, why: str = _OWN) -> Case:
    return taken(f"header: {name}", post("case", *lines), why)


CASES = (
    _harmless("Connection: keep-alive", b"Connection: keep-alive", why=_HOP),
    _harmless("Connection names Content-Length", b"Connection: Content-Length", why=_HOP),
    _harmless("Connection names Authorization", b"Connection: Authorization", why=_HOP),
    _harmless("Connection names Host", b"Connection: Host, Content-Type", why=_HOP),
    _harmless("Connection names x-request-id", b"Connection: x-request-id", b"x-request-id: a", why=_HOP),
    last(
        "header: Connection names Transfer-Encoding",
        framed(CHUNKED, b"Connection: Transfer-Encoding", content=chunked()),
        _HOP,
    ),
    last("header: Connection: close", post("case", b"Connection: close"), "RFC 9112, 9.6", then=Then.WAIT),
    either(
        "header: Connection: close, and one more request",
        post("case", b"Connection: close") + SMUGGLED,
        "RFC 9112, 9.6: nothing that follows is processed",
        Outcome((400,), "closed"),
        Outcome((200,), "closed", ("case",)),
    ),
    ended(
        "header: Proxy-Connection",
        post("case", b"Proxy-Connection: close"),
        "RFC 9112, appendix C.2.2: means nothing; llhttp takes it for Connection",
    ),
    _harmless("Keep-Alive", b"Keep-Alive: timeout=1, max=1", why="RFC 9112, appendix C.2.2: means nothing"),
    _harmless("TE", b"TE: trailers, deflate", b"Connection: TE", why="RFC 9110, 10.1.4"),
    _harmless("Trailer", b"Trailer: Content-Length", why="RFC 9110, 6.6.2"),
    last("header: Upgrade without Connection", post("case", b"Upgrade: h2c"), "RFC 9110, 7.8"),
    # --- what other servers would heed
    _harmless("credentials", b"Authorization: Bearer evil", b"Cookie: a=b", b"x-api-key: evil"),
    _harmless("a forwarded host", b"X-Forwarded-Host: evil.test", b"Forwarded: host=evil.test", b"X-Host: evil.test"),
    _harmless("a forwarded address", b"X-Forwarded-For: 127.0.0.1", b"X-Real-IP: 127.0.0.1"),
    _harmless("another target", b"X-Original-URL: /metrics", b"X-Rewrite-URL: /metrics"),
    _harmless("another method", b"X-HTTP-Method-Override: GET", b"X-HTTP-Method: DELETE"),
    _harmless("a range", b"Range: bytes=0-1", b"If-None-Match: *", b"If-Match: evil"),
    _harmless("another origin", b"Origin: http://evil.test", b"Access-Control-Request-Method: POST"),
    _harmless("HTTP/2's pseudo-header in a value", b"X: :path: /evil"),
    _harmless("Max-Forwards", b"Max-Forwards: 0", b"Via: 1.1 evil"),
    _harmless("an id with a line end in code", b"x-request-id: a%0d%0aX: b", why="F38: only a plain id is passed on"),
    _harmless("an id that is too long", b"x-request-id: " + b"a" * 200, why="F38: only a plain id is passed on"),
    _harmless("two ids", b"x-request-id: a", b"x-request-id: b", why="F38: one id, whatever came"),
    _harmless("two traces", b"traceparent: 00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", b"traceparent: evil"),
    _harmless("a trace that is none", b"traceparent: 00-" + b"a" * 32 + b"\tevil"),
    _harmless("a trace with more behind it", _TRACE + b"-x\tevil: 1"),
    _harmless("a trace of a later version", _TRACE.replace(b" 00-", b" cc-") + b"-x: y\tevil"),
    _harmless("a trace in capitals", _TRACE.upper()),
    _harmless("a trace with its state", _TRACE, b"tracestate: a=1,b=2", b"tracestate: c=3"),
    _harmless("a state without a trace", b"tracestate: evil=1"),
    _harmless("a state that is none", _TRACE, b"tracestate: a=1\tevil: 1"),
    _harmless("a state with bytes that are not ASCII", _TRACE, b"tracestate: a=\xe9\x80"),
    _harmless("a state that ends in code", _TRACE, b"tracestate: a=%0d%0aX: b"),
    _harmless("a state that is too long", _TRACE, _LONG_STATE),
    _harmless("baggage", b"baggage: evil=1"),
    # --- what the body is
    declined("header: a compressed body", post("case", b"Content-Encoding: gzip"), _TYPE, 415),
    declined("header: a form", post("case", b"Content-Type: application/x-www-form-urlencoded"), _TYPE, 415),
    declined("header: no media type", post("case", b"Content-Type: evil"), _TYPE, 415),
    declined("header: an empty media type", post("case", b"Content-Type:"), _TYPE, 415),
    _harmless("JSON in other letters", b"Content-Type: Application/JSON; charset=utf-8", why="RFC 9110, 8.3.1"),
    refused(
        "header: two media types",
        post("case", b"Content-Type: text/plain", b"Content-Type: application/json"),
        "RFC 9110, 5.3: one of a kind",
    ),
    # --- Expect
    _harmless("Expect: 100-continue with its body", b"Expect: 100-continue", why="RFC 9110, 10.1.1"),
    _harmless("Expect: 100-continue in other letters", b"Expect: 100-Continue", why="RFC 9110, 10.1.1"),
    last(
        "header: Expect: 100-continue with chunks",
        framed(CHUNKED, b"Expect: 100-continue", content=chunked()),
        "RFC 9110, 10.1.1",
    ),
    _harmless("an unknown Expect", b"Expect: evil", why="RFC 9110, 10.1.1: 417 or not at all"),
    _harmless("Expect twice", b"Expect: 100-continue", b"Expect: evil", why="PortSwigger, HTTP/1 must die, 2025"),
    _harmless("Expect with a letter before", b"Expect: y 100-continue", why="PortSwigger, HTTP/1 must die, 2025"),
    declined("header: Expect on a GET", get(b"/livez", b"Expect: 100-continue"), "PortSwigger, 2025", 200),
    declined(
        "header: Expect on a GET whose body is a request",
        get(b"/livez", b"Expect: 100-continue", length(SMUGGLED)) + SMUGGLED,
        "PortSwigger, 2025: 0.CL by way of Expect",
        200,
    ),
    last(
        "header: Expect in HTTP/1.0",
        post("case", b"Expect: 100-continue", start=b"POST /v1/chat/completions HTTP/1.0"),
        "RFC 9110, 10.1.1: it means nothing there",
        then=Then.WAIT,
    ),
    refused(
        "header: Expect with a body that never comes",
        framed(b"Expect: 100-continue", _LENGTH, content=b""),
        "RFC 9110, 10.1.1",
        408,
        Then.WAIT,
    ),
)
