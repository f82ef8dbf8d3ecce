"""One row of the table: what is claimed, and the check of it."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple

from tests.kit.rig import Rig


class Kind(StrEnum):
    """Whom a row is about. Only the first is asked of every gateway."""

    GATEWAY = "Any gateway"
    MISTRAL = "Mistral models behind vLLM"


class Row(NamedTuple):
    """
    `check` returns a remark when its docstring's first line holds, else it raises one of verdict.py's.

    `probe` is the letter that the probe had in earlier measurements by hand.
    """

    id: str
    check: Callable[[Rig], Awaitable[str]]
    probe: str = ""
    kind: Kind = Kind.GATEWAY
    #: Whether it says the same when it runs once more: not so what changes the gateway.
    repeats: bool = True

    @property
    def claim(self) -> str:
        return (self.check.__doc__ or "").strip().partition("\n")[0]
