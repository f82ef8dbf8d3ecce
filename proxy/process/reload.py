"""
The settings again, from the same flags, environment and files, while the program runs.

    SIGHUP, or a file has changed --> read --> check --> in effect for later requests
                                         \\----------\\-> refused: the old ones stay

What was read is one record and is replaced as a whole, so nothing ever sees half of it. Files that it only names, such
as certificates, are watched as well: the same record with another file behind it goes to all who serve by it.
"""

import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from structlog.typing import FilteringBoundLogger

from proxy.access.access import check_access
from proxy.access.exposure import check_exposure
from proxy.config import SETTINGS, Config, ConfigError, Reader, checked_backends
from proxy.edge.tls import server_context
from proxy.observe.metrics import Metrics
from proxy.observe.tracing import check_tracing
from proxy.store.valkey import check_url
from proxy.translate.profile import build_profile

#: What a running process cannot change: its port, its workers, where its log and its spans go, and the form of its
#: connections.
NEEDS_RESTART: Final = frozenset(
    {
        *("host", "port", "reuse_port", "workers", "log_file", "log_level", "debug", "shortcuts", "store_url"),
        *("metrics_port", "metrics_host"),
        *("otlp_endpoint", "otlp_traces_endpoint", "otlp_headers", "otel_sdk_disabled"),
    }
)
#: Nor does it begin to speak TLS, or cease to. Other certificates it takes at once.
_TLS: Final = frozenset({"tls_cert_file", "tls_key_file", "tls_client_ca_file"})

#: Makes the settings; the files among their sources are read by what it is given.
Load = Callable[[Reader], Config]
#: What tells a file from the one that was there before: its age, number and size. None is no file.
Stamp = tuple[int, int, int] | None


class Source:
    """Where the settings come from, and whether that has changed since they were read."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._read: dict[str, Stamp] = {}
        self._seen: dict[str, Stamp] = {}

    @property
    def has_files(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._read)

    @property
    def stamps(self) -> Mapping[str, Stamp]:
        """The files that were read, or named by what was read, by path."""
        return self._read

    def read(self) -> Config:
        """
        Return the settings as they are now.

        Raises:
            ConfigError: they cannot be used.
        """
        # Before they are read, so that what changes meanwhile is noticed. Those of a failed attempt are kept with
        # the ones before: mending any of them is a change.
        known = {path: _stamp(path) for path in self._read}
        files: dict[str, Stamp] = {}

        def read_file(path: str) -> str:
            files[path] = _stamp(path)
            return Path(path).read_text(encoding="utf-8")

        try:
            config = self._load(read_file)
        except (ValueError, RecursionError):
            self._read = known | files
            raise
        self._read = files | {path: _stamp(path) for paths in _named(config).values() for path in paths}
        return config

    def has_changed(self) -> bool:
        """
        Return whether a file is another one than was read, and the same as when this was called last.

        So a file that is being written is left alone until it is whole.
        """
        before, self._seen = self._seen, {path: _stamp(path) for path in self._read}
        return self._seen != self._read and self._seen == before


def _named(config: Config) -> Mapping[str, set[str]]:
    """Return the paths of the files that settings name and that others read, by the setting's name."""
    paths = {name: {getattr(config, name)} for name in _TLS}
    paths["backends"] = {backend.ca_file for backend in config.backends}
    paths["issuers"] = {issuer.ca_file for issuer in config.issuers}
    return {name: named - {""} for name, named in paths.items()}


def _stamp(path: str) -> Stamp:
    # Kubernetes swaps a symbolic link to the folder of a ConfigMap; `stat` follows it.
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


class Settings:
    """The settings in effect, and their replacement."""

    def __init__(
        self,
        source: Source,
        config: Config,
        logger: FilteringBoundLogger,
        metrics: Metrics,
        hosts: Sequence[str] = (),
        context: ssl.SSLContext | None = None,
    ) -> None:
        """
        `config` is what `source` gave at the start, and `context` what `check()` gave for it; `hosts` are the addresses
        that are listened on.
        """
        self._source = source
        self._in_effect = source.stamps
        self._logger = logger
        self._metrics = metrics
        self._hosts = hosts
        self.config = config
        #: by which the listener speaks TLS, made of files that could be used; None is that it does not
        self.context = context

    @property
    def look_every_s(self) -> float | None:
        """How often to call `look()`; None is never."""
        return (self.config.watch_config_s or None) if self._source.has_files else None

    def look(self) -> Config | None:
        """Do as `reload()` does if a file has changed."""
        return self.reload() if self._source.has_changed() else None

    def reload(self) -> Config | None:
        """Read the settings again; return those that are in effect now, or None if the old ones stay."""
        try:
            read = self._source.read()
            kept = self._kept(read)
            config = msgspec.structs.replace(read, **{name: getattr(self.config, name) for name in kept})
            context = check(config)
            check_exposure(config, self._hosts)
        except (ValueError, RecursionError) as exc:
            self._metrics.count_failed_reload()
            is_explained = isinstance(exc, ConfigError)
            self._logger.error("config_reload_failed", error=str(exc) if is_explained else type(exc).__name__)
            return None
        changed = {name for name in SETTINGS if getattr(read, name) != getattr(self.config, name)}
        changed |= self._with_other_files(config)
        self.config, self.context, self._in_effect = config, context, self._source.stamps
        self._metrics.count_reload()
        self._logger.info("config_reloaded", changed=sorted(changed - kept), needs_restart=sorted(changed & kept))
        return self.config

    def _kept(self, read: Config) -> frozenset[str]:
        """Return what stays as it is until a restart."""
        is_switched = bool(read.tls_cert_file) != bool(self.config.tls_cert_file)
        return NEEDS_RESTART | _TLS if is_switched else NEEDS_RESTART

    def _with_other_files(self, config: Config) -> set[str]:
        """Return the settings that name a file as before, behind which there is another one now."""
        before, now = self._in_effect, self._source.stamps
        other = {path for path, stamp in now.items() if path in before and before[path] != stamp}
        return {name for name, paths in _named(config).items() if paths & other}


def check(config: Config) -> ssl.SSLContext | None:
    """
    Find out before anybody gets them whether a worker could use these settings; return the listener's context.

    Raises:
        ConfigError: it could not.
    """
    backends = checked_backends(config)
    check_access(config)
    if config.store_url:
        check_url(config.store_url)
    check_tracing(config)
    try:
        for profile in {config.profile, *(backend.profile for backend in backends)}:
            build_profile(profile, config.options)
    except ConfigError:
        raise
    except ValueError as exc:
        raise ConfigError(str(exc)) from None
    for path in {backend.ca_file for backend in backends if backend.ca_file}:
        try:
            ssl.create_default_context(cafile=path)
        except OSError as exc:
            raise ConfigError(f"ca_file: cannot use {path}: {exc.strerror or type(exc).__name__}") from None
    return server_context(config)
