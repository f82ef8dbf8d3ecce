"""How many files, which is also how many connections, this process may have open."""

import resource
from contextlib import suppress
from typing import Final

from proxy.config import Config

#: Arbitrary: the log, the loop's own, health checks, idle connections.
_OTHERS: Final = 64


def raise_open_files() -> int:
    """
    Raise the limit as far as this process may; return what it is then.

    The soft limit is 1,024 in many places, for programs that use select(2), which cannot count further.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS calls its hard limit infinite, and has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def open_files_needed(config: Config) -> int:
    """Return what a worker has open at its bounds: a client and an upstream for each request, a client that waits."""
    return 2 * config.max_in_flight + config.max_queue + _OTHERS
