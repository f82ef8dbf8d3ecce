"""Bodies that are too short or too long, and requests behind requests."""

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
    framed,
    get,
    length,
    post,
    refused,
    taken,
)

_BODY = body()
_LENGTH = length(_BODY)
_PIPELINE = "RFC 9112, 9.3.2: answers come in the order of the requests"
_INCOMPLETE = "RFC 9112, 8: a message without its end is incomplete"
_SWALLOWED = "RFC 9112, 9.3: the body of a refused request is read, or the connection closed"
_MANY = tuple(f"text {number}" for number in range(20))

CASES = (
    # --- too short, too long
    refused("body: shorter than its length", framed(_LENGTH, content=_BODY[:-1]), _INCOMPLETE, 408, Then.WAIT),
    Case(
        "body: shorter than its length, and the client leaves",
        framed(_LENGTH, content=_BODY[:-1]),
        _INCOMPLETE,
        (Outcome((), "closed"),),
        Then.LEAVE,
    ),
    Case("body: half a head, and the client leaves", post()[:40], _INCOMPLETE, (Outcome((), "closed"),), Then.LEAVE),
    refused("body: half a head", post()[:40], _INCOMPLETE, 408, Then.WAIT),
    either(
        "body: longer than its length",
        post("one") + b"evil\r\n\r\n",
        "RFC 9112, 6.3: what follows is the next request, and none",
        Outcome((400,), "closed"),
        Outcome((200, 400), "closed", ("one",)),
    ),
    either(
        "body: longer than its length by a line end",
        post("one") + b"\r\n" + post("two"),
        "RFC 9112, 2.2: old clients send one",
        Outcome((200, 200), "kept", ("one", "two")),
    ),
    either(
        "body: a length of zero before a body",
        framed(b"Content-Length: 0", content=SMUGGLED),
        "RFC 9112, 6.3: it is the next request",
        Outcome((400, 200), "kept", ("smuggled",)),
    ),
    # --- pipelines
    taken("pipeline: two", post("one") + post("two"), _PIPELINE, "one", "two"),
    taken("pipeline: twenty", b"".join(map(post, _MANY)), _PIPELINE, *_MANY),
    either(
        "pipeline: a length, then chunks, then a length",
        post("one") + framed(CHUNKED, content=chunked("two")) + post("three"),
        "RFC 9112, 9.6: the server may end a connection with any answer",
        Outcome((200, 200), "closed", ("one", "two")),
    ),
    either(
        "pipeline: one, then half of one, then nothing",
        post("one") + post("two")[:-5],
        _PIPELINE,
        Outcome((200, 408), "closed", ("one",)),
    )._replace(then=Then.WAIT),
    either(
        "pipeline: one, then one that is ambiguous",
        post("one") + framed(_LENGTH, CHUNKED, content=chunked() + SMUGGLED),
        "RFC 9112, 6.3",
        Outcome((400,), "closed"),
        Outcome((200, 400), "closed", ("one",)),
    ),
    either(
        "pipeline: one that is not found, and one that is",
        post("x", start=b"POST /nowhere HTTP/1.1") + post("two"),
        _PIPELINE,
        Outcome((404, 200), "kept", ("two",)),
        Outcome((404,), "closed"),
    ),
    either(
        "pipeline: HEAD, then a request",
        get(method=b"HEAD") + post("two"),
        "RFC 9112, 6.3: an answer to HEAD has no body, whatever its length says",
        Outcome((200, 200), "kept", ("two",)),
    ),
    # --- bodies that look like requests
    declined(
        "body: a request, of another media type",
        framed(length(SMUGGLED), b"Content-Type: text/plain", content=SMUGGLED),
        _SWALLOWED,
        415,
    ),
    declined(
        "body: a request in chunks, of another media type",
        framed(CHUNKED, b"Content-Type: text/plain", content=b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
        _SWALLOWED,
        415,
    ),
    declined("body: a request, as JSON", framed(length(SMUGGLED), content=SMUGGLED), _SWALLOWED, 400),
    declined(
        "body: a request, to a path that takes GET",
        framed(length(SMUGGLED), content=SMUGGLED, start=b"POST /livez HTTP/1.1"),
        _SWALLOWED,
        405,
    ),
    refused(
        "body: a request, far over the limit", framed(b"Content-Length: 50000000", content=SMUGGLED), _SWALLOWED, 413
    ),
    declined(
        "body: a request, with a priority that is none",
        framed(length(SMUGGLED), b"x-proxy-priority: evil", content=SMUGGLED),
        _SWALLOWED,
        400,
    ),
    taken("body: a request inside a text", post(SMUGGLED.decode()), "It is text", SMUGGLED.decode()),
    taken(
        "body: an answer inside a text",
        post("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        "It is text",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
)
