"""Runs of a backend as responses, whole or streamed, and the headers that report how a request was served; for every API."""

import math
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import Response

from proxy.api.http.headers import heartbeat_interval
from proxy.api.http.responses import COMMENT, Delivery, EventStream, Pace, json_response
from proxy.errors import ProxyError
from proxy.inference.backend import Report, Run
from proxy.inference.result import ChoiceEnded, Event, Result, Started
from proxy.settings import ChatSettings

MAX_RETRY_AFTER_S: Final = 60
_MAX_HEADER: Final = 4_000
REPORT_HEADERS: Final = (
    "x-proxy-model",
    "x-narrative-job-id",
    "x-proxy-ignored",
    "x-proxy-adjusted",
    "x-proxy-unmatched",
    "x-proxy-served-by",
)


class StreamEncoder(Protocol):
    """How an API writes the events of one stream. Every item of bytes is one whole server-sent event."""

    def encode(self, event: Event) -> Iterator[bytes]:
        """The server-sent events of an event; none where the API leaves it out."""

    def heartbeat(self) -> bytes:
        """A server-sent event without content, for watchdogs that count only those; empty where there is none."""

    def error(self, error: ProxyError) -> bytes:
        """The last event of a stream that failed."""

    @property
    def end(self) -> bytes:
        """The last event of a stream that did not fail."""


def report_headers(report: Report) -> dict[str, str]:
    """The `x-proxy-*` headers and those of rate limits; none that is empty."""
    values = (
        report.model,
        ", ".join(report.job_ids),
        ", ".join(report.ignored),
        ", ".join(report.adjusted),
        report.unmatched,
        report.served_by,
    )
    named = {name: _header_value(value) for name, value in zip(REPORT_HEADERS, values, strict=True) if value}
    return {**named, **report.rate_limits}


def error_headers(error: ProxyError) -> dict[str, str]:
    """Whether a retry can help: the SDKs retry 408, 409, 429 and every 5xx by themselves, and each retry may be a new, paid job."""
    headers = {**error.headers, "x-should-retry": "false"}
    if error.retry_after is not None:
        headers |= {"x-should-retry": "true", "retry-after": retry_after(error.retry_after)}
    if error.job_id is not None:
        headers["x-narrative-job-id"] = error.job_id
    return headers


def retry_after(seconds: float) -> str:
    """The value of `Retry-After`: whole seconds, 1 to 60."""
    return str(min(max(math.ceil(seconds), 1), MAX_RETRY_AFTER_S))


@contextmanager
def reported(run: Run) -> Iterator[None]:
    """Give errors of a run the headers that report how it was served."""
    try:
        yield
    except ProxyError as error:
        error.headers = {**report_headers(run.report), **error.headers}
        raise


async def whole_response(
    request: Request,
    run: Run,
    encode: Callable[[Result], bytes],
    *,
    error: Callable[[ProxyError], bytes],
    keep_alive_s: float = 0.0,
) -> Response:
    """The JSON of a run's result; see `json_response`.

    Raises:
        ClientDisconnect: the client left.
        ProxyError: of the run.
    """

    async def body() -> bytes:
        with reported(run):
            return encode(await run.result())

    keep_alive_s = heartbeat_interval(request.headers, keep_alive_s)
    return await json_response(request, body(), _delivery(run, error), keep_alive_s)


def stream_response(request: Request, run: Run, encoder: StreamEncoder, settings: ChatSettings) -> Response:
    """The server-sent events of a run.

    It counts as delivered once the end of its last choice was sent: many clients stop reading there.
    """
    unfinished = 0

    def encoded(batch: Iterable[Event]) -> Iterator[bytes]:
        nonlocal unfinished
        for event in batch:
            yield from encoder.encode(event)
            match event:
                case Started():
                    unfinished = event.choices
                case ChoiceEnded():
                    unfinished -= 1
                    if not unfinished:
                        run.close(delivered=True)

    async def batches() -> AsyncGenerator[Iterable[bytes], None]:
        async for batch in run.events():
            yield encoded(batch)

    def heartbeat() -> bytes:
        return (encoder.heartbeat() if settings.heartbeat_style == "chunk" else b"") or COMMENT

    heartbeat_s = heartbeat_interval(request.headers, settings.heartbeat_s)
    pace = Pace(heartbeat_s, settings.stream_pace_ms / 1000, heartbeat)
    return EventStream(batches(), encoder.end, _delivery(run, encoder.error), pace)


def _delivery(run: Run, error: Callable[[ProxyError], bytes]) -> Delivery:
    return Delivery(
        headers=lambda: report_headers(run.report),
        error=error,
        on_close=lambda delivered: run.close(delivered=delivered),
    )


def _header_value(text: str) -> str:
    """A text as a header can carry it: printable ASCII, bounded."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:_MAX_HEADER])
