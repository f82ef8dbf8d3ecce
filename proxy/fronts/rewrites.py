"""What a front's own rules did to a request: their names for the log and the client, or a refusal in strict mode."""

from collections.abc import Callable
from typing import Any

from proxy.errors import InvalidRequest


class Rewrites:
    """
    The rules of one request that changed something. With `strict` the first that does refuses the request.

    A front's rules are those that lose or add something. That one API's words are said in another's is no rule.
    """

    __slots__ = ("_is_strict", "_names")

    def __init__(self, *, strict: bool) -> None:
        self._is_strict = strict
        self._names: dict[str, None] = {}

    def ran(self, rule: Callable[..., Any], path: str | None) -> None:
        """
        Note that `rule` changed what stands at `path` of the client's body; None is that it changed nothing.

        Raises:
            InvalidRequest: it did, in strict mode.
        """
        if path is None:
            return
        if self._is_strict:
            raise InvalidRequest(f"Refused in strict mode by {rule.__name__}: {reason_of(rule)}", param=path)
        self._names[rule.__name__] = None

    @property
    def names(self) -> tuple[str, ...]:
        """The rules that changed something, in order, each once."""
        return tuple(self._names)


def reason_of(rule: Callable[..., Any]) -> str:
    """Return the first line of a rule's docstring: what it changes, and why."""
    return (rule.__doc__ or "").strip().partition("\n")[0]
