"""
What spans a request makes when it is over. Pure: from the facts that were written down, to names, times and attributes.

    POST /v1/chat/completions        SERVER, the request
      queue                          if it waited
      read, translate                its body
      limits, cache                  if they were asked
      chat MODEL                     CLIENT, one for each attempt at a replica
        connect                      until there was a connection, an idle one or a new one
        first_token                  until the answer's body began; of a stream that is its first token
        stream                       the rest of a streamed answer

A phase that did not come to its end has the error. Names and attributes of HTTP and of generative AI are those of
OpenTelemetry's semantic conventions (opentelemetry-semantic-conventions 0.66b2; those for generative AI are still in
development); the project's own begin with `devstral.proxy.`. Nothing that was said is in them, and no header.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from proxy.errors import ProxyError
from proxy.values import DEFAULT_PORTS
from proxy.wire.trace_context import TraceContext

_CHAT: Final[Mapping[str, Any]] = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "mistral_ai"}

#: The attributes of a request, and the fields of its record; what did not happen has none.
_FACTS: Final = (
    ("url.path", "path"),
    ("gen_ai.request.model", "model"),
    ("gen_ai.request.stream", "stream"),
    ("gen_ai.usage.input_tokens", "tokens_in"),
    ("gen_ai.usage.output_tokens", "tokens_out"),
    ("devstral.proxy.request_id", "request_id"),
    ("devstral.proxy.principal", "principal"),
    ("devstral.proxy.profile", "profile"),
    ("devstral.proxy.replica", "replica"),
    ("devstral.proxy.attempts", "attempts"),
    ("devstral.proxy.retried", "retried"),
    ("devstral.proxy.rules", "rules"),
    ("devstral.proxy.failover", "failover"),
    ("devstral.proxy.cache", "cache"),
    ("devstral.proxy.limit", "limit"),
)
#: What follows on a lap, where that came to no end.
_NEXT: Final = {"admit": "queue", "queue": "read", "read": "translate", "translate": "limits"}
_CLIENT_LEFT: Final = "client_disconnect"


def _codes_of(kind: type[ProxyError]) -> Iterator[str | int | None]:
    yield kind.code
    for child in kind.__subclasses__():
        yield from _codes_of(child)


#: What an error may be called: the codes of classes, and those that one or another failure has of its own.
WORDS: Final = frozenset(
    {
        *_codes_of(ProxyError),
        *(_CLIENT_LEFT, "insufficient_quota", "context_length_exceeded", "model_not_allowed", "unknown_tier"),
        *("malformed_tool_call", "malformed_upstream_answer", "event_too_large"),
    }
)
#: What stands for any word that is none of a list (semantic conventions).
_OTHER: Final = "_OTHER"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_LOWEST_ERROR: Final = 400
_LOWEST_FAILURE: Final = 500
#: Arbitrary: the longest text of an attribute.
_LONGEST_TEXT: Final = 256
#: What model servers are asked, by the client's route: method and path. All others are chats, and are asked as one.
_ASKED: Final[Mapping[str, tuple[str, str]]] = {
    "/v1/models": ("GET", "/v1/models"),
    "/v1/messages/count_tokens": ("POST", "/tokenize"),
}
_CHAT_ASKED: Final = ("POST", "/v1/chat/completions")


class Request(Protocol):
    """What is read of a request's record, besides `_FACTS`."""

    method: str
    path: str
    model: str | None
    stream: bool | None
    status: int
    error: str | int | None
    error_type: str | None
    queue_ms: float | None
    sent_ms: float | None
    ttft_ms: float | None
    finish_reason: str | None


class Leg(Protocol):
    """What is read of an attempt; see upstream/route.py."""

    replica: str
    url: str
    traceparent: str | None
    began_at: float
    connected_at: float | None
    first_byte_at: float | None
    ended_at: float | None
    status: int | None
    error: str | None


class Origin(Protocol):
    """What is read of a request's trace; see edge/trace.py."""

    trace_id: str | None
    span_id: str | None
    parent: TraceContext | None

    @property
    def legs(self) -> Sequence[Leg]:
        """The attempts, in order."""


class Watch(Protocol):
    """What is read of a request's stopwatch; see edge/record.py."""

    started: float
    laps: list[tuple[str, float, float]]


class Piece(NamedTuple):
    """
    One span. Times are seconds of `time.perf_counter()`.

    `parent_id` is None where it is the client's span, or none. `span_id` is None where nobody has heard of it yet.
    """

    name: str
    kind: str
    span_id: str | None
    parent_id: str | None
    began: float
    ended: float
    attributes: Mapping[str, Any] = {}
    is_failure: bool = False


