"""
How far a streamed answer is, and what may come next.

    WAITING --CHUNK--> ANSWERING --FINISH--> FINISHED --DONE--> CLOSED
     ^ | |               | |  |  ^             |  ^
     | | |         CHUNK +-|--+  +----CHUNK----+  |
     | | +----------FINISH-|----------------------+
     | +-----BREAK----+    |
     |                v    |
     +---RESUME--- BROKEN <+ BREAK

    EXTRA changes nothing. FAULT leads from every state before CLOSED, and from BROKEN, to FAILED.

CHUNK is an event of a choice, FINISH one after which every choice seen so far has its finish reason, EXTRA one without
choices (usage). FAULT is an error, sent by the upstream or found here: the client gets it as an event, then `[DONE]`.
BREAK is an error that means the upstream is gone, where someone may have another one go on: RESUME says that its stream
follows. Nothing can go on once a finish reason is out.
The upstream's end of data (EOF) is in the table for CLOSED, FAILED and BROKEN only, and `[DONE]` for FINISHED only: a
cut answer never looks like a whole one, and no finish reason is made up.
"""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from proxy.errors import ProxyError, UpstreamDisconnected, UpstreamError, UpstreamProtocolError, UpstreamRejected


class State(IntEnum):
    """How far the stream is. From CLOSED on nothing more is taken."""

    WAITING = 0
    ANSWERING = 1
    FINISHED = 2
    CLOSED = 3
    FAILED = 4
    BROKEN = 5


class Input(IntEnum):
    """What came."""

    CHUNK = 0
    FINISH = 1
    EXTRA = 2
    DONE = 3
    FAULT = 4
    EOF = 5
    BREAK = 6
    RESUME = 7


TRANSITIONS: Final[Mapping[tuple[State, Input], State]] = MappingProxyType(
    {
        (State.WAITING, Input.CHUNK): State.ANSWERING,
        (State.WAITING, Input.FINISH): State.FINISHED,
        (State.WAITING, Input.EXTRA): State.WAITING,
        (State.WAITING, Input.FAULT): State.FAILED,
        (State.WAITING, Input.BREAK): State.BROKEN,
        (State.ANSWERING, Input.CHUNK): State.ANSWERING,
        (State.ANSWERING, Input.FINISH): State.FINISHED,
        (State.ANSWERING, Input.EXTRA): State.ANSWERING,
        (State.ANSWERING, Input.FAULT): State.FAILED,
        (State.ANSWERING, Input.BREAK): State.BROKEN,
        (State.FINISHED, Input.CHUNK): State.ANSWERING,
        (State.FINISHED, Input.FINISH): State.FINISHED,
        (State.FINISHED, Input.EXTRA): State.FINISHED,
        (State.FINISHED, Input.DONE): State.CLOSED,
        (State.FINISHED, Input.FAULT): State.FAILED,
        (State.CLOSED, Input.EOF): State.CLOSED,
        (State.FAILED, Input.EOF): State.FAILED,
        (State.BROKEN, Input.EOF): State.BROKEN,
        (State.BROKEN, Input.RESUME): State.WAITING,
        (State.BROKEN, Input.FAULT): State.FAILED,
    }
)


#: The codes that UpstreamProtocolError, UpstreamTimeout and UpstreamError have by themselves (proxy/errors.py).
_BREAKS: Final = ("upstream_disconnected", "upstream_timeout", "upstream_error")


def next_state(state: State, came: Input) -> State:
    """
    Return the state after `came`.

    Raises:
        UpstreamProtocolError: the table has no such row.
    """
    try:
        return TRANSITIONS[state, came]
    except KeyError:
        error = UpstreamDisconnected if came is Input.EOF else UpstreamProtocolError
        raise error(
            f"The model server's answer is not complete: its stream had {came.name} while {state.name}."
        ) from None


def is_break(error: ProxyError) -> bool:
    """
    Whether `error` means that the upstream is gone or gives up, so that another may say what it could not.

    vLLM 0.32 whose engine dies says so in an event, with status 500, and ends the stream. An answer in a form that
    cannot be read has a `code` of its own, and is what another upstream of the same kind would send too.
    """
    if isinstance(error, UpstreamRejected):
        return error.status >= 500
    return isinstance(error, UpstreamError) and error.code in _BREAKS
