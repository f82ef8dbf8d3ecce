"""The headers that decide something: which are accepted, and what they mean. Text in, text out."""

import os
import re
from typing import Final

#: A request id that may be echoed and logged as it stands. Anything else is replaced, not cleaned.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")

# Seconds or an HTTP date (RFC 9110, 10.2.3): both are short printable ASCII.
_RETRY_AFTER: Final = re.compile(r"[ -~]{1,40}")


def request_id(offered: str | None) -> str:
    """Return the client's own id if it is a plain one, else a new id: `req_` and 16 hexadecimal digits."""
    if offered is not None and _REQUEST_ID.fullmatch(offered):
        return offered
    return "req_" + os.urandom(8).hex()


def retry_after(offered: str | None) -> str | None:
    """Return an upstream's Retry-After if it is fit to be passed on, or None."""
    return offered if offered is not None and _RETRY_AFTER.fullmatch(offered) else None


def media_type(content_type: str | None) -> str:
    """Return the type without its parameters, in lower case; "" when the header is missing."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_json(content_type: str | None) -> bool:
    """Whether the header declares JSON: application/json, or a type with the +json suffix (RFC 6839)."""
    kind = media_type(content_type)
    return kind == "application/json" or kind.endswith("+json")


def is_event_stream(content_type: str | None) -> bool:
    """Whether the header declares server-sent events."""
    return media_type(content_type) == "text/event-stream"


def is_identity(content_encoding: str | None) -> bool:
    """Whether the body travels as it is. Nothing is decompressed here, so that no body can grow on arrival."""
    return (content_encoding or "").strip().lower() in ("", "identity")
