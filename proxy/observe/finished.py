"""What metrics want to know of a request that is over."""

from typing import Protocol


class Finished(Protocol):
    """What is read of a request that is over. Times are milliseconds, None is "did not happen"."""

    path: str
    model: str | None
    stream: bool | None
    status: int
    error: str | int | None
    error_type: str | None
    retried: tuple[str, ...]
    upstream_errors: tuple[str, ...]
    failover: str | None
    limit: str | None
    cache: str | None
    bytes_in: int
    bytes_out: int
    events: int
    duration_ms: float
    ttft_ms: float | None
    queue_ms: float | None
    upstream_ms: float | None
    rules: tuple[str, ...]
    tokens_in: int | None
    tokens_out: int | None
    calls_recovered: int
    calls_malformed: tuple[str, ...]
