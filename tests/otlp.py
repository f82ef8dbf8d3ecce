"""
A receiver of spans: OTLP over HTTP in protobuf, as a collector has it on port 4318.

    async with Receiver() as receiver:
        ...  # otlp_endpoint=receiver.url
        spans = await receiver.trace(trace_id, "POST /v1/chat/completions", "queue")
"""

import asyncio
import gzip
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status

#: Generous: the machine may do something else.
DEADLINE_S = 30


class Span(NamedTuple):
    """A span as it came. Ids are hexadecimal, `parent_id` is "" for a root, times are nanoseconds."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    began: int
    ended: int
    is_failure: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


class Receiver:
    """A server on 127.0.0.1 that takes spans; it answers with `status`, once `may_answer` is set."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self.status = 200
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        #: every request that came, as it came
        self.bodies: list[bytes] = []
        self.heads: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.spans: list[Span] = []
        self._has_more = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._take), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.may_answer.set()
        await self._runner.cleanup()

    async def trace(self, trace_id: str, *names: str) -> list[Span]:
        """Return the spans of a trace when all with these names have come; a name may stand several times."""
        await self.wait_for(lambda: _has_all(names, [each.name for each in self.of(trace_id)]))
        return self.of(trace_id)

    def of(self, trace_id: str) -> list[Span]:
        """Return what has come of a trace so far."""
        return [span for span in self.spans if span.trace_id == trace_id]

    async def wait_for(self, condition: Any) -> None:
        """Return when `condition()` is true; it is asked whenever something has come."""
        async with asyncio.timeout(DEADLINE_S), self._has_more:
            await self._has_more.wait_for(condition)

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.bodies.append(body)
        self.heads.append({name.lower(): value for name, value in request.headers.items()})
        self.paths.append(request.path)
        async with self._has_more:
            self._has_more.notify_all()
        await self.may_answer.wait()
        if self.status == 200:
            async with self._has_more:
                self.spans.extend(spans_in(body))
                self._has_more.notify_all()
        return web.Response(status=self.status, content_type="application/x-protobuf")


def spans_in(body: bytes) -> Iterable[Span]:
    """Yield the spans of one request to a receiver."""
    text = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
    for of_resource in ExportTraceServiceRequest.FromString(text).resource_spans:
        resource = _plain(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield _span(span, resource)


def _span(span: Message, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        kind=Message.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        state=span.trace_state,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        is_failure=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_plain(span.attributes),
        resource=resource,
    )


def _plain(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _has_all(wanted: Iterable[str], found: list[str]) -> bool:
    left = list(found)
    for name in wanted:
        if name not in left:
            return False
        left.remove(name)
    return True
