"""
An upstream's error body, whatever its shape, as an error of the shape OpenAI's clients parse (R13, H10).

    {"error": {"message", "type", "param", "code"}}            vLLM 0.32, OpenAI, llama.cpp
    {"object": "error", "message": str | {"detail": [...]}}    older vLLM, api.mistral.ai
    {"detail": str | [{"loc", "msg"}]}                         FastAPI: unknown paths, validation
    {"message": str}                                           api.mistral.ai, 401
    anything else                                              HTML or text of something in between
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from proxy.errors import ProxyError, UpstreamProtocolError, UpstreamRejected

#: Arbitrary; the longest useful message seen has some 400 characters.
_LONGEST_MESSAGE: Final = 2048
_MOST_LINES: Final = 3

_KINDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }
)

# Agents shorten the conversation when they see this code. The texts are vLLM's, 0.8 to 0.32.
_CONTEXT_TEXTS: Final = ("maximum context length", "longer than the maximum model length", "Please reduce the length")

# A chat template's refusal of the request, which llama.cpp reports as its own failure (llama.cpp#19851).
_TEMPLATE_TEXTS: Final = ("Jinja Exception", "roles must alternate", "Tool call IDs should be alphanumeric")

#: What an operator can do about a refusal of the model server: a piece of its text, and the advice.
_HINTS: Final = (
    ("Unexpected role 'user' after role 'tool'", "the option bridge=always puts an assistant message between them"),
    ("roles must alternate", "the profile vllm-hf-template is made for this chat template"),
    ("Tool call id was", "the option id_mode=hash9 gives every id nine alphanumerics"),
    ("Tool call IDs should be", "the option id_mode=hash9 gives every id nine alphanumerics"),
    ("Extra inputs are not permitted", "the option tool_strict=strip and the profile for this server remove such keys"),
    ("Expected last role User or Tool", "the option trailing_assistant says what to do with a last assistant message"),
    ("Reasoning input is not enabled", "the option reasoning_history=drop leaves past reasoning out"),
    ("reasoning_effort", "the option reasoning_effort=delete or binary adapts it"),
    ("chat_template is not supported", "the option template_params=delete removes it"),
    ("--enable-auto-tool-choice", "start vLLM with --enable-auto-tool-choice --tool-call-parser mistral"),
    ("is not a multimodal model", "the option vision=false turns images into text"),
    ("Invalid tool schema", "the option schema_clean=draft7 adapts tool schemas"),
)

# pydantic appends what it was given, which is the user's content, and a link.
_PYDANTIC_NOISE: Final = re.compile(r"\s*\[type=\w+, input_value=.*|\s*For further information visit \S+")
_VLLM_DETAIL: Final = re.compile(
    r"\{'type': '\w+', 'loc': '(?P<loc>[^']*)', 'msg': (?P<q>['\"])(?P<msg>.*?)(?P=q), 'in"
)
_ERROR_COUNT: Final = re.compile(r"(?P<count>\d+) validation errors?")
_TITLE: Final = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_TAG: Final = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)


def translate_failure(status: int, body: bytes) -> UpstreamRejected:
    """Return the answer `body`, which came with the error status `status`, as an error for the client."""
    status = status if 400 <= status <= 599 else 502
    error = _error_object(_decoded(body))
    message = _readable(error.get("message"))
    if not message:
        text = _text_of_page(body) if not error else ""
        message = text or f"The model server answered with status {status}."
    if status >= 500 and any(text in message for text in _TEMPLATE_TEXTS):
        status = 400
    param = error.get("param")
    return UpstreamRejected(
        status,
        _bounded(_with_hint(message)),
        kind=_kind(status),
        param=_bounded(param) if isinstance(param, str) else None,
        code=_code(status, message, error.get("code")),
    )


def error_in_answer(payload: bytes) -> ProxyError:
    """Return what an answer of status 200 that is neither a chunk nor a completion says: an error, or nothing known."""
    body = _decoded(payload)
    error = _error_object(body)
    if not error:
        return UpstreamProtocolError(
            "The model server sent JSON that is neither an answer nor an error.", code="malformed_upstream_answer"
        )
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code <= 599 else 500
    return translate_failure(status, payload)


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _error_object(body: Any) -> dict[str, Any]:
    """Return the object that holds message, param and code; {} where there is none."""
    if not isinstance(body, dict):
        return {}
    error = body.get("error")
    if isinstance(error, dict):
        return error
    if isinstance(error, str):
        return {**body, "message": error}
    if "detail" in body:
        return {**body, "message": {"detail": body["detail"]}}
    return body if body.get("object") == "error" or "message" in body else {}


def _readable(message: Any) -> str:
    """Return a message as a few lines of text."""
    if isinstance(message, dict):
        message = message.get("detail", message.get("message"))
    if isinstance(message, list):
        return _few(list(map(_detail_line, message)), len(message))
    return _short_dump(message) if isinstance(message, str) else ""


def _detail_line(detail: Any) -> str:
    if not isinstance(detail, dict):
        return str(detail)[:200]
    loc = detail.get("loc")
    path = ".".join(map(str, loc)) if isinstance(loc, list) else str(loc or "")
    text = str(detail.get("msg", ""))
    return f"{path}: {text}" if path else text


def _short_dump(text: str) -> str:
    """Shorten a dump of validation errors, one for each form that a message could have had, to its first lines."""
    head = _ERROR_COUNT.match(text)
    if head is None:
        return text.strip()
    details = [f"{match['loc']}: {match['msg']}" for match in _VLLM_DETAIL.finditer(text)]
    if not details:
        lines = [_PYDANTIC_NOISE.sub("", line).strip() for line in text.splitlines()[1:]]
        details = [": ".join(pair) for pair in _pairs([line for line in lines if line])]
    return _few(details or [head.group()], int(head["count"]))


def _pairs(lines: list[str]) -> list[list[str]]:
    """pydantic writes two lines for each error: where, and what."""
    return [lines[at : at + 2] for at in range(0, len(lines), 2)]


def _few(lines: list[str], count: int) -> str:
    shown = lines[:_MOST_LINES]
    more = count - len(shown)
    return "\n".join([*shown, f"(and {more} more validation errors)"] if more > 0 else shown)


def _text_of_page(body: bytes) -> str:
    """Return the title or the first words of HTML, or text as it is."""
    text = body[: 8 * _LONGEST_MESSAGE].decode("utf-8", "replace")
    title = _TITLE.search(text)
    words = " ".join((title[1] if title else _TAG.sub(" ", text)).split())
    return "" if words.startswith(("{", "[")) else words[:300]


def _with_hint(message: str) -> str:
    hint = next((hint for text, hint in _HINTS if text in message), None)
    return f"{message[:_LONGEST_MESSAGE]} (devstral-proxy: {hint}.)" if hint else message


def _bounded(text: str) -> str:
    raw = text.encode("utf-8", "replace")
    if len(raw) <= _LONGEST_MESSAGE:
        return raw.decode()
    return raw[: _LONGEST_MESSAGE - 3].decode("utf-8", "ignore") + "…"


def _kind(status: int) -> str:
    return _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")


def _code(status: int, message: str, code: Any) -> str | int | None:
    """Return the code that agents act on, else the upstream's own: vLLM's is the status, Mistral's four digits."""
    if any(text in message for text in _CONTEXT_TEXTS):
        return "context_length_exceeded"
    if status == 429:
        return "rate_limit_exceeded"
    if isinstance(code, int) and not isinstance(code, bool):
        return status if 400 <= code <= 599 else code
    return code[:100] if isinstance(code, str) else None
