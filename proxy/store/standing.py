"""
Whether a store can be asked: what keeps one that is away from costing every request its time-out.

    UP --a failure--> DOWN --PAUSE_S later, the next call--> TRYING --it worked--> UP
                        ^------------------ it failed -----------'

While it is down, and while one call tries, all others fail at once.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Final

#: Arbitrary: so often one request pays a time-out while the store is away.
PAUSE_S: Final = 1.0


class StoreDown(Exception):
    """The store cannot be asked now, or did not answer in time. Whether it did what was asked is not known."""


class Standing(IntEnum):
    """The states; the picture is at the top."""

    UP = 0
    DOWN = 1
    TRYING = 2


class Watch:
    """The state of one server. `tell(standing, error, down_s)` is called at every change between up and down."""

    def __init__(self, now: Callable[[], float], tell: Callable[[Standing, str, float], None]) -> None:
        self._now = now
        self._tell = tell
        self._since_s = 0.0
        self._try_at_s = 0.0
        self.standing = Standing.UP

    def may_call(self) -> bool:
        """Return whether to call now; when it is down and time, the caller is the one that tries."""
        if self.standing is Standing.UP:
            return True
        if self.standing is Standing.DOWN and self._now() >= self._try_at_s:
            self.standing = Standing.TRYING
            return True
        return False

    def worked(self) -> None:
        """A call was answered. One that was sent before the failure proves nothing."""
        if self.standing is Standing.TRYING:
            self.standing = Standing.UP
            self._tell(Standing.UP, "", self._now() - self._since_s)

    def failed(self, error: str) -> None:
        """A call was not answered, or with an error of the server itself; `error` is a name and holds no content."""
        now_s = self._now()
        was_up = self.standing is Standing.UP
        self.standing = Standing.DOWN
        self._try_at_s = now_s + PAUSE_S
        if was_up:
            self._since_s = now_s
            self._tell(Standing.DOWN, error, 0.0)
