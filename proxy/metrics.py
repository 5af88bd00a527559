"""Metrics for Prometheus: one registry for each app, labels of few values, none of which a client wrote. See docs/operations.md."""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from proxy.backends.narrative import events

_LONG: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """All of them. Its methods are quick and never raise."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self._requests = Counter("proxy_requests", "Requests.", ("route", "model", "status"), registry=r)
        self._seconds = Histogram(
            "proxy_request_seconds",
            "From a request's arrival to the last byte of its answer.",
            ("route",),
            buckets=_LONG,
            registry=r,
        )
        self._stages = Histogram(
            "proxy_stage_seconds",
            "Seconds of an answered request by where they went: queue, narrative or proxy.",
            ("stage",),
            buckets=(*_SHORT[:6], *_LONG[1:]),
            registry=r,
        )
        self._jobs = Counter("proxy_jobs", "Jobs that ended, by how.", ("model", "state"), registry=r)
        self._submitted = Counter("proxy_jobs_submitted", "Jobs submitted.", ("model",), registry=r)
        self._news = Counter("proxy_news", "Ends of jobs, by who noticed first.", ("source",), registry=r)
        self._delay = Histogram(
            "proxy_news_delay_seconds",
            "From the end of a job, by Narrative's clock, to our notice of it.",
            ("source",),
            buckets=_SHORT,
            registry=r,
        )
        self._trusted = Gauge(
            "proxy_news_source_reliable",
            "Whether a source shows the ends that others noticed first.",
            ("source",),
            registry=r,
        )
        self._calls = Counter("proxy_upstream_calls", "Calls to Narrative.", ("operation", "status"), registry=r)
        self._call_seconds = Histogram(
            "proxy_upstream_call_seconds", "Their duration.", ("operation",), buckets=_SHORT, registry=r
        )
        self._repeats = Counter(
            "proxy_upstream_retries", "Calls to Narrative that were repeated.", ("operation",), registry=r
        )
        self._resubmitted = Counter(
            "proxy_jobs_resubmitted", "Submissions with an unknown outcome that were made again.", registry=r
        )
        self._adopted = Counter(
            "proxy_adoptions", "Jobs and answers that were taken up instead of paid again.", ("how",), registry=r
        )
        self._tries = Counter("proxy_further_jobs", "Further jobs for the same answer.", ("why",), registry=r)
        self._unreadable = Counter(
            "proxy_unreadable_records", "Reads of a job whose record could not be read.", registry=r
        )
        self._abandoned = Counter("proxy_jobs_abandoned", "Jobs that nobody waits for any more.", registry=r)
        self._refused = Counter("proxy_requests_refused", "Submissions turned away under load.", registry=r)
        self._state_errors = Counter("proxy_state_errors", "Calls to the shared state that failed.", registry=r)
        self._watched: dict[str, tuple[str, Callable[[], float]]] = {}
        r.register(_Watched(self._watched))

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Register a gauge whose value is read for every scrape."""
        self._watched[name] = (what, value)

    def observe(self, event: events.Event) -> None:
        """An event of the job engine."""
        match event:
            case events.UpstreamCalled(operation, status, seconds):
                self._calls.labels(operation, "none" if status is None else str(status)).inc()
                self._call_seconds.labels(operation).observe(seconds)
            case events.Retried(operation):
                self._repeats.labels(operation).inc()
            case events.Queued(seconds):
                self.spent("queue", seconds)
            case events.Submitted(model=model, adopted=adopted):
                self._submitted.labels(model).inc()
                if adopted:
                    self._adopted.labels("tag").inc()
            case events.Resubmitted():
                self._resubmitted.inc()
            case events.Ended(model=model, state=state, source=source, delay=delay):
                self._jobs.labels(model or "unknown", state).inc()
                self._news.labels(source).inc()
                if delay is not None:
                    self._delay.labels(source).observe(delay)
            case events.Unreadable():
                self._unreadable.inc()
            case events.Abandoned():
                self._abandoned.inc()
            case events.Refused():
                self._refused.inc()
            case events.ReliabilityChanged(source, reliable):
                self._trusted.labels(source).set(reliable)

    def repeated(self, how: str) -> None:
        """A client repeated a request: joined, replayed, adopted or mismatch."""
        self._adopted.labels(how).inc()

    def further_job(self, why: str) -> None:
        """Another job for the same answer: repair or simpler_form."""
        self._tries.labels(why).inc()

    def spent(self, stage: str, seconds: float) -> None:
        """Part of the time of a request that was answered."""
        self._stages.labels(stage).observe(max(seconds, 0.0))

    def state_failed(self) -> None:
        """A call to the shared state failed, or timed out."""
        self._state_errors.inc()

    def request(self, route: str, model: str, status: int, seconds: float) -> None:
        """A request ended."""
        self._requests.labels(route, model, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All values, in Prometheus's text format."""
        return generate_latest(self.registry)


class _Watched(Collector):
    def __init__(self, watched: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self._watched = watched

    def collect(self) -> Iterable[GaugeMetricFamily]:
        for name, (what, value) in self._watched.items():
            yield GaugeMetricFamily(name, what, value())


async def show_metrics(request: Request) -> Response:
    """`GET /metrics`: free of charge and of keys, like the health routes; keep it inside."""
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
