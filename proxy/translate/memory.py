"""What is remembered between requests: results of pure functions, by the very bytes they were made from."""

from collections.abc import Callable
from typing import Final, Generic, TypeVar

V = TypeVar("V")

#: What an entry takes beside its bytes, reckoned high: its place in the dict, the key's object, the value's fields.
_OVERHEAD: Final = 512


class Memory(Generic[V]):
    """
    Values by bytes, in bounded space. No result depends on what is in here, only its cost does.

    Two generations: when the young one is full it becomes the old one, and the old one is forgotten; what is asked
    for again moves to the young one. So a hit costs one look-up in a dict (an `OrderedDict` would be written to at
    every hit), and what is in use stays.
    """

    def __init__(self, size_of: Callable[[V], int], *, max_bytes: int, max_key_bytes: int) -> None:
        """
        Keep keys and values of at most `max_bytes` together; no key is longer than `max_key_bytes`.

        `size_of` returns how many bytes a value keeps alive beside its key.
        """
        self._size_of = size_of
        self._max_key_bytes = max_key_bytes
        self._generation_bytes = max_bytes // 2
        self._young: dict[bytes, V] = {}
        self._old: dict[bytes, V] = {}
        self._young_bytes = self._old_bytes = 0

    @property
    def held_bytes(self) -> int:
        """What all that is remembered takes, at most."""
        return self._young_bytes + self._old_bytes

    def get(self, key: bytes) -> V | None:
        """Return what is remembered for `key`, None if nothing is."""
        value = self._young.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.put(key, value)
        return value

    def put(self, key: bytes, value: V) -> None:
        """Remember `value` for `key`, which is not remembered yet, unless they are too long."""
        if len(key) > self._max_key_bytes:
            return
        size = _OVERHEAD + len(key) + self._size_of(value)
        if size > self._generation_bytes:
            return
        if self._young_bytes + size > self._generation_bytes:
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        self._young[key] = value
        self._young_bytes += size
