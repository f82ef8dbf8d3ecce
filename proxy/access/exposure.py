"""Whether a proxy that asks nobody for a key can be reached from elsewhere."""

from collections.abc import Iterable

from proxy.access.checks import is_required
from proxy.config import Config, ConfigError, is_loopback


def check_exposure(config: Config, hosts: Iterable[str]) -> None:
    """
    `hosts` are the addresses that are listened on for everything; the metrics' own listener is looked at as well.

    Raises:
        ConfigError: everybody would be served on one that is not loopback, and `auth` or `metrics_auth` does not say
            so; or `metrics_auth` is set for a listener that is not there.
    """
    if config.metrics_auth == "open" and not config.metrics_port:
        raise ConfigError("metrics_auth: open is for a listener of its own, and metrics_port is 0")
    if config.auth == "open" or is_required(config):
        return
    if config.metrics_port and config.metrics_auth != "open" and not is_loopback(config.metrics_host):
        raise ConfigError(
            f"metrics_host: {config.metrics_host or 'every address'} can be reached from elsewhere, and nobody is asked"
            " for a key. Set one up, or say metrics_auth = open (PROXY_METRICS_AUTH=open): whoever reaches that port"
            " may read the metrics then."
        )
    for host in hosts:
        if not is_loopback(host):
            raise ConfigError(
                f"host: {host or 'every address'} can be reached from elsewhere, and nobody is asked for a key."
                " Set keys_file, api_keys_file, issuers or tls_client_ca_file, or say auth = open (PROXY_AUTH=open)."
            )
