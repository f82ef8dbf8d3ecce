"""
API keys: how one is made, what is kept of it, and whether a client's is one of them. Pure.

    dsp_<id>_<secret>      what the client sends; shown once, when it is made
    salt, SHA-256(salt + secret)      what the file keeps

A secret is 256 random bits, so nobody tries them all, and a slow hash would only slow down who has the right one.
NIST SP 800-63B-3, 5.1.2.2, draws the line for secrets that are looked up at 112 bits: above it an approved one-way
function does, below it a key derivation function must.
"""

import hmac
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Final

import msgspec

#: What every key begins with, so that scanners of repositories and logs can find one.
PREFIX: Final = "dsp_"

_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_SALT_BYTES: Final = 16

Hex = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]+\Z")]
# What may stand in logs, metrics and a table on the screen as it is. `$` would let a newline in at the end.
_NAME: Final = r"\A[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z"
Name = Annotated[str, msgspec.Meta(pattern=_NAME)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is kept of one key; `salt` and `hash` are hexadecimal. Times have a zone."""

    id: Annotated[Hex, msgspec.Meta(min_length=2 * _ID_BYTES, max_length=2 * _ID_BYTES)]
    name: Name
    salt: Annotated[Hex, msgspec.Meta(min_length=2 * _SALT_BYTES, max_length=2 * _SALT_BYTES)]
    hash: Annotated[Hex, msgspec.Meta(min_length=64, max_length=64)]
    created: Annotated[datetime, msgspec.Meta(tz=True)]
    #: "" is the tier `default`
    tier: Annotated[str, msgspec.Meta(max_length=64)] = ""
    expires: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    def lacks_tier(self, tiers: Iterable[str]) -> bool:
        """Whether its tier is none of these, and not `default`, which is always there."""
        return self.tier not in ("", "default", *tiers)


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    keys: tuple[Entry, ...]


_decoder: Final = msgspec.json.Decoder(_File)
_encoder: Final = msgspec.json.Encoder()


def is_name(text: str) -> bool:
    """Whether a key may be called so: up to 64 letters, digits and `.`, `_`, `@`, `-`."""
    return re.search(_NAME, text) is not None


def is_id(text: str) -> bool:
    """Whether it looks like the id of a key, so that a key should not be called so."""
    return re.fullmatch(rf"[0-9a-f]{{{2 * _ID_BYTES}}}", text) is not None


def new_key(name: str, tier: str, created: datetime, expires: datetime | None) -> tuple[str, Entry]:
    """Return a key and what is kept of it. The key cannot be had again."""
    id_, secret, salt = os.urandom(_ID_BYTES).hex(), os.urandom(_SECRET_BYTES).hex(), os.urandom(_SALT_BYTES)
    entry = Entry(
        id=id_,
        name=name,
        salt=salt.hex(),
        hash=_hashed(salt, secret).hex(),
        created=created,
        tier=tier,
        expires=expires,
    )
    return f"{PREFIX}{id_}_{secret}", entry


def decode_entries(text: str) -> tuple[Entry, ...]:
    """
    Return what a file of keys keeps.

    Raises:
        ValueError: the text is not such a file. What it says does not quote the text.
    """
    try:
        entries = _decoder.decode(text).keys
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # What msgspec says may name fields, and those of a foreign file are none of the log's business.
        raise ValueError("not a file that `devstral-proxy keys` has written") from None
    for what, values in (("id", [entry.id for entry in entries]), ("name", [entry.name for entry in entries])):
        if len(set(values)) < len(values):
            raise ValueError(f"two keys have the same {what}")
    return entries


def encode_entries(entries: Iterable[Entry]) -> str:
    """Return the text of a file that keeps these."""
    return msgspec.json.format(_encoder.encode(_File(version=1, keys=tuple(entries))), indent=2).decode() + "\n"


def _hashed(salt: bytes, secret: str) -> bytes:
    return sha256(salt + secret.encode(errors="surrogateescape")).digest()


class KeyRing:
    """The keys of one file, ready to be compared with."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._locks: Mapping[str, _Lock] = {entry.id: _Lock(entry) for entry in entries}
        #: takes the place of a key that is not there, so that the same is computed for it; nothing hashes to its hash
        self._nobody = _Lock(None)

    def __len__(self) -> int:
        return len(self._locks)

    def find(self, token: str, now: float) -> Entry | None:
        """
        Return the entry that `token` is the key of; None if it is of none, or has expired.

        `now` is seconds since 1970. An id that nobody has takes the path of one that somebody has: one hash, one
        comparison in constant time. Ids are no secret: `keys list` shows them.
        """
        id_, _, secret = token[len(PREFIX) :].partition("_")
        lock = self._locks.get(id_, self._nobody)
        is_right = hmac.compare_digest(_hashed(lock.salt, secret), lock.hash)
        return lock.entry if is_right and now < lock.expires_at and token.startswith(PREFIX) else None


class _Lock:
    """An entry in the form in which it is compared; without one, what no key fits."""

    __slots__ = ("entry", "expires_at", "hash", "salt")

    def __init__(self, entry: Entry | None) -> None:
        self.entry = entry
        self.salt = bytes.fromhex(entry.salt) if entry else os.urandom(_SALT_BYTES)
        self.hash = bytes.fromhex(entry.hash) if entry else os.urandom(32)
        self.expires_at = entry.expires.timestamp() if entry and entry.expires else float("inf")
