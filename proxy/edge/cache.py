"""
The cache of answers: exact, and only for those who want it.

    Cache.visit() -> enter() --+-- kept, or got by whoever asks the same now --> answer()
                               +-- asked by this request ----------------------> keep(), if it came to its own end
                     leave() in any case

What is asked is the digest of all that shapes an answer: who asks, the profile, the translated body, and what its
answer is expected to be. Whether it is streamed, and whether a stream shows its usage, is left out: one entry serves
all. An answer is kept as a client gets it whole, and played where a client streams (translate/answer_replay.py).

    policy      is answered from the cache
    off         nothing, and no header is read or sent
    ask         what says `x-proxy-cache: use`
    on          that, and what goes to the model server with `temperature` 0

`x-proxy-cache: bypass` and `Cache-Control: no-store` keep a request away from the cache, `Cache-Control: no-cache` has
it asked anew and kept (RFC 9111, 5.2.1). With the profile `passthrough`, whose answers are not read, nothing is kept.
"""

import asyncio
import hashlib
import time
from concurrent.futures import Executor
from enum import Enum, auto
from functools import partial
from typing import Final

import msgspec
from aiohttp import web
from multidict import MultiMapping, istr

from proxy import __version__
from proxy.config import Config
from proxy.edge.call import Call
from proxy.edge.single_flight import Flights, Seat
from proxy.errors import InvalidRequest
from proxy.store.entries import Entries, Entry, Link, MemoryEntries, SharedEntries
from proxy.translate.answer_facts import is_passthrough
from proxy.translate.answer_gathered import GatheredAnswer, is_keepable
from proxy.translate.answer_replay import played
from proxy.translate.completion import CompletionAnswer
from proxy.translate.request import UpstreamRequest
from proxy.upstream.attempts import Errand
from proxy.upstream.pool import Pool
from proxy.wire.body import decode_body
from proxy.wire.chat import decode

HEADER: Final = "x-proxy-cache"
_HEADER: Final = istr(HEADER)
_CACHE_CONTROL: Final = istr("Cache-Control")

#: A release may translate otherwise: it does not read what another one has kept.
_VERSION: Final = f"devstral-proxy {__version__} 1"
#: Arbitrary: far above any answer; each stream that may be kept holds so much at most.
LONGEST_KEPT: Final = 1024 * 1024
#: Hashing so much takes some milliseconds where there is much other work: longer than an event may wait for.
_LARGE_BODY: Final = 256 * 1024


class Way(Enum):
    """What a request wants of the cache."""

    BYPASS = auto()
    USE = auto()
    REFRESH = auto()  #: an answer of its own, which may be kept


# --- what is asked


_encode: Final = msgspec.json.Encoder(order="deterministic").encode
#: They say how an answer travels.
_NOT_ASKED: Final = ("stream", "stream_options")


def digest_of(principal: str | None, profile: str, request: UpstreamRequest) -> bytes:
    """Return 32 bytes for all that shapes an answer; `principal` is None where answers are everybody's."""
    members = decode_body(request.body)
    for name in _NOT_ASKED:
        members.pop(name, None)
    expectation = msgspec.structs.replace(request.expectation, stream=False, usage_wanted=False)
    # A name may hold half a character, which JSON cannot.
    who = None if principal is None else principal.encode("utf-8", "surrogatepass")
    # One JSON text, of which no part can pass for another.
    return hashlib.sha256(_encode([_VERSION, who, profile, expectation, members])).digest()


def way_of(policy: str, headers: MultiMapping[str], request: UpstreamRequest) -> Way:
    """
    Return what a request wants, under a policy that is not `off`.

    Raises:
        InvalidRequest: its header is neither `use` nor `bypass`.
    """
    asked = _words(headers, _HEADER)
    if not asked <= {"use", "bypass"}:
        raise InvalidRequest(f"The header {HEADER} must be `use` or `bypass`.", param=HEADER)
    control = _words(headers, _CACHE_CONTROL)
    if "bypass" in asked or "no-store" in control or is_passthrough(request.expectation.options):
        return Way.BYPASS
    if "use" not in asked and not (policy == "on" and _is_greedy(request)):
        return Way.BYPASS
    return Way.REFRESH if "no-cache" in control else Way.USE


