"""
Whether requests are traced, by the settings and by OpenTelemetry's own names in the environment.

Spans go to an OTLP receiver over HTTP, in protobuf. What does that is in otlp.py, which needs the packages of the extra
`otel`; nothing of them is loaded unless there is a receiver.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from proxy.config import Config, ConfigError
from proxy.observe.spans import Origin, Request, Watch
from proxy.values import header_pairs
from proxy.wire.trace_context import TraceContext

#: What becomes of spans, in the words of the metrics.
SPANS: Final = ("exported", "failed", "dropped")

#: Counts so many spans, by one of `SPANS`. `dropped` is for the loop's thread, the others are for another one.
Count = Callable[[str, int], None]

_QUEUE: Final = "OTEL_BSP_MAX_QUEUE_SIZE"
_BATCH: Final = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_DELAY: Final = "OTEL_BSP_SCHEDULE_DELAY"
#: The SDK's defaults: spans, spans, milliseconds (opentelemetry-sdk 1.45.2, trace/export).
_DEFAULTS: Final[Mapping[str, int]] = {_QUEUE: 2048, _BATCH: 512, _DELAY: 5000}
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL: Final = "http/protobuf"
_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
_SHARE: Final = "OTEL_TRACES_SAMPLER_ARG"


def _is_time(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_compression(text: str) -> bool:
    return text.lower() in ("none", "gzip", "deflate")


#: What else the SDK and its exporter read, and what they would end on, or take another value for (1.45.2).
_CHECKED: Final[Sequence[tuple[str, Callable[[str], bool], str]]] = (
    *(
        (f"OTEL_EXPORTER_OTLP_{word}{name}", is_right, expected)
        for word in ("TRACES_", "")
        for name, is_right, expected in (
            ("TIMEOUT", _is_time, "number of seconds, more than 0"),
            ("COMPRESSION", _is_compression, "none, gzip or deflate"),
            ("CERTIFICATE", os.path.isfile, "path of a file"),
            ("CLIENT_CERTIFICATE", os.path.isfile, "path of a file"),
            ("CLIENT_KEY", os.path.isfile, "path of a file"),
        )
    ),
    *(
        (f"OTEL_{name}_LIMIT", _is_count, "whole number")
        for name in (
            *("SPAN_ATTRIBUTE_COUNT", "SPAN_EVENT_COUNT", "SPAN_LINK_COUNT", "EVENT_ATTRIBUTE_COUNT"),
            *("LINK_ATTRIBUTE_COUNT", "ATTRIBUTE_COUNT", "ATTRIBUTE_VALUE_LENGTH", "SPAN_ATTRIBUTE_VALUE_LENGTH"),
        )
    ),
)


class Logger(Protocol):
    """What is logged: that the receiver does not take spans, and that it does again."""

    def info(self, event: str, **fields: Any) -> Any:
        """Write a line of level info."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Write a line of level warning."""


class Tracer(Protocol):
    """Makes spans of requests."""

    def samples(self, trace_id: str, parent: TraceContext | None) -> bool:
        """Whether a request of this trace, the client's or a new one, is to have spans."""

    def finish(self, request: Request, origin: Origin, watch: Watch, scheme: str) -> None:
        """Make the spans of a request that is over. Nobody waits for anything."""

    async def close(self) -> None:
        """Send what waits, for a few seconds at most."""


def is_traced(config: Config) -> bool:
    """Whether there is a receiver for spans."""
    return bool(config.otlp_endpoint or config.otlp_traces_endpoint) and not config.otel_sdk_disabled


def endpoint_of(config: Config) -> str:
    """Return the URL that spans are posted to."""
    return config.otlp_traces_endpoint or f"{config.otlp_endpoint}/v1/traces"


def check_tracing(config: Config) -> None:
    """
    Raises:
        ConfigError: a package is missing, or a variable that the SDK reads has a value that it cannot use.
    """
    if not is_traced(config):
        return
    # before the SDK is loaded: that reads some of them
    for name, is_right, expected in _CHECKED:
        if (text := os.environ.get(name, "").strip()) and not is_right(text):
            raise ConfigError(f"environment variable {name}: expected {expected}")
    if "traceidratio" in os.environ.get(_SAMPLER, "").lower() and not _is_share(os.environ.get(_SHARE) or "1"):
        raise ConfigError(f"environment variable {_SHARE}: expected number from 0 to 1")
    try:
        # before workers are forked, so that they share them
        import requests  # noqa: F401

        import proxy.observe.otlp  # noqa: F401
    except ImportError:
        raise ConfigError("otlp_endpoint: this needs packages: pip install devstral-proxy[otel]") from None
    for name in _PROTOCOLS:
        if (os.environ.get(name) or _PROTOCOL) != _PROTOCOL:
            raise ConfigError(f"environment variable {name}: only {_PROTOCOL} is spoken")
    if most_spans(_BATCH) > most_spans(_QUEUE):
        raise ConfigError(f"environment variable {_BATCH}: more than {_QUEUE}")
    most_spans(_DELAY)


def most_spans(name: str = _QUEUE) -> int:
    """
    Return one of the numbers that the SDK reads from the environment, by default how many spans may wait.

    Raises:
        ConfigError: it is no number, or not above 0.
    """
    text = os.environ.get(name) or str(_DEFAULTS[name])
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ConfigError(f"environment variable {name}: expected whole number, at least 1")
    return int(text)


def open_tracer(config: Config, logger: Logger, count: Count) -> Tracer | None:
    """
    Return what makes spans, None if there is no receiver. For the process that serves, after it was forked.

    Raises:
        ConfigError: see `check_tracing`.
    """
    check_tracing(config)
    if not is_traced(config):
        return None
    from proxy.observe.otlp import OtlpTracer

    return OtlpTracer(endpoint_of(config), header_pairs(config.otlp_headers), most_spans(), logger, count)
