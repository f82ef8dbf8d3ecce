"""All front doors, and the names of all their rules."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from proxy.fronts.front import Front

#: path -> what makes the front of one request to it
FRONTS: Final[Mapping[str, Callable[[], Front]]] = MappingProxyType({})

#: In the order of the README.
FRONT_RULES: Final[tuple[Callable[..., Any], ...]] = ()
