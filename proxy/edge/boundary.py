"""
The one place where failures become answers.

    ProxyError             its own status and body; after the status line an SSE event
    aiohttp HTTPException  the same shape
    the client has left    no answer; logged as 499 client_disconnect
    anything else          traceback to the log, 500 without detail

`guard` holds a request's handler. `Connection` holds what aiohttp answers by itself, before a handler is reached:
bytes that are not HTTP, and targets that its router has no place for.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import http_exceptions, web
from structlog.typing import FilteringBoundLogger

from proxy.edge.call import JSON, Call
from proxy.edge.in_flight import InFlight
from proxy.edge.record import Record, note_client_left, note_error, write
from proxy.errors import ClientError, HeadersTooLarge, MalformedHttp, ProxyError, ShuttingDown, error_body
from proxy.wire import headers as wire

Endpoint = Callable[[Call], Awaitable[web.StreamResponse]]


async def guard(
    endpoint: Endpoint, call: Call, in_flight: InFlight, logger: FilteringBoundLogger
) -> web.StreamResponse:
    """Run `endpoint`; whatever happens, give the client an answer it can parse, and write one line to the log."""
    task = in_flight.enter()
    if in_flight.is_draining:
        call.close_after()
    try:
        return await _answered(endpoint, call, in_flight, logger)
    except asyncio.CancelledError:
        note_client_left(call.record)
        raise
    except ConnectionError:
        # Only writing to the client raises it: the upstream edge translates its own.
        note_client_left(call.record)
        return call.abandoned()
    finally:
        in_flight.leave(task)
        call.record.duration_ms = call.stopwatch.ms()
        write(logger, call.record)


async def _answered(
    endpoint: Endpoint, call: Call, in_flight: InFlight, logger: FilteringBoundLogger
) -> web.StreamResponse:
    try:
        return await endpoint(call)
    except ProxyError as exc:
        error = exc
    except web.HTTPException as exc:
        error = _from_http_exception(exc)
    except ConnectionError:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or not in_flight.was_cut_off(task):
            raise
        task.uncancel()
        error = ShuttingDown("The proxy is shutting down.")
        error.headers["Retry-After"] = "1"
    except Exception:
        logger.exception("unexpected_error", request_id=call.record.request_id)
        error = ProxyError(f"Internal error; the log of the proxy has it under {call.record.request_id}.")
    note_error(call.record, error)
    return await call.fail(error)


def _from_http_exception(exc: web.HTTPException) -> ProxyError:
    code = exc.reason.lower().replace(" ", "_")
    error = ClientError(exc.reason, code=code) if exc.status < 500 else ProxyError(exc.reason, code=code)
    error.status = exc.status
    return error


class Connection(web.RequestHandler):
    """
    aiohttp's side of one client connection, with this project's shape for the answers that aiohttp makes itself.

    `web.RequestHandler` is exported and its two methods here have public names; they are not in aiohttp's documents,
    so tests/edge/test_bad_http.py holds them to what is used here.
    """

    def __init__(self, manager: web.Server, *, proxy_logger: FilteringBoundLogger, **options: Any) -> None:
        super().__init__(manager, **options)
        self._proxy_logger = proxy_logger

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that could not be parsed. aiohttp's own message quotes them, so it is not used."""
        error: ProxyError = MalformedHttp("The request is not valid HTTP/1.1.")
        if isinstance(exc, http_exceptions.LineTooLong):
            error = HeadersTooLarge(f"The request line or a header is over the limit of {self.max_field_size} bytes.")
        return self._refused(request, error)

    def finish_response(self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None) -> Any:
        """Send the answer; one that aiohttp's router raised is put into this project's shape first."""
        if isinstance(resp, web.HTTPException):
            resp = self._refused(request, _from_http_exception(resp))
        return super().finish_response(request, resp, start_time)

    def _refused(self, request: web.BaseRequest, error: ProxyError) -> web.Response:
        peer = self.peername
        record = Record(
            request_id=wire.request_id(None),
            client_ip=peer[0] if isinstance(peer, tuple) else None,
            method="",
            path="",
            status=error.status,
        )
        note_error(record, error)
        write(self._proxy_logger, record)
        headers = {"Server": "devstral-proxy", "x-request-id": record.request_id, "Content-Type": JSON}
        response = web.Response(body=error_body(error), status=error.status, headers=headers)
        response.force_close()
        return response
