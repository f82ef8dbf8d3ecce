"""Is the process alive, and is there a model server to work with?"""

import asyncio
import math
import time
from typing import Final

from proxy.upstream.client import Upstream

#: How long an answer is believed. Probes of several kubelets and balancers then cost one request every two seconds.
_BELIEVED_S: Final = 2.0


class Readiness:
    """Whether the model server could be reached lately. One probe at a time, and none while an answer is fresh."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._lock = asyncio.Lock()
        self._asked_at = -math.inf
        self._is_reachable = False

    async def check(self) -> bool:
        """Return the answer, at most two seconds old; asking takes at most two more."""
        async with self._lock:
            if time.monotonic() - self._asked_at >= _BELIEVED_S:
                self._is_reachable = await self._upstream.is_reachable()
                self._asked_at = time.monotonic()
        return self._is_reachable
