"""
The timers of one request: what its headers say, else what its model's settings say, else what the configuration says.

    x-proxy-timeout · x-proxy-first-byte-timeout · x-proxy-between-bytes-timeout      in seconds

A header cannot set a timer to more than `longest_timeout_s`, so that no client holds a place for ever.
"""

import math
import re
from collections.abc import Mapping
from typing import Final

from multidict import istr

from proxy.config import Config, ModelSettings
from proxy.errors import InvalidRequest
from proxy.upstream.answer import Limits

_TOTAL: Final = istr("x-proxy-timeout")
_FIRST_BYTE: Final = istr("x-proxy-first-byte-timeout")
_BETWEEN_BYTES: Final = istr("x-proxy-between-bytes-timeout")

# A plain decimal: float() would take "nan", "1_0" and "1e99" too.
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class Deadlines:
    """The timers that one configuration gives. A request that asks for nothing special gets a ready `Limits`."""

    def __init__(self, config: Config) -> None:
        self._longest_s = config.longest_timeout_s
        self._common = _limits_of(config, ModelSettings())
        self._of_models = {name: _limits_of(config, settings) for name, settings in config.models.items()}

    def limits(self, headers: Mapping[str, str], model: str) -> Limits:
        """
        Return the timers of a request for `model`.

        Raises:
            InvalidRequest: a header is not a number of seconds above 0.
        """
        limits = self._of_models.get(model, self._common) if self._of_models else self._common
        total, first, between = headers.get(_TOTAL), headers.get(_FIRST_BYTE), headers.get(_BETWEEN_BYTES)
        if total is None and first is None and between is None:
            return limits
        return Limits(
            total_s=limits.total_s if total is None else self._asked(_TOTAL, total),
            first_byte_s=limits.first_byte_s if first is None else self._asked(_FIRST_BYTE, first),
            between_bytes_s=limits.between_bytes_s if between is None else self._asked(_BETWEEN_BYTES, between),
        )

    def _asked(self, name: str, text: str) -> float:
        if not _SECONDS.fullmatch(text) or not float(text):
            raise InvalidRequest(f"The header {name} must be a number of seconds above 0.", param=str(name))
        return min(float(text), self._longest_s)


def _limits_of(config: Config, model: ModelSettings) -> Limits:
    total_s = config.timeout_s if model.timeout_s is None else model.timeout_s
    return Limits(
        total_s=total_s or math.inf,
        first_byte_s=model.first_byte_timeout_s or config.first_byte_timeout_s,
        between_bytes_s=model.between_bytes_timeout_s or config.between_bytes_timeout_s,
    )
