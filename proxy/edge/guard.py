"""
The one place where a request's failures become answers.

    ProxyError             its own status and body; after the status line an SSE event
    aiohttp HTTPException  the same shape
    the client has left    no answer; logged as 499 client_disconnect
    anything else          traceback to the log, 500 without detail
"""

import asyncio
from typing import Final

from aiohttp import web

from proxy.edge.call import Call
from proxy.edge.connection import from_http_exception
from proxy.edge.doubt import refuse_doubtful
from proxy.edge.edge import Edge
from proxy.edge.record import note_client_left, note_error, write
from proxy.edge.routes import ROUTES, Dispatch
from proxy.edge.sampling import is_logged
from proxy.errors import ProxyError, ShuttingDown

#: The paths of requests that have spans, if any has.
_TRACED: Final = frozenset(path for path in ROUTES if path.startswith("/v1/"))


async def guard(edge: Edge, call: Call, dispatch: Dispatch) -> web.StreamResponse:
    """Answer by `dispatch`; whatever happens, in a way that the client can parse, with one line in the log."""
    tracer = edge.tracer
    if tracer is not None and call.record.path.rstrip("/") not in _TRACED:
        tracer = None
    call.trace.begin(call.request.headers, tracer)
    call.record.trace_id, call.record.span_id = call.trace.trace_id, call.trace.span_id
    task = edge.in_flight.enter(call.stopwatch)
    edge.metrics.begin()
    try:
        return await _answered(edge, call, dispatch)
    except asyncio.CancelledError:
        note_client_left(call.record)
        raise
    except ConnectionError:
        # Only writing to the client raises it: the upstream edge translates its own.
        note_client_left(call.record)
        return call.abandoned()
    finally:
        edge.in_flight.leave(task)
        call.record.duration_ms = call.stopwatch.ms()
        if is_logged(call.record, edge.config):
            write(edge.lines, call.record)
        edge.metrics.end()
        edge.metrics.observe(call.record)
        edge.recent.add(call.record)
        if tracer is not None and call.trace.is_recorded:
            tracer.finish(call.record, call.trace, call.stopwatch, call.request.scheme)


async def _answered(edge: Edge, call: Call, dispatch: Dispatch) -> web.StreamResponse:
    try:
        refuse_doubtful(call.request)
        return await dispatch(edge, call)
    except ProxyError as exc:
        error = exc
    except web.HTTPException as exc:
        error = from_http_exception(exc)
    except ConnectionError:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or not edge.in_flight.was_cut_off(task):
            raise
        task.uncancel()
        error = ShuttingDown("The proxy is shutting down.")
        error.headers["Retry-After"] = "1"
    except Exception:
        edge.logger.exception("unexpected_error", request_id=call.record.request_id)
        error = ProxyError(f"Internal error; the log of the proxy has it under {call.record.request_id}.")
    note_error(call.record, error)
    return await call.fail(error, edge.lines.mask)
