"""
Errors in the shape of Anthropic's API: {"type": "error", "error": {"type", "message"}, "request_id"}.

Statuses stay those of the proxy, and types are made to fit them (Anthropic's API reference, Errors; anthropic 2.14.0,
types/shared). An error inside a stream has no status any more: its code and kind tell.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from proxy.errors import ProxyError
from proxy.wire.chat import encode

_INVALID: Final = "invalid_request_error"
_API: Final = "api_error"

_BY_STATUS: Final[Mapping[int, str]] = MappingProxyType(
    {
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        504: "timeout_error",
        529: "overloaded_error",
    }
)

#: For errors inside a stream: the codes of proxy/errors.py that say more than their kind does.
_BY_CODE: Final[Mapping[Any, str]] = MappingProxyType(
    {
        "upstream_timeout": "timeout_error",
        "overloaded": "overloaded_error",
        "shutting_down": "overloaded_error",
        "undecided": "overloaded_error",
        "rate_limit_exceeded": "rate_limit_error",
    }
)
_BY_KIND: Final[Mapping[Any, str]] = MappingProxyType(
    {
        kind: kind
        for kind in (_INVALID, "authentication_error", "permission_error", "not_found_error", "rate_limit_error")
    }
)

# Claude Code 2.1.197 makes a conversation shorter, or asks for fewer tokens, when it reads the words that Anthropic's
# API has for it; vLLM 0.19 and later have these.
_LIMIT: Final = re.compile(r"maximum context length is (\d+) tokens")
_PROMPT: Final = re.compile(r"prompt contains (?:at least )?(\d+) input tokens")
_WANTED: Final = re.compile(r"requested (\d+) output tokens")


def error_object(error: ProxyError, request_id: str) -> bytes:
    """Return the body of an error that has a status of its own."""
    fallback = _API if error.status >= 500 else _INVALID
    return _object(_BY_STATUS.get(error.status, fallback), _worded(error.message, error.code), request_id)


def error_event(error: Mapping[str, Any], request_id: str) -> bytes:
    """Return the event that ends a stream, for the `error` of a chat's error event."""
    code = error.get("code")
    kind = _BY_CODE.get(code) if isinstance(code, str) else None
    if kind is None:
        kind = _BY_KIND.get(error.get("type"), _API) if isinstance(error.get("type"), str) else _API
    message = error.get("message")
    text = message if isinstance(message, str) and message else "The answer broke off."
    return b"event: error\ndata: " + _object(kind, _worded(text, code), request_id) + b"\n\n"


def _object(kind: str, message: str, request_id: str) -> bytes:
    return encode({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id or None})


def _worded(message: str, code: Any) -> str:
    """Return the message of an error; one of too long a prompt begins with Anthropic's words for it."""
    if code != "context_length_exceeded":
        return message
    limit, prompt, wanted = (_number(pattern, message) for pattern in (_LIMIT, _PROMPT, _WANTED))
    if limit and prompt and wanted and prompt < limit:
        return f"input length and `max_tokens` exceed context limit: {prompt} + {wanted} > {limit}. {message}"
    figures = f": {prompt} tokens > {limit} maximum" if limit and prompt and prompt > limit else ""
    return f"prompt is too long{figures}. {message}"


def _number(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(found[1][:18]) if found else 0
