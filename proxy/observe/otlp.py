"""
Spans to an OTLP receiver, by OpenTelemetry's SDK: its sampler, its batches, its exporter, and what they read from the
environment. This module needs the packages of the extra `otel`.

    finish() -> a queue of a bounded length -> a thread of each worker -> POST .../v1/traces
                '- full: dropped                         '- refused or gone: tried again, then failed

What is dropped or failed is counted. No span exists while a request runs: they are made of its record when it is over,
so that one which is not sampled costs the question whether it is.
"""

import asyncio
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from logging import NullHandler, getLogger
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from proxy import __version__
from proxy.observe.spans import Origin, Piece, Request, Watch, pieces_of
from proxy.observe.tracing import Count, Logger
from proxy.wire.trace_context import SAMPLED, TraceContext, new_span_id

#: Arbitrary: how long the end of a process may wait for the receiver. Less than what the supervisor has for such
#: (process/ending.py, MARGIN_S).
FLUSH_S: Final = 3.0

_NAME: Final = "devstral-proxy"
_KINDS: Final = {kind.name: kind for kind in SpanKind}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_FINE: Final = Status(StatusCode.UNSET)
_FAILED: Final = Status(StatusCode.ERROR)


class OtlpTracer:
    """See `Tracer`. It belongs to one process and one loop; `close()` at the end."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], queue: int, logger: Logger, count: Count) -> None:
        _quiet()
        self._logger = logger
        self._count = count
        self._queue = queue
        self._handed = 0
        self._resource = _resource()
        self._scope = InstrumentationScope(_NAME, __version__)
        # Only its sampler: it reads OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG.
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler
        self._exporter = _Telling(endpoint, headers, count, partial(self._tell, asyncio.get_running_loop()))
        self._processor = BatchSpanProcessor(self._exporter)

    def samples(self, trace_id: str, parent: TraceContext | None) -> bool:
        """See `Tracer`."""
        context = _NO_PARENT if parent is None else _PARENTS[parent.flags & SAMPLED]
        result = self._sampler.should_sample(context, int(trace_id, 16), "", SpanKind.SERVER)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def finish(self, request: Request, origin: Origin, watch: Watch, scheme: str) -> None:
        """See `Tracer`."""
        now, now_ns = time.perf_counter(), time.time_ns()
        pieces = list(pieces_of(request, origin, watch, now, scheme))
        # Never more than the SDK's queue takes: it drops without a word.
        if self._handed - self._exporter.taken + len(pieces) > self._queue:
            self._count("dropped", len(pieces))
            return
        self._handed += len(pieces)
        for span in self._spans(pieces, origin, now_ns - int(now * 1e9)):
            self._processor.on_end(span)

    async def close(self) -> None:
        """See `Tracer`."""
        loop = asyncio.get_running_loop()
        is_over = asyncio.Event()

        def flush() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(is_over.set)

        # A daemon, as the SDK's own thread is: the process does not wait for it.
        threading.Thread(target=flush, name="otlp-flush", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_S):
                await is_over.wait()
        except TimeoutError:
            self._exporter.shutdown()
        if lost := self._handed - self._exporter.taken:
            self._count("dropped", lost)
            self._logger.warning("spans_lost", spans=lost)

    def _spans(self, pieces: Sequence[Piece], origin: Origin, epoch_ns: int) -> Sequence[ReadableSpan]:
        parent = origin.parent
        trace_id, state = int(origin.trace_id or "", 16), _state_of(parent)
        of_client = None if parent is None else _span_context(parent, state)
        contexts: dict[str | None, SpanContext | None] = {None: of_client}
        spans = []
        for piece in pieces:
            span_id = piece.span_id or new_span_id()
            context = SpanContext(trace_id, int(span_id, 16), False, _SAMPLED, state)
            contexts[span_id] = context
            spans.append(
                ReadableSpan(
                    piece.name,
                    context,
                    contexts[piece.parent_id],
                    self._resource,
                    piece.attributes,
                    kind=_KINDS[piece.kind],
                    status=_FAILED if piece.is_failure else _FINE,
                    start_time=epoch_ns + int(piece.began * 1e9),
                    end_time=epoch_ns + int(piece.ended * 1e9),
                    instrumentation_scope=self._scope,
                )
            )
        return spans

    def _tell(self, loop: asyncio.AbstractEventLoop, is_up: bool, reason: str) -> None:
        """Log from the loop's thread that the receiver is away, or back."""
        line = (
            partial(self._logger.info, "otlp_up") if is_up else partial(self._logger.warning, "otlp_down", error=reason)
        )
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(line)


class _Telling(SpanExporter):
    """The SDK's exporter, which tells how many spans it has taken, and what became of them. For the SDK's thread."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], count: Count, tell: Any) -> None:
        self.taken = 0
        self._count = count
        self._tell = tell
        self._is_up = True
        self._reason = ""
        import requests  # not above: it binds a socket while it is imported, to see whether there is IPv6

        session = requests.Session()
        session.hooks["response"].append(self._note)
        self._inner = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers), session=session)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.taken += len(spans)
        # of the exporter's own words none is logged: they may quote the URL
        self._reason = "no answer"
        result = self._inner.export(spans)
        is_up = result is SpanExportResult.SUCCESS
        self._count("exported" if is_up else "failed", len(spans))
        if is_up is not self._is_up:
            self._is_up = is_up
            self._tell(is_up, self._reason)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()  # type: ignore[no-untyped-call]

    def _note(self, response: Any, *_: Any, **__: Any) -> None:
        self._reason = f"status {response.status_code}"


def _quiet() -> None:
    """Keep what the exporter logs to itself: it quotes headers that it cannot read, and URLs."""
    library = getLogger("opentelemetry")
    library.propagate = False
    if not library.handlers:
        library.addHandler(NullHandler())


def _resource() -> Resource:
    """Return what this process is called: by OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, else by our own name."""
    made = Resource({SERVICE_VERSION: __version__, "process.pid": os.getpid()})
    made = made.merge(Resource.create())
    if str(made.attributes[SERVICE_NAME]).startswith("unknown_service"):
        made = made.merge(Resource({SERVICE_NAME: _NAME}))
    return _Only(made.attributes, made.schema_url)


class _Only(Resource):
    """The SDK takes the hash of a span's resource for each span, by way of its JSON; this takes a fifth off a span."""

    __hash__ = object.__hash__


def _span_context(parent: TraceContext, state: TraceState | None) -> SpanContext:
    flags = TraceFlags(parent.flags)
    return SpanContext(int(parent.trace_id, 16), int(parent.parent_id, 16), True, flags, state)


_NO_PARENT: Final = Context()
#: Of a parent the SDK's samplers ask nothing but whether it is sampled: a new one for each request would cost 6 us.
_PARENTS: Final = tuple(
    set_span_in_context(NonRecordingSpan(_span_context(TraceContext("1", "1", flags), None)), _NO_PARENT)
    for flags in (0, SAMPLED)
)


def _state_of(parent: TraceContext | None) -> TraceState | None:
    return None if parent is None or parent.state is None else TraceState.from_header([parent.state])