def pieces_of(request: Request, origin: Origin, watch: Watch, ended: float, scheme: str) -> Iterator[Piece]:
    """Yield the spans of a request that ended at `ended`, parents before their children."""
    is_failure = request.status >= _LOWEST_FAILURE or request.error_type == "server_error"
    error = {} if request.error is None else {"error.type": _error_type(request.error, request.status)}
    facts = _facts_of(request, scheme) | error
    method = _method(request)
    name = f"{'HTTP' if method == _OTHER else method} {_route(request)}"
    yield Piece(name, "SERVER", origin.span_id, None, watch.started, ended, facts, is_failure)
    for name, lap_began, lap_ended in watch.laps:
        if name != "admit" and (name != "queue" or request.queue_ms is not None):
            yield Piece(name, "INTERNAL", None, origin.span_id, lap_began, lap_ended)
    if error and watch.laps and not origin.legs:
        last, _, since = watch.laps[-1]
        if last in _NEXT:
            yield Piece(_NEXT[last], "INTERNAL", None, origin.span_id, since, ended, error, is_failure)
    for number, leg in enumerate(origin.legs):
        yield from _pieces_of_leg(request, leg, number, origin.span_id, ended)


def _facts_of(request: Request, scheme: str) -> dict[str, Any]:
    facts = {name: _told(value) for name, field in _FACTS if (value := getattr(request, field)) not in (None, ())}
    facts["url.scheme"] = scheme
    facts["http.request.method"] = _method(request)
    facts["http.route"] = _route(request)
    if request.method == "POST" and _is_chat(request):
        facts |= _CHAT
    if request.finish_reason is not None:
        facts["gen_ai.response.finish_reasons"] = request.finish_reason.split(",")
    if request.error != _CLIENT_LEFT:  # the client saw another status, or none
        facts["http.response.status_code"] = request.status
    has_begun = request.status == 200 or request.error == _CLIENT_LEFT
    if request.stream and request.ttft_ms is not None and request.sent_ms is not None and has_begun:
        facts["gen_ai.response.time_to_first_chunk"] = request.ttft_ms / 1000
    return facts


def _pieces_of_leg(request: Request, leg: Leg, number: int, parent_id: str | None, over: float) -> Iterator[Piece]:
    span_id = None if leg.traceparent is None else leg.traceparent[36:52]
    ended = over if leg.ended_at is None else leg.ended_at
    is_failure = leg.error is not None
    name = f"chat {request.model}" if _is_chat(request) else " ".join(_asked(request))
    facts = _facts_of_leg(request, leg, number)
    yield Piece(_tame(name), "CLIENT", span_id, parent_id, leg.began_at, ended, facts, is_failure)
    since = leg.began_at
    phases = [("connect", leg.connected_at), ("first_token", leg.first_byte_at)]
    if request.stream:
        phases.append(("stream", None))
    for phase, until in phases:
        is_last = until is None
        error = {"error.type": _error_type(leg.error, leg.status)} if is_last and leg.error is not None else {}
        yield Piece(phase, "INTERNAL", None, span_id, since, ended if until is None else until, error, bool(error))
        if until is None:
            break
        since = until


def _facts_of_leg(request: Request, leg: Leg, number: int) -> dict[str, Any]:
    method, path = _asked(request)
    facts: dict[str, Any] = {"devstral.proxy.replica": _tame(leg.replica), "http.request.method": method}
    if leg.url.startswith("unix:"):
        facts["server.address"] = leg.url.removeprefix("unix:")
    else:
        url = urlsplit(leg.url)
        facts["server.address"] = url.hostname
        facts["server.port"] = url.port or DEFAULT_PORTS[url.scheme]
        facts["url.full"] = leg.url + path
    if _is_chat(request):
        facts |= _CHAT
    if request.model is not None:
        facts["gen_ai.request.model"] = _tame(request.model)
    if leg.status is not None:
        facts["http.response.status_code"] = leg.status
    if number:
        facts["http.request.resend_count"] = number
    if leg.error is not None:
        facts["error.type"] = _error_type(leg.error, leg.status)
    return facts


def _route(request: Request) -> str:
    return request.path.rstrip("/")


def _asked(request: Request) -> tuple[str, str]:
    return _ASKED.get(_route(request), _CHAT_ASKED)


def _is_chat(request: Request) -> bool:
    return _route(request) not in _ASKED


def _method(request: Request) -> str:
    return request.method if request.method in _METHODS else _OTHER


def _error_type(code: str | int, status: int | None) -> str:
    """Return a word of this program, else the status: what a model server says of an error may hold anything."""
    if code in WORDS:
        return str(code)
    return _OTHER if status is None or status < _LOWEST_ERROR else str(status)


def _told(value: Any) -> Any:
    return _tame(value) if isinstance(value, str) else value


def _tame(text: str) -> str:
    """Return text that can be sent: a name may hold half a character, and one such would cost a whole batch."""
    text = text[:_LONGEST_TEXT]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
