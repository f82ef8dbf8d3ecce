"""
Which requests get their line in the log, where `log_sample` says that not all do.

    failed, slow, sent twice, or mended after the model or the server failed   always, `sample` is 1
    all others                                                 the share `log_sample`, and `sample` says so

A line stands for 1 / `sample` requests, so that the sum of that over the lines is the number of requests.
"""

from hashlib import blake2b
from typing import Final

from proxy.config import Config
from proxy.edge.record import Record

#: The rules that mend what a model or its server got wrong, as opposed to a difference between two APIs.
MENDING: Final = frozenset({"recover_leaked_calls", "close_cut_arguments", "cut_call_to_length"})

_FAILED: Final = 400
_DIGEST_BYTES: Final = 8


def is_logged(record: Record, config: Config) -> bool:
    """Return whether to write the line of a request that has ended; note in it for how many others it stands."""
    share = config.log_sample
    if share >= 1 or _is_telling(record, config.log_slow_s):
        return True
    record.sample = share
    return _place(record.request_id) < share


def _is_telling(record: Record, slow_s: float) -> bool:
    """Whether a line says something that the others do not. A stream may fail after its status 200."""
    return (
        record.status >= _FAILED
        or record.error is not None
        or bool(record.retried)
        or record.failover is not None
        or (0 < slow_s * 1000 <= record.duration_ms)
        or not MENDING.isdisjoint(record.rules)
    )


def _place(request_id: str) -> float:
    """
    Return where an id stands among all ids, from 0 up to 1.

    A digest and no die: a request that passes several proxies under one id has a line in all of them or in none.
    """
    digest = blake2b(request_id.encode("utf-8", "replace"), digest_size=_DIGEST_BYTES).digest()
    # Of 53 bits, so that the quotient is exact and never 1.
    return (int.from_bytes(digest) >> (_DIGEST_BYTES * 8 - 53)) / 2**53
