"""What the relay may do with an answer of the model server, whichever way it came."""

import math
from collections.abc import Callable
from typing import Protocol

import msgspec

from proxy.errors import UpstreamProtocolError

#: Takes a piece, b"" at the answer's proper end; returns whether it wants more.
Sink = Callable[[bytes], bool]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """
    Seconds. `math.inf` is no limit.

        first byte       from the start of the request to the first bytes of the answer's body
        between bytes    every silence after that
        total            the whole exchange, the client's reading included

    A silence counts only while the proxy waits for the model server: a slow client is not the server's fault. A loop
    that was busy for longer than a limit runs its timers before it reads its sockets, so a silence that is over its
    limit is looked at twice, and only one that lasted through a turn of the loop counts.
    """

    first_byte_s: float
    between_bytes_s: float
    total_s: float = math.inf


class Answer(Protocol):
    """An answer whose status line has come. Read it to its end, or close it."""

    status: int
    content_type: str | None
    retry_after: str | None

    async def read_some(self) -> bytes:
        """
        Return the bytes that have come, or b"" at the answer's proper end.

        Raises:
            UpstreamProtocolError: the connection broke first.
            UpstreamTimeout: a timer rang.
        """

    async def settle(self) -> None:
        """Let the connection of an answer that is complete be used again, if the answer's end comes in a moment."""

    def close(self) -> None:
        """Close the connection now, unless the answer has been read to its end."""


async def read_whole(answer: Answer, limit: int) -> bytes:
    """
    Return the whole body.

    Raises:
        UpstreamProtocolError: it is longer than `limit` bytes, or the connection broke.
    """
    body = await read_at_most(answer, limit + 1)
    if len(body) > limit:
        raise UpstreamProtocolError(f"The answer of the model server is over the limit of {limit} bytes.")
    return body


async def read_at_most(answer: Answer, limit: int) -> bytes:
    """Return the body's first `limit` bytes."""
    body = await answer.read_some()
    if not body:
        return body
    pieces, length = [body], len(body)
    while length < limit and (piece := await answer.read_some()):
        pieces.append(piece)
        length += len(piece)
    return b"".join(pieces)[:limit] if len(pieces) > 1 else body[:limit]
