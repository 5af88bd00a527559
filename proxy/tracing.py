"""Traces of requests and their jobs for OpenTelemetry, and all names in them.

    POST /v1/chat/completions           server span: continues the client's `traceparent`
    └─ chat anthropic.claude-haiku-4.5  client span, one a job: from its submission to the notice of its end

The span of a job is made when it ends. Until then the request holds its ids, which are stored with the submission too: a retry that takes
up the job links to them, and when the replica that submitted it was killed, another one that learns of the end sends the span in its place.
The SDK is imported only where traces are exported. Source: OpenTelemetry's semantic conventions for HTTP and for generative AI.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import orjson
import structlog
from msgspec import to_builtins

from proxy import __version__
from proxy.logs import STAGES, RequestRecord, current_request
from proxy.settings import TracingSettings
from proxy.storage import Store

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

log = structlog.get_logger(__name__)

_NAME: Final = "narrative-chat-proxy"
_KEPT: Final = "span:"
_MAX_CONTENT: Final = 64 * 1024
"""Bytes of a prompt or an output in a span."""


def current_span() -> str:
    """`traceparent` of the current request's server span; "" where there is none."""
    if (span := current_request().span) is None:
        return ""
    context: SpanContext = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def link_current(traceparent: str) -> None:
    """The current request repeats what that span did, "" for none: link its server span to it."""
    if traceparent and (span := current_request().span) is not None:
        span.add_link(_context_of(traceparent))


class JobSpan:
    """The client span of one job, before it is made. As a context manager it ends with the error that leaves it.

    `ids` are as in `traceparent`, with the id of its parent behind them.
    """

    def __init__(self, tracer: "Tracer", attributes: dict[str, Any]) -> None:
        self._tracer, self._attributes = tracer, attributes
        _, trace_id, parent_id, flags = (current_span() or f"00-{secrets.token_hex(16)}--01").split("-")
        self.ids = f"00-{trace_id}-{secrets.token_hex(8)}-{flags}-{parent_id}"
        self._started, self._noticed = time.time_ns(), 0
        self._job_id, self._original, self._prompt, self._made = "", "", "", False

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self.end(str(getattr(error, "code", None) or getattr(error, "type", "abandoned")))

    def asks(self, messages: Iterable[Any]) -> None:
        """The prompt, a `proxy.backends.narrative.types.RunMessage` a turn; left out unless contents are wanted."""
        if self._tracer.contents:
            turns = map(to_builtins, messages)
            self._prompt = _bounded([{"role": turn["role"], "parts": [*map(_part, turn["content"])]} for turn in turns])

    def submitted(self, submission: Any, queued: float) -> None:
        """The job is known, after `queued` seconds in a queue: a `proxy.backends.narrative.submit.Submission`."""
        self._job_id = job_id = submission.job.id
        self._original = "" if submission.span == self.ids else submission.span
        if submission.sent is not None:
            ago = asyncio.get_running_loop().time() - submission.sent  # whole milliseconds, in uvloop
            self._started = max(self._started, time.time_ns() - round(ago * 1e9))
        self._attributes |= {"gen_ai.response.id": job_id, "narrative.job.id": job_id}
        self._attributes["narrative.job.taken_up"] = not submission.new
        self._attributes["proxy.queue_ms"] = round(queued * 1000, 1)
        link_current(self._original)
        if submission.new:
            self._tracer.keep(job_id, self.ids, self._started, self._attributes)

    def noticed(self, job: Any) -> None:
        """The end of the job was noticed just now: a `proxy.backends.narrative.types.Job`."""
        self._noticed = time.time_ns()
        self._attributes |= {"narrative.job.noticed_by": job.noticed_by, "narrative.job.state": str(job.state)}
        if job.created_at and job.ended_at:
            ran = (job.ended_at - job.created_at).total_seconds()  # by Narrative's clock
            self._attributes["narrative.job.run_ms"] = round(ran * 1000, 1)
        if job.result is not None:
            self._attributes["gen_ai.usage.input_tokens"] = job.result.usage.prompt_tokens
            self._attributes["gen_ai.usage.output_tokens"] = job.result.usage.completion_tokens

    def answered(self, response_id: str, input_tokens: int, output_tokens: int) -> None:
        """What is known of the answer of an upstream without jobs."""
        usage = {"gen_ai.usage.input_tokens": input_tokens, "gen_ai.usage.output_tokens": output_tokens}
        self._attributes |= {"gen_ai.response.id": response_id, **usage}

    def end(self, error: str = "", finish_reason: str = "", result: Any = None) -> None:
        """Make the span, which ends when the job's end was noticed, else now. Only the first call counts."""
        if self._made:
            return
        self._made, attributes = True, self._attributes
        if finish_reason:
            attributes["gen_ai.response.model"] = attributes["gen_ai.request.model"]
            attributes["gen_ai.response.finish_reasons"] = [finish_reason]
        if self._prompt:
            attributes["gen_ai.input.messages"] = self._prompt
        if result is not None and self._tracer.contents:
            part = {"type": "text", "content": _bounded(result.structured_output)}
            message = {"role": "assistant", "parts": [part], "finish_reason": finish_reason}
            attributes["gen_ai.output.messages"] = _bounded([message])
        self._tracer.send(self.ids, (self._started, self._noticed or time.time_ns()), attributes, error, self._original)
        if self._job_id:
            self._tracer.settle(self._job_id, "replica")


