"""
Who asks: the door of the proxy. `known()` answers at once; `principal()` may have to ask a token's issuer.

    nothing is required ---------------------------------------------------> anyone
    Authorization: Bearer --+- one of `api_keys` --------------------------> api_keys[n]
                            +- a key of the file of keys ------------------> its name
                            +- a token that was good within a minute ------> <issuer>#<claim>
                            +- a token of one of `issuers` ----------------> <issuer>#<claim>     (only `principal()`)
    neither keys nor issuers, but a client certificate --------------------> cert:<name>
    all else --------------------------------------------------------------> Unauthorized, Forbidden, NotDecided

Only one header is read, and only the scheme Bearer (RFC 6750, 2.1): what stands in a URL ends up in logs. Where
Anthropic's clients ask, their own header is given here as that one (edge/authentication.py).
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from multidict import MultiMapping, istr

from proxy.access.checks import check_settings, entries_of, is_required
from proxy.access.keys import PREFIX, KeyRing
from proxy.access.principal import ANYONE, Principal
from proxy.access.tokens import LONGEST_TOKEN, digest_of, is_token, plain
from proxy.config import Config, ConfigError, Tier
from proxy.errors import Forbidden, Unauthorized

if TYPE_CHECKING:  # what they need is an extra, and only loaded where there are issuers
    from proxy.access.issuer import Clock, KeySource, Note
    from proxy.access.verifier import Verifier

_AUTHORIZATION: Final = istr("Authorization")
#: RFC 6750, 3.1: for credentials that came, and are none.
_INVALID: Final = 'Bearer error="invalid_token"'


def check_access(config: Config) -> None:
    """
    Find out whether an `Access` could use these settings.

    Raises:
        ConfigError: it could not.
    """
    Access(config)


class Access:
    """
    Tells who asks. For the thread of one loop; `close()` at the end.

    `known()` costs 3.7 µs for a key of the file, one of 1,000, 4.1 µs for a remembered token of 700 characters, 2.6 µs
    for one of 100 `api_keys`, and 0.1 µs where nothing is required. A token that is not remembered costs 75 µs (PS256)
    to 310 µs (EdDSA) once a minute (CPython 3.11.7, 2026-11-26, two shared cores with a load of 5).
    """

    #: whether requests must say who they are from
    is_required: bool

    def __init__(
        self, config: Config, note: "Note" = lambda event, **fields: None, *, clock: "Clock" = time.time
    ) -> None:
        """
        `note` takes events and their fields, as a logger's methods do: `issuer_keys` and `issuer_failed`.

        Raises:
            ConfigError: the settings cannot be used.
        """
        self._note = note
        self._clock = clock
        self._verifier: Verifier | None = None
        self._retired: list[KeySource] = []
        self.apply(config)

    def apply(self, config: Config) -> None:
        """
        Go by these settings from now on. What is known of issuers that stay the same is kept.

        Raises:
            ConfigError: they cannot be used; nothing has changed then.
        """
        check_settings(config)
        entries = entries_of(config)
        tiers = {"default": Tier()} | dict(config.tiers)
        verifier = _verifier(config, self._verifier, self._clock, self._note)
        if self._verifier is not None:
            # Requests may wait for them: they end by themselves, within the deadlines of what they fetch.
            self._retired = [source for source in self._retired if source.is_busy]
            self._retired += self._verifier.retired(verifier)
        self.is_required = is_required(config)
        self._anyone = Principal(ANYONE.name, "default", tiers["default"])
        self._ring = KeyRing(entries)
        self._owners = {entry.id: _principal(entry.name, entry.tier or "default", tiers) for entry in entries}
        self._plain = {
            digest_of(token): Principal(f"api_keys[{n}]", "default", tiers["default"])
            for n, token in enumerate(config.api_keys.split(","))
            if token
        }
        self._verifier = verifier
        self._takes_certificates = not (config.keys or config.api_keys or config.issuers)
        ways = ["an API key"] if config.keys or config.api_keys else []
        ways += ["a token of an issuer that is accepted here"] if config.issuers else []
        self._how = f"Send `Authorization: Bearer` with {', or with '.join(ways)}."

    def known(self, headers: MultiMapping[str], certificate_name: str | None = None) -> Principal | None:
        """Return who asks, if that can be told without waiting; None is that `principal()` must be asked."""
        if not self.is_required:
            return self._anyone
        if self._takes_certificates:
            return self._of_certificate(certificate_name)
        token = _bearer(headers.getall(_AUTHORIZATION, ()))
        if token is None:
            return None
        if token.startswith(PREFIX):
            entry = self._ring.find(token, self._clock())
            if entry is not None:
                return self._owners[entry.id]
        digest = digest_of(token)
        principal = self._plain.get(digest)
        if principal is None and self._verifier is not None:
            return self._verifier.known(digest)
        return principal

    async def principal(self, headers: MultiMapping[str], certificate_name: str | None) -> Principal:
        """
        Return who asks. The texts of what is raised say how to do better, and hold nothing of the credentials.

        Raises:
            Unauthorized: nobody who is known here.
            Forbidden: somebody who is known, without the rights that everybody needs, or with a tier that is not there.
            NotDecided: the issuer of the token does not answer, and its keys are not known.
        """
        known = self.known(headers, certificate_name)
        if known is not None:
            return known
        if self._takes_certificates:
            raise Unauthorized("The client's certificate has no name.")
        values = headers.getall(_AUTHORIZATION, ())
        token = _bearer(values)
        if token is None:
            raise Unauthorized(f"{_fault_of(values)} {self._how}")
        if token.startswith(PREFIX) and self._ring.find(token, self._clock()) is not None:
            raise Forbidden("The key's tier is not among the proxy's `tiers`.", code="unknown_tier")
        if self._verifier is not None and is_token(token):
            return await self._verifier.principal(token)
        error = Unauthorized(f"The key is not known here: wrong, revoked or expired. {self._how}")
        error.headers["WWW-Authenticate"] = _INVALID
        raise error

    async def close(self) -> None:
        """End what is under way."""
        for source in (*self._retired, *(self._verifier.retired(None) if self._verifier else ())):
            await source.close()

    def _of_certificate(self, name: str | None) -> Principal | None:
        return Principal(f"cert:{plain(name)}", "default", self._anyone.tier) if name else None


def _verifier(config: Config, before: "Verifier | None", clock: "Clock", note: "Note") -> "Verifier | None":
    if not config.issuers:
        return None
    try:
        from proxy.access.verifier import Verifier
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in ("joserfc", "cryptography"):
            raise
        raise ConfigError("issuers: JSON Web Tokens need a library: pip install 'devstral-proxy[jwt]'") from None
    return Verifier(config, before, clock, note)


def _principal(name: str, tier: str, tiers: Mapping[str, Tier]) -> Principal | None:
    """None is a tier that is not there: better nobody than somebody with more rights."""
    return Principal(name, tier, tiers[tier]) if tier in tiers else None


def _bearer(values: Sequence[str]) -> str | None:
    """Return the token of the only Authorization header; None if there is none, or another thing."""
    if len(values) != 1 or values[0][:7].lower() != "bearer ":
        return None
    token = values[0][7:].strip(" ")
    return token if 0 < len(token) <= LONGEST_TOKEN else None


def _fault_of(values: Sequence[str]) -> str:
    if not values:
        return "The request does not say who it is from."
    return "There are two Authorization headers." if len(values) > 1 else "The Authorization header cannot be used."
