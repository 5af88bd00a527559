"""A receiver of traces by OTLP over HTTP, for tests: keeps the spans that it gets."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.serving import serve
from tests.waiting import until


@dataclass
class Received:
    """A span as it came, with ids in hexadecimal; `links` are (trace, span)."""

    name: str
    kind: str
    trace: str
    span: str
    parent: str
    started: int
    ended: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: list[tuple[str, str]]

    def __getitem__(self, name: str) -> Any:
        return self.attributes.get(name)


@dataclass
class Receiver:
    """Where the spans arrive."""

    url: str = ""
    spans: list[Received] = field(default_factory=list)

    async def wait_for(self, number: int) -> list[Received]:
        """So many spans or more, in the order of their start."""
        await until(lambda: len(self.spans) >= number)
        return sorted(self.spans, key=lambda span: span.started)

    def take(self, body: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {each.key: _value(each.value) for each in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += [_received(span, resource) for span in scope.spans]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A running one."""
    received = Receiver()

    async def traces(request: Request) -> Response:
        assert request.headers["content-type"] == "application/x-protobuf"
        received.take(await request.body())
        return Response(media_type="application/x-protobuf")

    with serve(Starlette(routes=[Route("/v1/traces", traces, methods=["POST"])])) as url:
        received.url = url
        yield received


def _received(span: Span, resource: dict[str, Any]) -> Received:
    return Received(
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == 2,
        {each.key: _value(each.value) for each in span.attributes},
        resource,
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)
