"""Runs of a backend as responses, whole or as server-sent events, for every API; and the headers that report how a request was served.

    what happens           the last bytes of a stream              `Run.close`
    everything was sent    `end`                                   delivered
    the run fails          an error event                          not delivered
    the client leaves      none                                    not delivered; the waiting is cancelled at once
    a bug                  an error event: internal_error          not delivered

The request's own task has it run and writes its events; the server cancels it when the client leaves. Nothing is sent
before the backend has accepted the request, so that a refusal is a status. A client that does not read is not waited for longer than the
server's send timeout (`proxy/api/http/server.py`).
"""

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from typing import ClassVar, Final, Protocol, cast

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.api.http.server import Client
from proxy.errors import InternalError, ProxyError
from proxy.inference.backend import Report, Run
from proxy.inference.result import MOST_PIECES, ChoiceEnded, Ended, Event, Result, Started
from proxy.logs import current_request
from proxy.schemas.values import json_bytes
from proxy.settings import ChatSettings

EVENT_STREAM: Final = (
    b"text/event-stream; charset=utf-8",
    (b"cache-control", b"no-cache, no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)
"""Media type and headers that keep intermediaries from collecting events."""
COMMENT: Final = b": waiting\n"
"""A heartbeat that every reader of server-sent events skips."""
CLIENT_CLOSED_REQUEST: Final = 499
"""The status that is logged, and that nobody receives, when the client left before its response."""
_MAX_HEADER: Final = 4_000
_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")
# Raw, these are line breaks to clients that read server-sent events line by line with Unicode rules.
_LINE_BREAKS: Final = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))

log = structlog.get_logger(__name__)


# ---------------------------------------------------------------- JSON and headers


def json_line(value: object) -> bytes:
    """Compact JSON that is one line to every reader: no character in it ends a line."""
    line = json_bytes(value)
    if line.isascii():  # in megabytes, looking for each of them takes twenty times longer
        return line
    for raw, escaped in _LINE_BREAKS:
        line = line.replace(raw, escaped)
    return line


def json_response(value: object, headers: Mapping[str, str] | None = None, status: int = 200) -> Response:
    """A response of JSON that is known at once."""
    return Response(json_bytes(value), status, headers, "application/json")


def report_headers(report: Report) -> dict[str, str]:
    """The `x-proxy-*` headers, printable and bounded, and those of rate limits; none that is empty."""
    headers: dict[str, str] = {}
    for name, value in (
        ("x-proxy-model", report.model),
        ("x-narrative-job-id", ", ".join(report.job_ids)),
        ("x-proxy-ignored", ", ".join(report.ignored)),
        ("x-proxy-adjusted", ", ".join(report.adjusted)),
        ("x-proxy-unmatched", report.unmatched),
        ("x-proxy-served-by", report.served_by),
    ):
        if value:
            headers[name] = _NOT_PRINTABLE.sub("?", value[:_MAX_HEADER])
    headers.update(report.rate_limits)
    return headers


REPORT_HEADERS: Final = tuple(report_headers(Report("m", ("j",), ("i",), ("a",), "u", "s")))
"""All of them."""


# ---------------------------------------------------------------- runs


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


