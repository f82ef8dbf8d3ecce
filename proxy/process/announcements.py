"""What a process says about itself when it starts, when it ends and while it lives, once for all its workers."""

import os
import signal
import sys

from aiohttp import http_parser
from structlog.typing import FilteringBoundLogger

from proxy import __version__
from proxy.config import Config, checked_backends, is_loopback
from proxy.process.address import Addresses
from proxy.process.limits import open_files_needed
from proxy.process.notify import Manager


class Announcements:
    """
    The lines `startup`, `not_ready`, `draining` and `shutdown` of the log, the one line for people on standard error,
    and what the service manager is told at the same moments.
    """

    def __init__(
        self,
        config: Config,
        logger: FilteringBoundLogger,
        addresses: Addresses,
        *,
        workers: int,
        open_files: int,
        manager: Manager | None = None,
    ) -> None:
        """`open_files` is how many files a process may have open."""
        self._config = config
        self._logger = logger
        self._addresses = addresses
        self._workers = workers
        self._open_files = open_files
        self.manager = manager or Manager()
        self._serving = ""

    def started(self, port: int) -> None:
        """Every worker accepts connections on `port`."""
        config, (main, metrics) = self._config, self._addresses
        scheme = "https" if config.tls_cert_file else "http"
        url = f"{scheme}://{_in_url(main.host)}:{port}"
        pages = {"docs": f"{url}/docs", "ui": f"{url}/ui"}
        if not (config.ui == "on" or (config.ui == "auto" and all(map(is_loopback, main.hosts)))):
            del pages["ui"]
        if metrics is not None:
            pages["metrics"] = f"{scheme}://{_in_url(metrics.host)}:{metrics.port}/metrics"
        upstream = _upstreams(config)
        demo = "the built-in demo model, not a real one (for vLLM: VLLM_BASE=http://HOST:8000 make run)"
        self._serving = f"Serving {url} with {self._workers} worker{'s' * (self._workers > 1)}"
        print(
            f"devstral-proxy {__version__}: {url}/v1 -> {upstream or demo}, profile {config.profile}"
            f" ({', '.join(pages.values())})",
            file=sys.stderr,
            flush=True,
        )
        self._logger.info(
            "startup",
            version=__version__,
            host=main.host,
            port=port,
            **pages,
            tls=_tls(config),
            upstream=upstream or "demo",
            profile=config.profile,
            workers=self._workers,
            pid=os.getpid(),
            c_parser=http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy,
            **self._too_few_files(),
        )
        self.manager.ready(self._serving)

    def _too_few_files(self) -> dict[str, int]:
        needed = open_files_needed(self._config)
        is_enough = self._open_files < 0 or self._open_files >= needed  # RLIM_INFINITY is -1
        return {} if is_enough else {"open_files": self._open_files, "open_files_needed": needed}

    def reloading(self) -> None:
        """The settings are being read again, because of a signal. `reloaded()` must follow."""
        if self._serving:  # else it would be called ready before it is
            self.manager.reloading()

    def reloaded(self, *, is_taken: bool) -> None:
        """They were read: `is_taken`, or those before stay."""
        if self._serving:
            self.manager.ready(self._serving + ("" if is_taken else "; the last settings were refused, see the log"))

    def ending(self, number: signal.Signals, limit_s: float) -> None:
        """A signal was received, and the end takes `limit_s` at the longest."""
        self.manager.stopping(f"{number.name}: running requests may end", limit_s)

    def not_ready(self, number: signal.Signals, delay_s: float) -> None:
        """A signal was received: readiness says no, and connections are accepted for so many seconds more."""
        self._logger.info("not_ready", signal=number.name, delay_s=delay_s)

    def draining(self, number: signal.Signals, in_flight: int) -> None:
        """Nothing is accepted any more, because of a signal, and so many requests run."""
        self._logger.info("draining", signal=number.name, in_flight=in_flight)
        self.manager.status(f"{number.name}: nothing is accepted, {in_flight} requests run")

    def ended(self, cut_off: int) -> None:
        """Nothing runs any more; so many requests were cut off."""
        self._logger.info("shutdown", cut_off=cut_off)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _tls(config: Config) -> str:
    """Say who proves what it is to whom."""
    if config.tls_client_ca_file:
        return "mutual"
    return "server" if config.tls_cert_file else "off"


def _upstreams(config: Config) -> str:
    """Name the first upstream and say how many there are besides."""
    urls = [backend.url for backend in checked_backends(config)]
    return f"{urls[0]} and {len(urls) - 1} more" if len(urls) > 1 else "".join(urls)
