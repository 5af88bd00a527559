"""Metrics for Prometheus: one registry for each app, labels of few values, none of which a client wrote. See docs/operations.md."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from proxy.backends.narrative import events

_LONG: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """All of them. Its methods are quick and never raise; the public counters are incremented where something is counted."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def _counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"proxy_{name}", what, labels, registry=self.registry)

        def _histogram(name: str, what: str, label: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"proxy_{name}_seconds", what, (label,), buckets=buckets, registry=self.registry)

        self._requests = _counter("requests", "Requests.", "route", "model", "status")
        arrival = "From a request's arrival to the last byte of its answer."
        self._seconds = _histogram("request", arrival, "route", _LONG)
        stages = "Seconds of an answered request by where they went: queue, narrative or proxy."
        self._stages = _histogram("stage", stages, "stage", (*_SHORT[:6], *_LONG[1:]))
        self._jobs = _counter("jobs", "Jobs that ended, by how.", "model", "state")
        self._submitted = _counter("jobs_submitted", "Jobs submitted.", "model")
        self._ends_noticed = _counter("ends_noticed", "Ends of jobs, by who noticed first.", "source")
        delay = "From the end of a job, by Narrative's clock, to our notice of it."
        self._delay = _histogram("end_notice", delay, "source", _SHORT)
        reliable = "Whether a source shows the ends that others noticed first."
        self._trusted = Gauge("proxy_end_source_reliable", reliable, ("source",), registry=self.registry)
        self._calls = _counter("upstream_calls", "Calls to Narrative.", "operation", "status")
        self._call_seconds = _histogram("upstream_call", "Their duration.", "operation", _SHORT)
        self._repeats = _counter("upstream_retries", "Calls to Narrative that were repeated.", "operation")
        self._adopted = _counter("adoptions", "Jobs and answers that were taken up instead of paid again.", "how")
        self._tries = _counter("further_jobs", "Further jobs for the same answer.", "why")
        self.state_errors = _counter("state_errors", "Calls to the shared state that failed.")
        self.batch_lines = _counter("batch_lines", "Lines of batches that got their row.", "result")
        self.batches_ended = _counter("batches_ended", "Batches that ended, by how.", "status")
        self.batches_taken_over = _counter(
            "batches_taken_over", "Batches that went on here after their replica was killed."
        )
        self._occurrences: dict[type[events.Event], Counter] = {
            events.Resubmitted: _counter("jobs_resubmitted", "Submissions of unknown outcome that were made again."),
            events.Unreadable: _counter("unreadable_records", "Reads of a job whose record could not be read."),
            events.Abandoned: _counter("jobs_abandoned", "Jobs that nobody waits for any more."),
            events.Refused: _counter("requests_refused", "Submissions turned away under load."),
        }

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Register a gauge whose value is read for every scrape."""
        Gauge(name, what, registry=self.registry).set_function(value)

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
            case events.JobEnded(model=model, state=state, source=source, delay=delay):
                self._jobs.labels(model or "unknown", state).inc()
                self._ends_noticed.labels(source).inc()
                if delay is not None:
                    self._delay.labels(source).observe(delay)
            case events.ReliabilityChanged(source, reliable):
                self._trusted.labels(source).set(reliable)
            case events.EndedElsewhere():
                pass  # counted where it is waited for
            case _:
                self._occurrences[type(event)].inc()

    def repeated(self, how: str) -> None:
        """A client repeated a request: joined, replayed, adopted or mismatch."""
        self._adopted.labels(how).inc()

    def further_job(self, why: str) -> None:
        """Another job for the same answer: repair or simpler_form."""
        self._tries.labels(why).inc()

    def spent(self, stage: str, seconds: float) -> None:
        """Part of the time of a request that was answered."""
        self._stages.labels(stage).observe(max(seconds, 0.0))

    def request(self, route: str, model: str, status: int, seconds: float) -> None:
        """A request ended."""
        self._requests.labels(route, model, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


async def show_metrics(request: Request) -> Response:
    """`GET /metrics`: free of charge and of keys, like the health routes; keep it inside."""
    metrics: Metrics = request.app.state.metrics
    return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)
