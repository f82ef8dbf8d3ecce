"""Who asks."""

from typing import Final

import msgspec

from proxy.config import Tier


class Principal(msgspec.Struct, frozen=True):
    """Whoever a key, a token or a certificate belongs to. `name` is what logs and limits call it; "" is anyone."""

    name: str
    tier_name: str
    tier: Tier


#: Who a request comes from before anybody has looked.
ANYONE: Final = Principal("", "default", Tier())