class RunResponse(ABC):
    """Has a request run and sends its answer: an ASGI application that raises ProxyError and ClientDisconnect only before it has begun.

    Args:
        start: has the request accepted.
        interval_s: seconds without a byte after which something without content is sent, so that the connection is not taken for idle; 0
            is never.
        headers: the response headers that report how the request was served.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Run]],
        interval_s: float,
        headers: Callable[[Report], Mapping[str, str]] = report_headers,
    ) -> None:
        self._start, self._interval_s, self._headers = start, interval_s, headers
        self._run: Run | None = None
        self._client: Client
        self._begun = self._complete = False
        self._last_write = time.monotonic()
        self._writing = asyncio.Lock()  # events and heartbeats come from two tasks
        self._timer: asyncio.TimerHandle | None = None
        self._idling: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, in the task that the server made for it."""
        delivered = False
        self._client = client = cast(Client, scope.get("proxy.client") or Client())
        if client.left:
            raise ClientDisconnect
        client.answering = task = cast("asyncio.Task[None]", asyncio.current_task())
        if self._interval_s:
            self._beat(send)
        try:
            delivered = await self._answer(send)
        except asyncio.CancelledError:
            if not client.left or task.uncancel():
                raise
            if not self._begun:
                raise ClientDisconnect from None
            log.info("the client left before the end of its answer")
        except ProxyError as error:  # before anything was sent
            if self._run is not None:
                error.headers = {**self._headers(self._run.report), **error.headers}
            raise
        finally:
            client.answering = None
            if self._timer is not None:
                self._timer.cancel()
            if self._idling is not None:
                self._idling.cancel()
            if self._run is not None:
                self._run.close(delivered=delivered)

    def _beat(self, send: Send) -> None:
        """Send something if nothing was sent for `interval_s`, and come again when that may be so."""
        if not self._interval_s:
            return
        now = time.monotonic()
        wait = self._last_write + self._interval_s - now
        if wait <= 0:
            self._last_write, wait = now, self._interval_s
            accepted, idle = self._run is not None or self._begun, self._idling is None or self._idling.done()
            if accepted and idle and not self._complete:
                self._idling = asyncio.create_task(self._idle(send))
        self._timer = asyncio.get_running_loop().call_later(wait, self._beat, send)

    async def _accepted(self) -> Run:
        """Have the request accepted. What only that needs is let go: thousands of responses wait for their runs."""
        start = self._start
        del self._start
        self._run = run = await start()
        return run

    async def _begin(self, send: Send, media_type: bytes, *more: tuple[bytes, bytes]) -> None:
        self._begun = True
        headers = [(b"content-type", media_type), *more]
        if self._run is not None:
            for name, value in self._headers(self._run.report).items():
                headers.append((name.encode(), value.encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _finish(self, send: Send, body: bytes = b"") -> None:
        async with self._writing:
            self._complete, self._client.answering = True, None  # a client that leaves now cancels nothing
            await send({"type": "http.response.body", "body": body, "more_body": False})

    @abstractmethod
    async def _answer(self, send: Send) -> bool:
        """Set `_run`, have it answer and send all; whether the whole answer was sent."""

    @abstractmethod
    async def _idle(self, send: Send) -> None:
        """Nothing happened for `interval_s` since the run was set, or the response begun."""


class WholeResponse(RunResponse):
    """The JSON of a run's result, with blanks ahead of it if a setting asks for them.

    The first blank settles the status, so that a failure after it is an error object in a 200.

    Args:
        encode: the body of a result.
        error: the body of a failure after the first blank.
        keep_alive_s: seconds between the blanks; 0 is none.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Run]],
        encode: Callable[[Result], bytes],
        error: Callable[[ProxyError], bytes],
        keep_alive_s: float = 0.0,
        headers: Callable[[Report], Mapping[str, str]] = report_headers,
    ) -> None:
        super().__init__(start, keep_alive_s, headers)
        self._encode, self._error = encode, error

    async def _answer(self, send: Send) -> bool:
        try:
            result = await (await self._accepted()).result()
            current_request().used(result.usage.input_tokens, result.usage.output_tokens)
            body = self._encode(result)
        except ProxyError as error:
            if not self._begun:
                raise
            log.warning("answer failed after its status was sent", code=error.code, job=error.job_id)
            await self._finish(send, self._error(error))
            return False
        self._complete, self._client.answering = True, None  # no blank may come between the length and the body
        if not self._begun:
            await self._begin(send, b"application/json", (b"content-length", b"%d" % len(body)))
        await self._finish(send, body)
        return True

    async def _idle(self, send: Send) -> None:
        async with self._writing:
            if self._complete:  # meanwhile
                return
            if not self._begun:
                await self._begin(send, b"application/json", (b"x-accel-buffering", b"no"))
            await send({"type": "http.response.body", "body": b" ", "more_body": True})


class StreamResponse(RunResponse):
    """The server-sent events of a run, written as fast as its client reads.

    It counts as delivered once the end of its last choice was sent: many clients stop reading there.

    Args:
        heartbeat_s: seconds without an event after which a heartbeat is sent; 0 is never.
        chat: how events are spread, and what a heartbeat is.
        hold_s: for so many seconds nothing is sent until the answer has something to say, so that a failure keeps its status; 0 begins as
            soon as the request is accepted.
    """

    delivered_by_choices: ClassVar[bool] = True
    """False: it counts as delivered once the last event was sent."""

    def __init__(  # noqa: PLR0913
        self,
        start: Callable[[], Awaitable[Run]],
        encoder: StreamEncoder,
        heartbeat_s: float,
        chat: ChatSettings,
        *,
        hold_s: float = 0.0,
        headers: Callable[[Report], Mapping[str, str]] = report_headers,
    ) -> None:
        super().__init__(start, hold_s or heartbeat_s, headers)
        self._heartbeat_s, self._hold_until = heartbeat_s, self._last_write + hold_s
        self._held: list[bytes] = []
        self._encoder, self._chunk_heartbeats = encoder, chat.heartbeat_style == "chunk"
        self._left_s = chat.stream_pace_ms / 1000
        self._pause_s = self._left_s / MOST_PIECES

    async def _answer(self, send: Send) -> bool:
        sent = False
        try:
            await self._write_all(send)
            sent = True
        except ProxyError as error:
            if not self._begun:
                raise
            log.warning("stream failed", code=error.code, job=error.job_id)
            await self._write(self._encoder.error(error), send)
        except Exception:
            if not self._begun:
                raise
            log.exception("stream failed")
            await self._write(self._encoder.error(InternalError("The server had an error while answering.")), send)
        await self._finish(send)
        return sent

    async def _write_all(self, send: Send) -> None:
        run = await self._accepted()
        if time.monotonic() >= self._hold_until:
            await self._open(send)
        await self._write_events(run, send)
        await self._open(send)
        await self._write(self._encoder.end, send)

    async def _write_events(self, run: Run, send: Send) -> None:
        unfinished, batches = 0, run.events()
        try:
            async for batch in batches:
                for event in batch:
                    if not self._begun and not isinstance(event, Started):
                        await self._open(send)
                    for data in self._encoder.encode(event):
                        await self._write(data, send)
                        self._left_s -= self._pause_s
                        # A client that reads fast never makes `_write` wait: others get their turn here.
                        await asyncio.sleep(self._pause_s if self._left_s > 0 else 0)
                    match event:
                        case Started():
                            unfinished = event.choices
                        case ChoiceEnded():
                            unfinished -= 1
                            if not unfinished and self.delivered_by_choices:
                                run.close(delivered=True)
                        case Ended(usage):
                            current_request().used(usage.input_tokens, usage.output_tokens)
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()

    async def _open(self, send: Send) -> None:
        """Begin the response with what was held back."""
        async with self._writing:
            if self._begun:
                return
            self._interval_s = self._heartbeat_s
            await self._begin(send, *EVENT_STREAM)
            for data in self._held:
                await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _idle(self, send: Send) -> None:
        if not self._begun and time.monotonic() >= self._hold_until:
            await self._open(send)
        if self._begun and not self._writing.locked():
            heartbeat = self._encoder.heartbeat() if self._chunk_heartbeats else b""
            await self._write(heartbeat or COMMENT, send)

    async def _write(self, data: bytes, send: Send) -> None:
        if not self._begun:
            self._held.append(data)
            return
        async with self._writing:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._last_write = time.monotonic()
