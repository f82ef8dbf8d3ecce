"""
Who a JSON Web Token is for: found, and remembered for a minute at most.

    read_token -> the issuer -> its keys -> signature -> claims -> scopes, grants -> Principal

A token that was good is remembered by its digest until it expires or a minute has passed, and as long as its issuer's
keys are the same: asking again costs a digest instead of a signature. Nothing that was refused is remembered, so only
who has good tokens can fill the memory.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from proxy.access.fetch import Fetcher
from proxy.access.issuer import Clock, KeySource, Note
from proxy.access.jwks import KeySet, Verdict
from proxy.access.principal import Principal
from proxy.access.tokens import Token, check_claims, digest_of, principal_name, read_token, refused, tier_of
from proxy.config import Config, Tier

#: Arbitrary: how long a token that its issuer's keys no longer vouch for may go on, seconds.
REMEMBERED_S: Final = 60.0
#: Arbitrary: about 3 MB of digests and principals.
MOST_REMEMBERED: Final = 4096


class _Remembered(NamedTuple):
    principal: Principal
    until: float
    source: KeySource
    keys: KeySet


class Verifier:
    """The issuers of one configuration. For the thread of one loop."""

    def __init__(self, config: Config, before: "Verifier | None", clock: Clock, note: Note) -> None:
        """
        Issuers whose settings are those in `before` keep the keys that were fetched. Their `ca_file` is read again.

        Raises:
            ConfigError: the `ca_file` of an issuer cannot be used.
        """
        self._clock = clock
        self._tiers = config.tiers
        known: Mapping[str, KeySource] = before.sources if before else {}
        fetchers = [Fetcher(issuer) for issuer in config.issuers]  # before anything is changed, for what it raises
        self.sources: Mapping[str, KeySource] = {
            fetcher.issuer.url: _source(fetcher, known, clock, note) for fetcher in fetchers
        }
        self._memory: dict[bytes, _Remembered] = {}

    def known(self, digest: bytes) -> Principal | None:
        """Return who the token with this `digest_of` is for, if that is remembered."""
        remembered = self._memory.get(digest)
        if remembered is None or remembered.keys is not remembered.source.keys or self._clock() >= remembered.until:
            return None
        return remembered.principal

    async def principal(self, text: str) -> Principal:
        """
        Return who a token is for.

        Raises:
            Unauthorized: it is not good, or not for us.
            Forbidden: it lacks what is required, or belongs to no tier.
            NotDecided: its issuer does not answer.
        """
        token = read_token(text)
        source = self.sources.get(token.issuer)
        if source is None:
            raise refused("its issuer is not one that is accepted here")
        if token.algorithm not in source.issuer.algorithms:
            raise refused("its algorithm is not one that is accepted here")
        keys = await _keys_of(token, source)
        expires = check_claims(token.claims, source.issuer, self._clock())
        tier = tier_of(token.claims, source.issuer)
        principal = Principal(principal_name(token.claims, source.issuer), tier, self._tiers.get(tier, _NO_LIMITS))
        self._remember(text, _Remembered(principal, min(expires, self._clock() + REMEMBERED_S), source, keys))
        return principal

    def retired(self, later: "Verifier | None") -> Sequence[KeySource]:
        """The sources that `later`, which takes its place, has not taken over."""
        kept = set(later.sources.values()) if later else set()
        return [source for source in self.sources.values() if source not in kept]

    def _remember(self, text: str, remembered: _Remembered) -> None:
        if len(self._memory) >= MOST_REMEMBERED:
            del self._memory[next(iter(self._memory))]
        self._memory[digest_of(text)] = remembered


_NO_LIMITS: Final = Tier()


def _source(fetcher: Fetcher, known: Mapping[str, KeySource], clock: Clock, note: Note) -> KeySource:
    source = known.get(fetcher.issuer.url)
    if source is None or source.issuer != fetcher.issuer:
        return KeySource(fetcher, clock, note)
    source.fetcher = fetcher
    return source


async def _keys_of(token: Token, source: KeySource) -> KeySet:
    """
    Return the keys by which the token is good.

    Raises:
        Unauthorized: they say that it is not.
        NotDecided: they do not know its key, and newer ones cannot be had.
    """
    keys = await source.current()
    verdict = keys.judge(token)
    if verdict is Verdict.UNKNOWN_KEY:
        newer = await source.newer()
        if newer is not None and newer is not keys:
            keys, verdict = newer, newer.judge(token)
    if verdict is not Verdict.GOOD:
        raise refused("it is not signed by a key of its issuer")
    return keys