def _words(headers: MultiMapping[str], name: istr) -> set[str]:
    """Return the words of a header that is a list, and may stand on several lines (RFC 9110, 5.3)."""
    words = (word.strip().lower() for line in headers.getall(name, ()) for word in line.split(","))
    return {word for word in words if word}


def _is_greedy(request: UpstreamRequest) -> bool:
    """Whether the model is to take the likeliest token each time."""
    raw = decode_body(request.body).get("temperature")
    temperature = None if raw is None else decode(raw)
    return type(temperature) in (int, float) and temperature == 0


# --- the cache


class Cache:
    """The cache of one worker. `is_on` says whether any request may use it; `close()` at the end."""

    def __init__(self, config: Config, pool: Pool, hasher: Executor, link: Link | None = None) -> None:
        """`hasher` hashes large bodies; `link` leads to the store that instances share, if there is one."""
        self.pool = pool
        self.hasher = hasher
        self.flights: Flights[Entry] = Flights()
        self._memory = MemoryEntries(config.cache_max_bytes)
        self.apply(config, link)

    def apply(self, config: Config, link: Link | None = None) -> None:
        """Do as `config` says from now on. What has no place any more is dropped."""
        self._policy = config.cache
        self._policies = {name: model.cache for name, model in config.models.items() if model.cache is not None}
        self.is_on = any(policy != "off" for policy in (self._policy, *self._policies.values()))
        self.is_shared = config.cache_shared
        # Principals of `api_keys` are called by their place there: in another list it is another's place.
        self.names = hashlib.sha256(config.api_keys.encode()).hexdigest()
        self.ttl_s = config.cache_ttl_s
        self.longest = min(LONGEST_KEPT, config.cache_max_bytes)
        if not self.is_on or link is not None:
            self._memory.close()
        self._memory.resize(config.cache_max_bytes)
        self.entries: Entries = self._memory if link is None else SharedEntries(link)

    @property
    def size(self) -> tuple[int, int]:
        """How many answers are in memory, and their bytes."""
        return len(self._memory), self._memory.held_bytes

    def close(self) -> None:
        """Drop what is in memory."""
        self._memory.close()

    def visit(self, call: Call, errand: Errand, request: UpstreamRequest) -> "Visit | None":
        """
        Return a request's way through the cache; None if it does not go there.

        Raises:
            InvalidRequest: see `way_of`; nothing is asked then.
        """
        policy = self._policies.get(request.model, self._policy)
        if policy == "off":
            return None
        try:
            way = way_of(policy, call.request.headers, request)
        except InvalidRequest:
            self.pool.dropped(errand.first)
            raise
        _note(call, "bypass" if way is Way.BYPASS else "miss")
        return None if way is Way.BYPASS else Visit(self, call, request, way)


def _note(call: Call, result: str) -> None:
    call.record.cache = call.more_headers[HEADER] = result


