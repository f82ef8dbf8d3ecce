"""
JSON Web Tokens, taken apart and put to the question. Pure, and without the library: nothing here checks a signature.

    header . payload . signature      each base64url without padding (RFC 7515, 7.1)

What a token says about itself is not believed: keys inside it (`jwk`, `x5c`) and links to keys (`jku`, `x5u`) are not
even decoded. Its `iss` only chooses whose keys it is tried with, and its claims count after that.
"""

import base64
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from proxy.config import Issuer
from proxy.errors import Forbidden, Unauthorized

#: Arbitrary: the longest bearer token, in bytes. nginx takes no longer header either (`large_client_header_buffers`).
LONGEST_TOKEN: Final = 8192

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

#: RFC 8725, 3.11: a token that says that it is something else (`logout+jwt`, `dpop+jwt`, …) is not one for access.
_TYPES: Final = frozenset({"", "jwt", "at+jwt", "application/jwt", "application/at+jwt"})

Claims = Mapping[str, Any]


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    typ: str = ""
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    b64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Token(msgspec.Struct, frozen=True):
    """A token as it came: nothing of it is to be believed before its signature was checked."""

    algorithm: str
    key_id: str | None
    issuer: str
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


_header_decoder: Final = msgspec.json.Decoder(_Header)
_claims_decoder: Final = msgspec.json.Decoder(dict[str, Any])


def refused(reason: str) -> Unauthorized:
    """Return the failure of a token; `reason` is ours and holds nothing of it."""
    error = Unauthorized(f"The token is not accepted: {reason}.")
    error.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'  # RFC 6750, 3.1
    return error


def digest_of(text: str) -> bytes:
    """Return what is kept of a bearer token. How long it takes to find it among others says nothing of the token."""
    return sha256(text.encode(errors="surrogateescape")).digest()


def is_token(text: str) -> bool:
    """Whether it has the form of a signed token."""
    return _COMPACT.fullmatch(text) is not None


def read_token(text: str) -> Token:
    """
    Take a token apart.

    Raises:
        Unauthorized: it is none, or of a kind that is not taken: encrypted, or with extensions that must be understood.
    """
    if len(text) > LONGEST_TOKEN or not is_token(text):
        raise refused("it is not a signed JSON Web Token of at most 8 KiB")
    first, payload, signature = text.split(".")
    try:
        header = _header_decoder.decode(bytes_of(first))
        claims = _claims_decoder.decode(bytes_of(payload))
        signature_bytes = bytes_of(signature)
    except (ValueError, RecursionError):  # msgspec's failures are ValueErrors
        raise refused("it is malformed") from None
    # RFC 7515, 4.1.11: who does not know an extension that is critical must refuse. No extension is known here.
    if header.crit is not msgspec.UNSET or header.b64 is not msgspec.UNSET:
        raise refused("it needs an extension that is not known here")
    if header.typ.lower() not in _TYPES:
        raise refused("it is of another type than an access token")
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise refused("it does not name its issuer")
    return Token(header.alg, header.kid, issuer, claims, f"{first}.{payload}".encode(), signature_bytes)


def bytes_of(part: str) -> bytes:
    """
    Decode base64url.

    Raises:
        ValueError: it is not the one way to write these bytes. The last character may have bits that mean nothing,
            so that without this several texts would be the same token.
    """
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part.encode():
        raise ValueError
    return data


# --- claims, once the signature is known to be good


def check_claims(claims: Claims, issuer: Issuer, now: float) -> float:
    """
    Return when the token expires; `now` and that are seconds since 1970.

    Raises:
        Unauthorized: it is not for us, or not for now.
    """
    if claims.get("iss") != issuer.url:
        raise refused("it is of another issuer")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(one, str) and one in issuer.audience for one in audiences):
        raise refused("it is for another audience")
    expires = _time_of(claims, "exp")
    if expires is None:
        raise refused("it does not say when it expires")
    if now >= expires + issuer.clock_skew_s:
        raise refused("it has expired")
    for name in ("nbf", "iat"):
        begins = _time_of(claims, name)
        if begins is not None and now < begins - issuer.clock_skew_s:
            raise refused("it is not valid yet")
    if "cnf" in claims:
        # RFC 9449, 7.1 and RFC 8705, 3: it is bound to a key of the client, which would have to show it.
        raise refused("it is bound to a key, and only plain bearer tokens are taken")
    return expires


def _time_of(claims: Claims, name: str) -> float | None:
    """Return a NumericDate; a boolean is no number here, though Python says so."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refused(f"its {name} is not a time")
    return float(value)


def tier_of(claims: Claims, issuer: Issuer) -> str:
    """
    Return the name of the tier that the token belongs to.

    Raises:
        Forbidden: it lacks a scope or a claim that every token must have, or no grant fits it.
    """
    scopes = _scopes_of(claims)
    if not scopes.issuperset(issuer.scopes):
        raise _forbidden("The token lacks a scope that is required here.", "insufficient_scope")
    if not _has_claims(claims, issuer.claims):
        raise _forbidden("The token lacks a claim that is required here.", "missing_claim")
    for grant in issuer.grants:
        if scopes.issuperset(grant.scopes) and _has_claims(claims, grant.claims):
            return grant.tier
    if issuer.grants and not issuer.tier:
        raise _forbidden("The token's scopes and claims give it no tier.", "no_tier")
    return issuer.tier or "default"


def _forbidden(message: str, code: str) -> Forbidden:
    error = Forbidden(message, code=code)
    error.headers["WWW-Authenticate"] = 'Bearer error="insufficient_scope"'  # RFC 6750, 3.1
    return error


def _scopes_of(claims: Claims) -> set[str]:
    """RFC 8693, 4.2: `scope`, with spaces between them. Okta and Entra ID say `scp`, the first as a list."""
    found: set[str] = set()
    for value in (claims.get("scope"), claims.get("scp")):
        found.update(value.split(" ") if isinstance(value, str) else _texts(value))
    return found


def _has_claims(claims: Claims, wanted: Mapping[str, str]) -> bool:
    return all(text in _texts(_claim(claims, name)) for name, text in wanted.items())


def _texts(value: Any) -> list[str]:
    """Return a value, or the values in a list, as text; what is not text, a boolean or a whole number is left out."""
    values = value if isinstance(value, list) else [value]
    return [_as_text(one) for one in values if isinstance(one, str | int)]


def _as_text(value: str | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _claim(claims: Claims, name: str) -> Any:
    """Return a claim; `realm_access.roles` is one of that name, or else, as Keycloak has it, one inside another."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def principal_name(claims: Claims, issuer: Issuer) -> str:
    """
    Return what the token's principal is called: `<issuer>#<claim>`.

    No other issuer, key or certificate has a principal of this name: an issuer's URL holds no `#`, and the name of a
    key neither `#` nor `:`.

    Raises:
        Unauthorized: the token does not say who it is.
    """
    value = _claim(claims, issuer.principal_claim)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise refused("it does not say who it is for")
    return f"{issuer.url}#{plain(str(value))}"


#: `~` is left out, because it marks what was shortened: nobody can be called as another is when shortened.
_PLAIN: Final = re.compile(r"[ -}]{1,64}")


def plain(name: str) -> str:
    """Return a name that is fit for logs, metrics and keys of a store: itself, or `~` and a digest of it."""
    return name if _PLAIN.fullmatch(name) else "~" + sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
