"""The settings: settings.py lists them, sources.py reads them, checks.py looks at them together."""

from proxy.config.checks import checked_backends, host_and_port, is_loopback
from proxy.config.records import Backend, Grant, Issuer, ModelSettings, Rates, Tier
from proxy.config.rows import rows_of
from proxy.config.settings import (
    MASK,
    OPTIONS,
    SETTINGS,
    Config,
    ConfigError,
    masked,
    secrets_of,
)
from proxy.config.sources import Reader, add_flags, load_config

__all__ = [
    "MASK",
    "OPTIONS",
    "SETTINGS",
    "Backend",
    "Config",
    "ConfigError",
    "Grant",
    "Issuer",
    "ModelSettings",
    "Rates",
    "Reader",
    "Tier",
    "add_flags",
    "checked_backends",
    "host_and_port",
    "is_loopback",
    "load_config",
    "masked",
    "rows_of",
    "secrets_of",
]