class Visit:
    """One request's way; see the module."""

    __slots__ = ("_cache", "_call", "_key", "_request", "_seat", "_way", "entry")

    def __init__(self, cache: Cache, call: Call, request: UpstreamRequest, way: Way) -> None:
        self._cache = cache
        self._call = call
        self._request = request
        self._way = way
        self._seat: Seat[Entry] | None = None
        #: the answer, if there is one already
        self.entry: Entry | None = None

    async def enter(self, errand: Errand) -> Errand:
        """
        Find the answer, or wait for it where another request asks the same; then `entry` has it.

        Where it has none, what is returned is to be sent: it has a replica of its own. A wait ends after half the time
        that the request has for its first byte, and the rest of that time is left for it to ask by itself.

        Raises:
            UpstreamUnavailable, ModelNotFound: after a wait, there is no replica any more.
        """
        try:
            self._key = await self._digest(self._request)
            if self._way is Way.REFRESH:
                return errand
            self._seat = self._cache.flights.seat(self._key)
            leads = self._seat.take()
            entry = await self._cache.entries.get(self._key) if leads else None
        except BaseException:
            self._cache.pool.dropped(errand.first)
            raise
        if leads and entry is None:
            return errand
        self._cache.pool.dropped(errand.first)  # nobody knows how long the wait will be
        if entry is not None:
            self._seat.land(entry)
        else:
            loop = asyncio.get_running_loop()
            began_at = loop.time()
            entry = await self._seat.wait(_patience_s(errand, began_at))
            if entry is None:
                return self._again(errand, loop.time() - began_at)
        self._found(entry)
        return errand

    async def answer(self) -> web.StreamResponse:
        """Send `entry`, in the form that was asked for."""
        call, entry, expectation = self._call, self.entry, self._request.expectation
        assert entry is not None
        if not self._request.stream:
            return await call.send(entry.body)
        answer = CompletionAnswer(entry.body, entry.rules, None, entry.finish_reasons)
        await call.write(played(answer, expectation))
        return await call.end()

    def gathering(self) -> GatheredAnswer:
        """Return what is to be given all events of a streamed answer; `keep()` what it makes of them."""
        return GatheredAnswer(self._cache.longest)

    def keep(self, answer: CompletionAnswer | None, request: UpstreamRequest) -> None:
        """
        Keep the answer to `request`, unless it is one that is not kept, and give it to all who wait for it.

        If it is not kept, the next answer would not be either: all who wait ask now, and not one after the other.

        A replica that was asked later may have another profile: then nobody here waits for what it was asked.
        """
        if answer is None or len(answer.body) > self._cache.longest or not is_keepable(answer):
            if self._seat is not None:
                self._seat.scatter()
            return
        key = self._key if request is self._request else self._digest_now(request)
        entry = Entry(answer.body, answer.rules_applied, answer.finish_reasons, time.time())
        self._cache.entries.put(key, entry, self._cache.ttl_s)
        if self._seat is not None and key == self._key:
            self._seat.land(entry)

    def leave(self) -> None:
        """The request is over: if it kept nothing for those who wait, the next one asks."""
        if self._seat is not None:
            self._seat.leave()

    def _found(self, entry: Entry) -> None:
        record = self._call.record
        self.entry = entry
        _note(self._call, "hit")
        self._call.more_headers["age"] = str(max(0, int(time.time() - entry.stored_at)))
        # No tokens: nothing was generated.
        record.rules = tuple(dict.fromkeys(record.rules + entry.rules))
        record.finish_reason = ",".join(entry.finish_reasons)

    def _again(self, errand: Errand, waited_s: float) -> Errand:
        """Return the errand with a replica of its own, and with the time that is left."""
        limits = msgspec.structs.replace(errand.limits, first_byte_s=errand.limits.first_byte_s - waited_s)
        first = self._cache.pool.choose(errand.ask, errand.model)
        return msgspec.structs.replace(errand, first=first, limits=limits)

    async def _digest(self, request: UpstreamRequest) -> bytes:
        if len(request.body) < _LARGE_BODY:
            return self._digest_now(request)
        work = partial(self._digest_now, request)
        return await asyncio.get_running_loop().run_in_executor(self._cache.hasher, work)

    def _digest_now(self, request: UpstreamRequest) -> bytes:
        cache = self._cache
        principal = None if cache.is_shared else f"{cache.names} {self._call.principal.name}"
        return digest_of(principal, self._call.record.profile or "", request)


def _patience_s(errand: Errand, now: float) -> float:
    """Return how long a request may wait for another one: half of what it has."""
    limits = errand.limits
    return max(0.0, min(limits.first_byte_s, limits.total_s - (now - errand.started_at)) / 2)
