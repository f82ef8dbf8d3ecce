"""Targets: forms, encodings, dots and slashes. A path is what it is, byte for byte, or it is not found."""

from tests.security.cases.case import (
    HOST,
    SMUGGLED,
    Case,
    body,
    declined,
    get,
    length,
    message,
    post,
    refused,
    taken,
)

_RAW = "RFC 3986, 6.2: nothing is normalised, so that no path means two things (Http11Probe, normalisation)"
_FORM = "RFC 9112, 3.2"


def _elsewhere(name: str, target: bytes, why: str = _RAW) -> Case:
    return declined(f"target: {name}", post(start=b"POST " + target + b" HTTP/1.1"), why, 404)


def _chat(name: str, target: bytes, why: str = _FORM) -> Case:
    return taken(f"target: {name}", post(start=b"POST " + target + b" HTTP/1.1"), why)


def _bad(name: str, target: bytes, why: str = _FORM) -> Case:
    return refused(f"target: {name}", post(start=b"POST " + target + b" HTTP/1.1") + SMUGGLED, why)


CASES = (
    _chat("a slash at the end", b"/v1/chat/completions/", "README: a slash at the end is dropped"),
    _chat("a query", b"/v1/chat/completions?api-version=1&api-version=2"),
    _chat("a query with a bad escape", b"/v1/chat/completions?a=%zz"),
    _chat("a query that looks like a header", b"/v1/chat/completions?%0d%0aHost:%20evil.test"),
    _chat("absolute", b"http://proxy.test/v1/chat/completions", "RFC 9112, 3.2.2: a server must take it"),
    _chat("absolute, another host and port", b"http://127.0.0.1:1/v1/chat/completions", "SSRF: it chooses no upstream"),
    _chat("absolute, https", b"https://evil.test/v1/chat/completions", "RFC 9112, 3.2.2"),
    _elsewhere("an encoded letter", b"/v1/%63hat/completions"),
    _elsewhere("an encoded slash", b"/v1/chat%2Fcompletions"),
    _elsewhere("an encoded slash at the end", b"/v1/chat/completions%2f"),
    _elsewhere("an encoded blank", b"/v1/chat/completions%20"),
    _elsewhere("an encoded NUL", b"/v1/chat/completions%00"),
    _elsewhere("an encoded line end", b"/v1/chat/completions%0d%0aHost:%20evil.test"),
    _elsewhere("encoded twice", b"/v1/%2563hat/completions"),
    _elsewhere("a bad escape", b"/v1/chat/completions%"),
    _elsewhere("dots in the middle", b"/v1/../v1/chat/completions"),
    _elsewhere("a dot in the middle", b"/v1/./chat/completions"),
    _elsewhere("dots at the end", b"/v1/chat/completions/../completions"),
    _elsewhere("encoded dots", b"/v1/%2e%2e/v1/chat/completions"),
    _elsewhere("dots and a semicolon", b"/v1/..;/v1/chat/completions"),
    _elsewhere("above the root", b"/../../etc/passwd"),
    _elsewhere("two slashes in the middle", b"/v1//chat/completions"),
    _elsewhere("a backslash", b"/v1\\chat/completions"),
    _elsewhere("a parameter", b"/v1/chat/completions;a=b"),
    _elsewhere("capital letters", b"/V1/Chat/Completions"),
    _elsewhere("two slashes before", b"//v1/chat/completions", "a second host: PortSwigger, routing-based SSRF"),
    _elsewhere("two slashes and a host", b"//evil.test/v1/chat/completions", "a second host"),
    _elsewhere("a route of the model server", b"/v1/load_lora_adapter", "reliability: F33"),
    _bad("a byte over 127", b"/v1/chat/completions\xe9", _RAW),
    _elsewhere("seven kilobytes", b"/" + b"a" * 7000, _FORM),
    _bad("a fragment", b"/v1/chat/completions#evil", "RFC 9112, 3.2: no form has a fragment"),
    _bad("an authority", b"evil.test:443", "RFC 9112, 3.2.3: only for CONNECT"),
    _bad("a word", b"evil"),
    _bad("absolute, no host", b"http:///v1/chat/completions", "RFC 9110, 4.2.1: a host is not empty"),
    _bad(
        "absolute, with a user",
        b"http://a:b@evil.test/v1/chat/completions",
        "RFC 9110, 4.2.4: user information is refused",
    ),
    _bad("absolute, a bad port", b"http://evil.test:99999/v1/chat/completions", "RFC 3986, 3.2.3"),
    _bad("absolute, a bad address", b"http://[::1/v1/chat/completions", "RFC 3986, 3.2.2"),
    _bad("absolute, another scheme", b"file:///etc/passwd"),
    _bad("an asterisk", b"*", "RFC 9112, 3.2.4: only for OPTIONS"),
    declined("target: an asterisk for OPTIONS", message(b"OPTIONS * HTTP/1.1", HOST), "RFC 9112, 3.2.4", 404),
    declined("target: an answer of the proxy's own, by another name", get(b"/livez/../metrics"), _RAW, 404),
    declined("target: an encoded slash at the root", get(b"/%2f"), _RAW, 404),
    refused(
        "target: absolute, without Host",
        message(b"POST http://proxy.test/v1/chat/completions HTTP/1.1", length(body()), content=body()),
        "RFC 9112, 3.2: Host is sent all the same",
    ),
)
