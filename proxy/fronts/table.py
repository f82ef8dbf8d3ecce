"""All front doors, and the names of all their rules."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from proxy.fronts.front import Front
from proxy.fronts.messages import COUNT_PATH, MESSAGES_PATH, CountFront, MessagesFront
from proxy.fronts.messages_request import MESSAGES_RULES
from proxy.fronts.responses import Responses
from proxy.fronts.responses_rules import RESPONSES_RULES

#: path -> what makes the front of one request to it, of its id
FRONTS: Final[Mapping[str, Callable[[str], Front]]] = MappingProxyType(
    {"/v1/responses": Responses, MESSAGES_PATH: MessagesFront, COUNT_PATH: CountFront}
)

#: In the order of the README.
FRONT_RULES: Final[tuple[Callable[..., Any], ...]] = (*RESPONSES_RULES, *MESSAGES_RULES)
