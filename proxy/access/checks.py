"""Whether authentication is required, and what the settings about it can get wrong together."""

from collections.abc import Iterator

from proxy.access.fetch import checked_url
from proxy.access.keys import Entry, decode_entries
from proxy.config import Config, ConfigError, Issuer


def has_method(config: Config) -> bool:
    """Whether anybody could be told from others: by a key, a token or a certificate."""
    return bool(config.api_keys or config.keys or config.issuers or config.tls_client_ca_file)


def is_required(config: Config) -> bool:
    """Whether requests must say who they are from."""
    return config.auth == "required" or (config.auth == "auto" and has_method(config))


def check_settings(config: Config) -> None:
    """
    Raises:
        ConfigError: the settings contradict each other, or one of them cannot be used. No secret is in the text.
    """
    if config.auth == "open" and has_method(config):
        raise ConfigError("auth: open is that nobody is asked, but there are keys, issuers or tls_client_ca_file")
    if config.auth == "required" and not has_method(config):
        raise ConfigError("auth: required, but there are no keys, no issuers and no tls_client_ca_file")
    entries_of(config)
    urls = [issuer.url for issuer in config.issuers]
    if len(set(urls)) < len(urls):
        raise ConfigError("issuers: two have the same url")
    for i, issuer in enumerate(config.issuers):
        try:
            _check_issuer(issuer, config)
        except ValueError as exc:
            raise ConfigError(f"issuers[{i}]: {exc}") from None


def entries_of(config: Config) -> tuple[Entry, ...]:
    """
    Return what the file of keys keeps.

    Raises:
        ConfigError: it is another file. The text does not quote it.
    """
    try:
        return decode_entries(config.keys) if config.keys else ()
    except ValueError as exc:
        raise ConfigError(f"keys_file: {exc}") from None


def keys_without_tier(config: Config) -> tuple[Entry, ...]:
    """Return the keys whose tier is not there: they are refused until it is, which is no fault of the settings."""
    return tuple(entry for entry in entries_of(config) if entry.lacks_tier(config.tiers))


def _check_issuer(issuer: Issuer, config: Config) -> None:
    checked_url(issuer.url)
    if "?" in issuer.url:
        raise ValueError("url: an issuer has no query")
    if issuer.jwks_url:
        checked_url(issuer.jwks_url)
    if not issuer.audience or "" in issuer.audience:
        raise ValueError("audience: name one at least, as `aud` spells it; else tokens for others would be good here")
    if not issuer.algorithms:
        raise ValueError("algorithms: name one at least")
    for tier in _tiers_of(issuer):
        if tier != "default" and tier not in config.tiers:
            raise ValueError("tier: a name that is not among `tiers`")


def _tiers_of(issuer: Issuer) -> Iterator[str]:
    yield issuer.tier or "default"
    yield from (grant.tier for grant in issuer.grants)
