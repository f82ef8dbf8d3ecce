"""What a process says about itself when it starts and when it ends, once for all its workers."""

import os
import signal
import sys

from aiohttp import http_parser
from structlog.typing import FilteringBoundLogger

from proxy import __version__
from proxy.config import Config


class Announcements:
    """The lines `startup`, `draining` and `shutdown` of the log, and the one line for people on standard error."""

    def __init__(self, config: Config, logger: FilteringBoundLogger, *, workers: int) -> None:
        self._config = config
        self._logger = logger
        self._workers = workers

    def started(self, port: int) -> None:
        """Every worker accepts connections on `port`."""
        config = self._config
        host = f"[{config.host}]" if ":" in config.host else config.host
        demo = "the built-in demo model, not a real one (for vLLM: VLLM_BASE=http://HOST:8000 make run)"
        print(
            f"devstral-proxy {__version__}: http://{host}:{port}/v1 -> {config.vllm_base or demo},"
            f" profile {config.profile}",
            file=sys.stderr,
            flush=True,
        )
        self._logger.info(
            "startup",
            version=__version__,
            host=config.host,
            port=port,
            upstream=config.vllm_base or "demo",
            profile=config.profile,
            workers=self._workers,
            pid=os.getpid(),
            c_parser=http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy,
        )

    def draining(self, number: signal.Signals, in_flight: int) -> None:
        """Nothing is accepted any more, because of a signal, and so many requests run."""
        self._logger.info("draining", signal=number.name, in_flight=in_flight)

    def ended(self, cut_off: int) -> None:
        """Nothing runs any more; so many requests were cut off."""
        self._logger.info("shutdown", cut_off=cut_off)
