"""The errors of the OpenAPI document, by who is at fault, and the headers that answers have."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from proxy import errors
from proxy.edge.openapi_request import ref
from proxy.errors import ProxyError, error_body

Json = dict[str, Any]


class Described(NamedTuple):
    """One error as the document shows it: its place under `components.responses`, who is at fault, an example."""

    name: str
    about: str
    status: int
    example: bytes
    headers: tuple[str, ...]


def _described(name: str, about: str, error: ProxyError, headers: tuple[str, ...] = ()) -> Described:
    return Described(name, about, error.status, error_body(error), headers)


def _limit_reached() -> ProxyError:
    error = errors.RateLimited(
        "Rate limit reached for requests per minute: Limit 60 (10 at once), Used 10, Requested 1."
        " Please try again in 1s."
    )
    error.kind = "requests"
    return error


_SHED: Final = ("Retry-After",)
_LIMITED: Final = tuple(
    f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")
)

_ERRORS: Final = (
    _described(
        "BadRequest",
        "The client: the request cannot be translated, or the model server refuses it.",
        errors.InvalidRequest("Unknown role `narrator`.", param="messages[0].role"),
    ),
    _described(
        "Unauthorized",
        "The client: no credential that is accepted.",
        errors.Unauthorized("The bearer token is not accepted."),
        ("WWW-Authenticate",),
    ),
    _described(
        "Forbidden",
        "The client: known, and not allowed.",
        errors.Forbidden("Only principals of a tier with `operator` may read this."),
    ),
    _described(
        "NotFound",
        "The client: no such path, or no such model.",
        errors.ModelNotFound("No model server has the model `gpt-4`.", param="model"),
    ),
    _described(
        "MethodNotAllowed",
        "The client: the path does not take this method.",
        errors.MethodNotAllowed("/v1/models does not take POST"),
        ("Allow",),
    ),
    _described(
        "RequestTimeout",
        "The client: the request did not arrive in time.",
        errors.RequestTimeout("read_timeout_s: the body did not arrive within 30 s."),
    ),
    _described(
        "PayloadTooLarge",
        "The client: the body is too large.",
        errors.PayloadTooLarge("The body is over the limit of 33554432 bytes (max_body_bytes)."),
    ),
    _described(
        "UnsupportedMediaType",
        "The client: the body is declared as something other than plain JSON.",
        errors.UnsupportedMediaType("Content-Type must be application/json, not text/plain."),
    ),
    _described(
        "RateLimited",
        "The client: a limit of its own, or of the model, is reached.",
        _limit_reached(),
        (*_SHED, *_LIMITED),
    ),
    _described(
        "HeadersTooLarge",
        "The client: the request line or a header is too long; the connection is closed.",
        errors.HeadersTooLarge("The request line or a header is over the limit of 8190 bytes."),
    ),
    _described(
        "InternalError",
        "The proxy or the model server: a defect.",
        ProxyError("Internal error; the log of the proxy has it under req_0123456789abcdef."),
    ),
    _described(
        "BadGateway",
        "The model server: it cannot be reached, or what it sent cannot be read.",
        errors.UpstreamUnavailable("No connection to the model server."),
    ),
    _described(
        "Unavailable",
        "The proxy: too much to do, or about to end.",
        errors.Overloaded("max_queue: 2048 requests run, and 512 wait already."),
        _SHED,
    ),
    _described(
        "GatewayTimeout",
        "The model server: too slow.",
        errors.UpstreamTimeout("first_byte_timeout_s: nothing came within 300 s."),
    ),
)

#: By status. 4xx is the client's fault, 500 and 503 the proxy's, 502 and 504 the model server's.
ERRORS: Final[Mapping[str, Described]] = MappingProxyType({str(error.status): error for error in _ERRORS})

#: What may come of any request, before it is looked at.
EVERYWHERE: Final = ("400", "405", "408", "431", "500")
#: Where who asks is looked at.
GUARDED: Final = ("401", "403", "503")


def error_responses() -> Json:
    """Return the errors for `components.responses`, by name."""
    responses = {error.name: _response(error) for error in ERRORS.values()}
    other = {"description": "Another error of the model server: its own status.", "content": _content()}
    return {**responses, "UpstreamRejected": {**other, "headers": headers_of("Retry-After")}}


def errors_of(*statuses: str) -> Json:
    """Return references to the errors of these statuses, in order, for an operation's `responses`."""
    return {status: {"$ref": f"#/components/responses/{ERRORS[status].name}"} for status in sorted(statuses)}


def _response(error: Described) -> Json:
    return {
        "description": error.about,
        "headers": headers_of(*error.headers),
        "content": _content(example=msgspec.json.decode(error.example)),
    }


def _content(**more: Any) -> Json:
    return {"application/json": {"schema": ref("Error"), **more}}


# --- headers


def headers_of(*names: str) -> Json:
    """Return references to the headers of an answer: the request's id, which is in all of them, and `names`."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *names)}


#: What an answer of the chat has besides.
CHAT_HEADERS: Final = ("x-proxy-rewrites", "x-proxy-attempts", "Server-Timing", "x-proxy-cache", *_LIMITED)


def header_components() -> Json:
    """Return the headers for `components.headers`, by name."""
    return {
        "x-request-id": {
            **_header(
                "The request's id: the client's, or a new one.", type="string", pattern="^[A-Za-z0-9._-]{1,128}$"
            ),
            "required": True,
        },
        "x-proxy-rewrites": _header("The rules that changed something, with commas.", type="string"),
        "Server-Timing": _header(
            "Where the time went until the answer began, in milliseconds.",
            type="string",
            pattern=r"^[a-z]+;dur=[0-9]+(\.[0-9]+)?(, [a-z]+;dur=[0-9]+(\.[0-9]+)?)*$",
            examples=[
                "queue;dur=0, read;dur=0.02, translate;dur=0.09, connect;dur=0.01, upstream;dur=58, proxy;dur=0.4"
            ],
        ),
        "x-proxy-attempts": _header("How often a model server was asked.", type="integer", minimum=1),
        "x-proxy-cache": _header("Whether the answer came from the cache.", enum=["hit", "miss", "bypass"]),
        "Retry-After": _header("Seconds, or a date.", type="string"),
        "WWW-Authenticate": _header("How to show who asks.", type="string"),
        "Allow": _header("The methods that the path takes.", type="string"),
        **{name: _limit_header(name) for name in _LIMITED},
    }


def _limit_header(name: str) -> Json:
    _, _, what, unit = name.split("-")
    if what == "reset":
        pattern = r"^([0-9]+h)?([0-9]+m)?[0-9]+(\.[0-9]+)?m?s$"
        return _header(f"How long until all {unit} are there again, as in 6m0s.", type="string", pattern=pattern)
    about = f"How many {unit} the limit allows." if what == "limit" else f"How many {unit} are left."
    return _header(about, type="integer", minimum=0)


def _header(about: str, **schema: Any) -> Json:
    return {"description": about, "schema": schema}
