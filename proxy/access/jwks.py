"""
The keys of an issuer (RFC 7517), and whether one of them signed a token. joserfc and cryptography do the arithmetic.

Only key pairs are known here. Neither `none` nor HMAC is in the table of algorithms, and a shared secret in a key set
is not taken, so that there is nothing with which a public key could be mistaken for one (RFC 8725, 2.1).
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Literal

import msgspec
from joserfc.errors import JoseError
from joserfc.jwa import JWS_ALGORITHMS, JWSAlgModel
from joserfc.jwk import JWKRegistry, Key

from proxy.access.tokens import Token, bytes_of

_MODELS: Final[Mapping[str, JWSAlgModel]] = MappingProxyType(
    {model.name: model for model in JWS_ALGORITHMS if model.name != "none" and model.key_type != "oct"}
)

#: NIST SP 800-131A, rev. 2, 3: RSA with less than 2048 bits is disallowed.
_SMALLEST_RSA_BITS: Final = 2048
#: Arbitrary: checking a signature takes longer with every bit, and nobody is known to publish more.
_LARGEST_RSA_BITS: Final = 8192


class Verdict(Enum):
    """What the keys say to a token."""

    GOOD = "good"
    FORGED = "forged"
    UNKNOWN_KEY = "unknown_key"


class _Jwk(msgspec.Struct, omit_defaults=True):
    """What is taken over of a key: its public parts, and what it is for. What else is published is left there."""

    kty: Literal["RSA", "EC", "OKP"]
    kid: str | None = None
    use: str | None = None
    alg: str | None = None
    key_ops: list[str] | None = None
    n: str | None = None
    e: str | None = None
    crv: Literal["P-256", "P-384", "P-521", "Ed25519"] | None = None
    x: str | None = None
    y: str | None = None


class _Jwks(msgspec.Struct):
    keys: list[msgspec.Raw]


class KeySet:
    """An issuer's keys at one time."""

    def __init__(self, text: bytes) -> None:
        """
        Read a key set. Keys that cannot be used are passed over, as RFC 7517, 5, asks.

        Raises:
            ValueError: it is none, or no key in it can be used.
        """
        self.text = text
        try:
            listed = msgspec.json.decode(text, type=_Jwks).keys
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise ValueError("the key set is malformed") from None
        self._keys: Sequence[tuple[str | None, Key]] = [found for raw in listed if (found := _key_of(raw)) is not None]
        if not self._keys:
            raise ValueError("the key set has no key that can be used")

    def __len__(self) -> int:
        return len(self._keys)

    def judge(self, token: Token) -> Verdict:
        """
        Say whether one of these keys signed `token`. Its algorithm must be one that the issuer may use: see there.

        Without `kid` there must be one key for the algorithm (OpenID Connect Core 1.0, 10.1), and since it then may be
        of an older set, a signature that does not fit is of an unknown key.
        """
        model = _MODELS.get(token.algorithm)
        if model is None:
            return Verdict.FORGED
        keys = [key for kid, key in self._keys if token.key_id in (None, kid) and _is_for(key, model)]
        if not keys or (token.key_id is None and len(keys) > 1):
            return Verdict.UNKNOWN_KEY
        if any(_has_signed(key, model, token) for key in keys):
            return Verdict.GOOD
        return Verdict.UNKNOWN_KEY if token.key_id is None else Verdict.FORGED


def _key_of(raw: msgspec.Raw) -> tuple[str | None, Key] | None:
    try:
        jwk = msgspec.json.decode(raw, type=_Jwk)
        members: dict[str, Any] = {name: value for name, value in msgspec.to_builtins(jwk).items() if value is not None}
        if jwk.kty == "RSA" and not _SMALLEST_RSA_BITS <= _bits_of(jwk.n or "") <= _LARGEST_RSA_BITS:
            return None
        return jwk.kid, JWKRegistry.import_key(members)
    except (JoseError, ValueError, KeyError, RecursionError):
        return None


def _bits_of(number: str) -> int:
    return int.from_bytes(bytes_of(number), "big").bit_length()


def _is_for(key: Key, model: JWSAlgModel) -> bool:
    """Whether the algorithm fits the key's type and curve, and what the key itself says that it is for."""
    try:
        model.check_key(key)
        key.check_key_op("verify")
    except JoseError:
        return False
    return True


def _has_signed(key: Key, model: JWSAlgModel, token: Token) -> bool:
    try:
        return model.verify(token.signed, token.signature, key)
    except (JoseError, ValueError):
        return False
