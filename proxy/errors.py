"""
What can go wrong, by who is at fault.

    ProxyError
      ClientError 400             unchanged, it will fail again
        InvalidRequest 400        names the JSON path
        MalformedHttp 400 · Unauthorized 401 · Forbidden 403 · NotFound 404 · MethodNotAllowed 405
        RequestTimeout 408 · PayloadTooLarge 413 · UnsupportedMediaType 415 · RateLimited 429 · HeadersTooLarge 431
      UpstreamError 502           the model server is at fault
        UpstreamUnavailable 502   nothing was sent
        UpstreamTimeout 504       names the timer
        UpstreamRejected          its own status, its body translated
        UpstreamProtocolError 502 bytes came, not in the agreed form
          UpstreamDisconnected    or too few of them
      Overloaded 503              refused before anything was read or sent; Retry-After
      ShuttingDown 503            this process is going away
      NotDecided 503              who asks, or how much he may, cannot be found out now

Every failure leaves the process through `error_body`, so that a client parses one shape:
{"error": {"message", "type", "param", "code"}}, OpenAI's (openai-python, `_exceptions.py`).
Messages name paths, limits and hosts; they never quote content or credentials.
"""

import msgspec

_encoder = msgspec.json.Encoder()


class ProxyError(Exception):
    """A failure that a client may see. `status` is the HTTP status, `kind` the OpenAI error type."""

    status = 500
    kind = "server_error"
    code: str | int | None = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        #: response headers that belong to this failure (Allow, Retry-After)
        self.headers: dict[str, str] = {}


class ClientError(ProxyError):
    """The client is at fault: the same request will fail again."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_request"


class InvalidRequest(ClientError):
    """The body is not one that can be translated; `param` is the JSON path, as in `messages[3].role`."""


class MalformedHttp(ClientError):
    """The bytes are not an HTTP/1.1 request; the connection ends with this answer."""

    code = "malformed_http"


class Unauthorized(ClientError):
    """There is no credential that is accepted; vLLM's and OpenAI's status for it."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers["WWW-Authenticate"] = "Bearer"


class Forbidden(ClientError):
    """Who asks is known, and may not."""

    status = 403
    kind = "permission_error"
    code = "forbidden"


class NotFound(ClientError):
    """No such route: the allow-list of (method, path) ends here."""

    status = 404
    kind = "not_found_error"
    code = "not_found"


class ModelNotFound(ClientError):
    """No upstream is there for the model; OpenAI's own code."""

    status = 404
    code = "model_not_found"


class MethodNotAllowed(ClientError):
    """The path exists, the method does not; `headers` carries Allow."""

    status = 405
    code = "method_not_allowed"


class RequestTimeout(ClientError):
    """The client did not finish its body within the limit that the message names."""

    status = 408
    code = "request_timeout"


class PayloadTooLarge(ClientError):
    """The body is over the limit that the message names."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(ClientError):
    """The body is declared to be something other than JSON."""

    status = 415
    code = "unsupported_media_type"


class RateLimited(ClientError):
    """
    A limit of who asks, or of the model, is reached; `headers` carries Retry-After.

    `kind` is OpenAI's word for the limit: `requests`, `tokens` or `insufficient_quota`.
    """

    status = 429
    code = "rate_limit_exceeded"


class HeadersTooLarge(ClientError):
    """The request line or a header is over the server's limit; the connection ends with this answer."""

    status = 431
    code = "headers_too_large"


class UpstreamError(ProxyError):
    """The model server is at fault."""

    status = 502
    code: str | int | None = "upstream_error"


class UpstreamUnavailable(UpstreamError):
    """No connection, or it broke before anything was sent: the request did not run."""

    code = "upstream_unavailable"


class UpstreamTimeout(UpstreamError):
    """A timer fired; the message names it and its length."""

    status = 504
    code = "upstream_timeout"


class UpstreamProtocolError(UpstreamError):
    """Bytes came, but not in the agreed form: a cut stream, malformed JSON, an event over the cap."""

    code = "upstream_disconnected"


class UpstreamDisconnected(UpstreamProtocolError):
    """The connection or the stream ended before the answer did."""


class UpstreamRejected(UpstreamError):
    """The model server answered with an error: its own status, its error translated to OpenAI's shape."""

    def __init__(
        self, status: int, message: str, *, kind: str, param: str | None = None, code: str | int | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.status = status
        self.kind = kind
        self.code = code


class Overloaded(ProxyError):
    """There are too many requests already; `headers` carries Retry-After."""

    status = 503
    code = "overloaded"


class ShuttingDown(ProxyError):
    """The process was told to end and the time for running requests is over."""

    status = 503
    code = "shutting_down"


class NotDecided(ProxyError):
    """Whether the request is allowed depends on a server that does not answer; `headers` carries Retry-After."""

    status = 503
    code = "undecided"


def error_body(error: ProxyError) -> bytes:
    """Return `error` as the JSON object that OpenAI's clients parse."""
    return _encoder.encode(
        {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}
    )


def error_event(error: ProxyError) -> bytes:
    """Return `error` as one SSE event, for an answer whose status line is already out."""
    return b"data: " + error_body(error) + b"\n\n"
