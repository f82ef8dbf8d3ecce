"""Whether a proxy that asks nobody for a key can be reached from elsewhere."""

from collections.abc import Iterable

from proxy.access.checks import is_required
from proxy.config import Config, ConfigError, is_loopback


def check_exposure(config: Config, hosts: Iterable[str]) -> None:
    """
    `hosts` are the addresses that are listened on.

    Raises:
        ConfigError: everybody would be served on one that is not loopback, and `auth` does not say so.
    """
    if config.auth == "open" or is_required(config):
        return
    for host in hosts:
        if not is_loopback(host):
            raise ConfigError(
                f"host: {host or 'every address'} can be reached from elsewhere, and nobody is asked for a key."
                " Set keys_file, api_keys_file, issuers or tls_client_ca_file, or say auth = open (PROXY_AUTH=open)."
            )
