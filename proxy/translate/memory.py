"""What is remembered between requests: results of pure functions, by the very bytes they were made from."""

from typing import Generic, TypeVar

V = TypeVar("V")


class Memory(Generic[V]):
    """
    Values by bytes, in bounded space. No result depends on what is in here, only its cost does.

    Two generations: when the young one is full it becomes the old one, and the old one is forgotten; what is asked
    for again moves to the young one. So a hit costs one look-up in a dict (an `OrderedDict` would be written to at
    every hit), and what is in use stays.
    """

    def __init__(self, *, max_bytes: int, max_count: int, max_key_bytes: int) -> None:
        """Keep values for at most `max_bytes` of keys and `max_count` of them, none longer than `max_key_bytes`."""
        self.max_key_bytes = max_key_bytes
        self._generation_bytes = max_bytes // 2
        self._generation_count = max_count // 2
        self._young: dict[bytes, V] = {}
        self._old: dict[bytes, V] = {}
        self._young_bytes = 0

    def get(self, key: bytes) -> V | None:
        """Return what is remembered for `key`, None if nothing is."""
        value = self._young.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.put(key, value)
        return value

    def put(self, key: bytes, value: V) -> None:
        """Remember `value` for `key`, unless the key is too long."""
        if len(key) > self.max_key_bytes:
            return
        if self._young_bytes + len(key) > self._generation_bytes or len(self._young) >= self._generation_count:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[key] = value
        self._young_bytes += len(key)
