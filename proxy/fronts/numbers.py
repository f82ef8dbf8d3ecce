"""Numbers as both fronts write them."""

from typing import Any, Final

#: The largest number that can be written again.
LARGEST: Final = 2**63 - 1


def counter(value: Any) -> int:
    """Return a model server's count of tokens; 0 is unknown, and so is what is no count."""
    return value if type(value) is int and 0 < value <= LARGEST else 0