def job_span(tracer: "Tracer", model: str, request: Any, provider: str = "narrative") -> JobSpan:
    """The span of what is about to be submitted for the current request, a `proxy.inference.request.Request`."""
    about = {"operation.name": "chat", "provider.name": provider, "request.model": model}
    asked = {name: getattr(request.sampling, name) for name in ("temperature", "top_p", "top_k")}
    asked |= {"max_tokens": request.max_tokens, "stop_sequences": request.sampling.stop or None}
    asked["choice.count"] = request.choices if request.choices > 1 else None
    about |= {f"request.{name}": value for name, value in asked.items() if value is not None}
    about["output.type"] = "text" if request.output is None else "json"
    return JobSpan(tracer, {f"gen_ai.{name}": value for name, value in about.items()})


class Tracer:
    """Makes spans and sends them, while it is `opened`; with prompts and outputs where `contents` says so."""

    def __init__(self, settings: TracingSettings) -> None:
        self.contents = settings.contents
        self._endpoint = f"{(settings.endpoint or '').rstrip('/')}/v1/traces"
        self._given: tuple[int, int] | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    @asynccontextmanager
    async def opened(self, store: Store) -> AsyncIterator[None]:
        """Import the SDK; at the end, send what is left. A shared store keeps what other replicas need to make the span of a job."""
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        tracer = self

        class _Ids(RandomIdGenerator):
            def generate_trace_id(self) -> int:
                return tracer._given[0] if tracer._given else super().generate_trace_id()

            def generate_span_id(self) -> int:
                return tracer._given[1] if tracer._given else super().generate_span_id()

        resource = Resource.create({"service.version": __version__, "service.instance.id": store.replica})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": _NAME}))
        provider = TracerProvider(resource=resource, id_generator=_Ids(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(self._endpoint)))
        self._api, self._propagator = trace, TraceContextTextMapPropagator()
        self._tracer, self._store = provider.get_tracer(_NAME, __version__), store
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.to_thread(provider.shutdown)

    def start(self, request: RequestRecord, headers: Mapping[str, str]) -> None:
        """Begin the server span of a request; names of headers are in lower case."""
        nothing = self._api.set_span_in_context(self._api.INVALID_SPAN)
        attributes = {"http.request.method": request.method, "proxy.request_id": request.request_id}
        parent, kind = self._propagator.extract(headers, nothing), self._api.SpanKind.SERVER
        request.span = span = self._tracer.start_span(request.method, parent, kind, attributes)
        request.trace_id = f"{span.get_span_context().trace_id:032x}"

    def finish(self, request: RequestRecord, route: str, path: str) -> None:
        """End it; `route` is as it is written in the code, "" where none matched, and `path` one that may be shown."""
        span: Span = request.span
        status = request.status or 500
        request.span = None
        known = {"http.route": route, "url.path": path, "proxy.key_id": request.key_id, "proxy.repeat": request.repeat}
        usage = {"proxy.input_tokens": request.input_tokens, "proxy.output_tokens": request.output_tokens}
        stages = {f"proxy.{stage}_ms": round(getattr(request, stage) * 1000, 1) for stage in STAGES}
        span.set_attributes({name: value for name, value in (known | usage | stages).items() if value})
        span.set_attribute("http.response.status_code", status)
        span.update_name(f"{request.method} {route}".strip())
        self._end(span, str(status) if status >= 500 else "")

    def send(
        self, ids: str, times: tuple[int, int], attributes: Mapping[str, Any], error: str = "", original: str = ""
    ) -> None:
        """Make the span of a job; its start and end are in nanoseconds since 1970, `original` are the ids of the one it links to, or ""."""
        api, (_, trace_id, span_id, flags, parent_id) = self._api, ids.split("-")
        above = _context_of(f"00-{trace_id}-{parent_id}-{flags}") if parent_id else api.INVALID_SPAN_CONTEXT
        parent = api.set_span_in_context(api.NonRecordingSpan(above))
        links = [api.Link(_context_of(original))] if original else ()
        name = f"{attributes['gen_ai.operation.name']} {attributes['gen_ai.request.model']}"
        self._given = int(trace_id, 16), int(span_id, 16)
        span = self._tracer.start_span(name, parent, api.SpanKind.CLIENT, attributes, links, times[0])
        self._given = None
        self._end(span, error, times[1])

    def _end(self, span: "Span", error: str, at: int | None = None) -> None:
        if error:
            span.set_attribute("error.type", error)
            span.set_status(self._api.StatusCode.ERROR)
        span.end(at)

    # ------------------------------------------------------------ spans that another replica may have to make

    def keep(self, job_id: str, ids: str, started: int, attributes: dict[str, Any]) -> None:
        """Store the span of a job that was submitted."""
        if self._store.shared:
            kept = {"ids": ids, "started": started, "attributes": attributes}
            self._do(self._store.put(_KEPT + job_id, self._store.replica, json.dumps(kept), ttl_s=3600.0))

    def settle(self, job_id: str, noticed_by: str) -> None:
        """A job or its span ended. If a replica submitted the job that was killed, one of those who call this makes its span."""
        if self._store.shared and len(self._tasks) < 2_000:
            self._do(self._settle(_KEPT + job_id, noticed_by))

    async def _settle(self, name: str, noticed_by: str) -> None:
        ended, store = time.time_ns(), self._store
        for owner, text in (await store.read(name)).items():
            others = owner != store.replica
            if others and await store.alive(owner):
                await asyncio.sleep(10.0)  # one that was killed no longer counts as alive then
            if not (others and await store.alive(owner)) and await store.remove(name) and others:
                kept = json.loads(text)
                attributes = {**kept["attributes"], "narrative.job.noticed_by": noticed_by}
                self.send(kept["ids"], (kept["started"], ended), attributes)

    def _do(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def tracer_of(settings: TracingSettings) -> Tracer | None:
    """The tracer where an endpoint is set; None, with a warning, where the SDK is not installed."""
    if settings.endpoint is None:
        return None
    with suppress(ModuleNotFoundError):
        if find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http"):
            return Tracer(settings)
    log.warning("traces are not exported: OTEL_EXPORTER_OTLP_ENDPOINT needs the extra `narrative-chat-proxy[otel]`")
    return None


def _context_of(ids: str) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace_id, span_id, flags = ids.split("-")[:4]
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def _part(block: dict[str, Any]) -> dict[str, Any]:
    if block["type"] == "tool_use":
        return {"type": "tool_call", "id": block["tool_use_id"], "name": block["name"], "arguments": block["input"]}
    if block["type"] == "tool_result":
        return {"type": "tool_call_response", "id": block["tool_use_id"], "response": block["content"]}
    return {"type": "text", "content": block["text"]}


def _bounded(value: object) -> str:
    try:
        return orjson.dumps(value)[:_MAX_CONTENT].decode("utf-8", "ignore")
    except TypeError:  # integers beyond 64 bits, lone surrogates
        return json.dumps(value)[:_MAX_CONTENT]
