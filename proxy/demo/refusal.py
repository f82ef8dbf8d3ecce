"""
A refused request, in the words of the software that would refuse it.

Three dialects, because vLLM passes on what its parts say:
  vLLM's own checks        `MESSAGE (parameter=NAME, value=VALUE)`                  type BadRequestError
  pydantic, on the body    `1 validation error:\\n  {'type': …, 'loc': …, …}`        type Bad Request
  pydantic, further inside `1 validation error for MODEL\\nLOC\\n  MESSAGE [type=…]` type BadRequestError

Where vLLM lists every member of a union (up to 22 lines for one wrong content), the demo gives the one line that
belongs to the message's role.
"""

from typing import Any

#: the pydantic release whose documentation the texts point to
PYDANTIC = "2.14"

_NOTHING = object()


class Refusal(Exception):
    """A request that is not answered: HTTP `status`, error `kind`, `message`, and the `param` it is about, if any."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, kind: str = "BadRequestError"):
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.kind = kind

    def body(self) -> dict[str, Any]:
        """Return vLLM's error object; its `code` is the integer status (vLLM 0.32)."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}


def parameter_refused(message: str, parameter: str, value: Any = _NOTHING) -> Refusal:
    """Return a refusal by vLLM's own checks, which name the parameter and, for some, its value."""
    about = f"parameter={parameter}" if value is _NOTHING else f"parameter={parameter}, value={value}"
    return Refusal(f"{message} ({about})", param=parameter)


def field_refused(kind: str, location: str, message: str, value: Any) -> Refusal:
    """Return a refusal by pydantic while vLLM reads the body; `location` is dotted, as in `tools.0.type`."""
    place = f"body.{location}" if location else "body"
    error: dict[str, Any] = {"type": kind, "loc": place, "msg": message, "input": _summary(value)}
    if kind == "literal_error":
        error["ctx"] = {"expected": message.removeprefix("Input should be ")}
    return Refusal(f"1 validation error:\n  {error}", param=place, kind="Bad Request")


def model_refused(model: str, location: str, message: str, kind: str, value: Any) -> Refusal:
    """Return a refusal by one of the pydantic models inside (mistral-common's, or the ones of a content list)."""
    return Refusal(
        f"1 validation error for {model}\n{location}\n"
        f"  {message} [type={kind}, input_value={_shortened(value)}, input_type={type(value).__name__}]\n"
        f"    For further information visit https://errors.pydantic.dev/{PYDANTIC}/v/{kind}"
    )


def extra_key_refused(model: str, location: str, value: Any) -> Refusal:
    """Return mistral-common's refusal of a key that its models do not have (up to 1.11.0)."""
    return model_refused(model, location, "Extra inputs are not permitted", "extra_forbidden", value)


def _summary(value: Any) -> str:
    """Return `value` as vLLM shows it in a body error: containers by their size."""
    if isinstance(value, dict | list):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)


def _shortened(value: Any) -> str:
    """Return `value` as pydantic shows it: 50 characters at most, the middle left out."""
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:25]}...{text[-24:]}"
