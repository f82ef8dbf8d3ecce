"""
Cached answers, by the digest of what was asked: in this process, or in the store that instances share.

Both are an `Entries`. They lose an entry when its time is over, and may lose it earlier: what is not there is asked
for again. With a shared store nothing is kept in the process as well, so that its time of life is counted in one place.
"""

import asyncio
from collections import OrderedDict
from typing import Final, Protocol

import msgspec
from msgspec import Raw

from proxy.store.standing import StoreDown

#: What an entry in memory takes beside its key, its body and its words, reckoned high: measured were 560 bytes.
_OVERHEAD: Final = 1024


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """
    A translated whole answer: the client's JSON, the rules that made it, and the finish reason of each choice.

    `stored_at` is in seconds of Unix time, so that another process can tell its age.
    """

    body: bytes
    rules: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    stored_at: float


class Entries(Protocol):
    """Where entries are."""

    async def get(self, key: bytes) -> Entry | None:
        """Return the entry of `key`, None if there is none."""

    def put(self, key: bytes, entry: Entry, ttl_s: float) -> None:
        """Keep `entry` for at most `ttl_s` seconds, if there is room."""


# --- in this process


class _Held(msgspec.Struct, frozen=True, gc=False):
    entry: Entry
    size: int
    expires_at: float


class MemoryEntries:
    """
    At most `max_bytes` of entries, keys and overhead included; the one that was not asked for the longest goes first.

    An entry whose time is over is dropped then, and not only when somebody asks for it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._loop = asyncio.get_running_loop()
        #: the least recently used first
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        #: the same keys, in the order in which they were stored: with one time of life, that in which they end
        self._by_age: dict[bytes, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    async def get(self, key: bytes) -> Entry | None:
        """See `Entries`."""
        held = self._held.get(key)
        if held is None:
            return None
        if held.expires_at <= self._loop.time():
            self._drop(key)
            return None
        self._held.move_to_end(key)
        return held.entry

    def put(self, key: bytes, entry: Entry, ttl_s: float) -> None:
        """See `Entries`."""
        self._drop(key)
        words = sum(map(len, entry.rules)) + sum(map(len, entry.finish_reasons))
        size = _OVERHEAD + len(key) + len(entry.body) + words
        if size > self._max_bytes:
            return
        self._make_room(size)
        self._held[key] = _Held(entry, size, self._loop.time() + ttl_s)
        self._by_age[key] = None
        self.held_bytes += size
        self._wait()

    def resize(self, max_bytes: int) -> None:
        """Hold no more than this from now on."""
        self._max_bytes = max_bytes
        self._make_room(0)

    def close(self) -> None:
        """Drop everything."""
        self._held.clear()
        self._by_age.clear()
        self.held_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self, size: int) -> None:
        while self.held_bytes + size > self._max_bytes:
            self._drop(next(iter(self._held)))

    def _drop(self, key: bytes) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            del self._by_age[key]
            self.held_bytes -= held.size

    def _wait(self) -> None:
        """Look again when the oldest entry ends."""
        if self._timer is None and self._by_age:
            oldest = self._held[next(iter(self._by_age))]
            self._timer = self._loop.call_at(oldest.expires_at, self._drop_old)

    def _drop_old(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._by_age and self._held[key := next(iter(self._by_age))].expires_at <= now:
            self._drop(key)
        self._wait()


# --- in the shared store


class Link(Protocol):
    """The way to the store; `ValkeyLink` is one."""

    async def get(self, key: bytes) -> bytes | None:
        """
        Return the value of `key`, None if there is none.

        Raises:
            StoreDown: it cannot be asked.
        """

    def put(self, key: bytes, value: bytes, ttl_s: float) -> None:
        """Keep a value for so long, soon; nobody waits for that, and it may be lost."""


#: In front of every key, so that the store may be shared with others too.
PREFIX: Final = b"devstral-proxy:answer:"


class SharedEntries:
    """Entries in the store. While it does not answer nothing is found and nothing is kept."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def get(self, key: bytes) -> Entry | None:
        """See `Entries`. What is no entry is none."""
        try:
            data = await self._link.get(_name_of(key))
        except StoreDown:
            return None
        return None if data is None else decode_entry(data)

    def put(self, key: bytes, entry: Entry, ttl_s: float) -> None:
        """See `Entries`."""
        self._link.put(_name_of(key), encode_entry(entry), ttl_s)


def _name_of(key: bytes) -> bytes:
    return PREFIX + key.hex().encode()


class _Message(msgspec.Struct, gc=False):
    tool_calls: list[dict[str, Raw]] | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    index: int = 0


class _Answer(msgspec.Struct, gc=False):
    """As much of an answer's form as is relied on where one is read."""

    choices: list[_Choice]
    usage: dict[str, Raw] | None = None


encode_entry: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Entry).decode
_check_answer: Final = msgspec.json.Decoder(_Answer).decode


def decode_entry(data: bytes) -> Entry | None:
    """Return the entry that `data` is, None if it is none: anything may stand in a store."""
    try:
        entry = _decode(data)
        _check_answer(entry.body)
        entry.body.decode()  # msgspec does not look at the bytes of a string that nothing reads
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return entry
