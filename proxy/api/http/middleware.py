"""The one ASGI middleware: cross-origin requests, request ids, access log, metrics, refusal while draining, unforeseen errors, redaction.

Keys are left out of the bodies of error responses: the client's own, those of the settings, and what looks like one.
"""

import json
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.access.authentication import presented_keys
from proxy.api.http.requests import credentials_digest
from proxy.api.http.responses import CLIENT_CLOSED_REQUEST
from proxy.errors import InternalError, ProxyError, redact
from proxy.lifecycle import Lifecycle
from proxy.logs import RequestRecord, begin_request
from proxy.metrics import Metrics
from proxy.tracing import Tracer

_OPERATIONAL: Final = ("/healthz", "/readyz", "/metrics", "/console/api/recent")
"""Paths that machines ask often: logged at debug level, and served while the process drains."""
_UNRECORDED: Final = ("/console", "/metrics", "/healthz", "/readyz")
_VALID_ID: Final = re.compile(r"\A[A-Za-z0-9_.:/+=-]{1,128}\Z")
_ABSOLUTE_FORM: Final = re.compile(rb"\A[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)(.*)\Z", re.DOTALL)
_KEY_LENGTH: Final = 12

log = structlog.get_logger("proxy.access")


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What the middleware works with.

    Attributes:
        origins: from which browsers may call; `*` is all.
        exposed_headers: response headers that their scripts may read.
        render_error: the response to a request that failed before its first byte, in the shape of its API, which its scope tells.
        records: gets each request when it arrives, those for pages and probes aside.
        keys: of the settings, left out of the bodies of error responses.
        tracer: makes a span of each request, probes aside.
    """

    lifecycle: Lifecycle
    metrics: Metrics
    origins: Sequence[str]
    exposed_headers: Sequence[str]
    render_error: Callable[[Scope, ProxyError | HTTPException], Response]
    records: deque[RequestRecord]
    keys: Sequence[str] = ()
    tracer: Tracer | None = None


class ApiRoute(Route):
    """A route of one method, whose handler makes an ASGI application of a request. Starlette's own keep five frames of each.

    `render_error`: the response to a request that failed before its first byte.
    """

    def __init__(
        self,
        path: str,
        handler: Callable[[Request], Awaitable[Callable[[Scope, Receive, Send], Awaitable[None]]]],
        method: str,
        render_error: Callable[[Scope, ProxyError], Response],
    ) -> None:
        super().__init__(path, handler, methods=[method])
        self._handler, self.render_error = handler, render_error

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the request answered. Raises HTTPException, ProxyError."""
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405, headers={"Allow": ", ".join(self.methods or ())})
        response = await self._handler(Request(scope, receive, send))
        await response(scope, receive, send)


class _Exchange:
    """A request, and its response on the way to the client. A class, since functions within `_handle` take four times the memory.

    `operational`: machines ask often for its path.
    """

    __slots__ = ("_held", "_options", "_scope", "_send", "_started", "operational", "record")

    def __init__(self, options: HttpOptions, scope: Scope, send: Send) -> None:
        self._options, self._scope, self._send = options, scope, send
        self._held: Message | None = None
        self._started, self.operational = time.perf_counter(), scope["path"] in _OPERATIONAL
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _VALID_ID.match(request_id):
            request_id = f"req_{uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        traceparent, owner = headers.get("traceparent", ""), credentials_digest(headers)
        self.record = begin_request(traceparent, scope["method"], owner, request_id)
        if self.record.method != "OPTIONS" and not scope["path"].startswith(_UNRECORDED):
            options.records.append(self.record)
        if options.tracer is not None and not self.operational:
            options.tracer.start(self.record, headers)
        structlog.contextvars.bind_contextvars(request=request_id)

    async def send(self, message: Message) -> None:
        """Send a message of the application on, with what is added to heads and left out of errors."""
        if message["type"] == "http.response.start":
            sent, record = MutableHeaders(scope=message), self.record
            sent["x-request-id"] = sent["request-id"] = record.request_id
            seconds = time.perf_counter() - self._started
            sent["openai-processing-ms"] = str(round(seconds * 1000))
            if timing := record.server_timing(seconds):
                sent["server-timing"] = timing
            if self._options.lifecycle.draining and not self.operational:
                # A client must not be about to send another request when the connection is closed.
                sent["connection"] = "close"
            record.route = getattr(self._scope.get("route"), "path", "") or "unknown"
            record.status = message["status"]
            record.model = sent.get("x-proxy-model", "")
            record.jobs = tuple(filter(None, sent.get("x-narrative-job-id", "").split(", ")))
            if record.status >= 400:
                self._held = message  # until its body shows how long it is without keys
                return
        elif self._held is not None:
            start, self._held = self._held, None
            if not message.get("more_body"):
                keys = [*self._options.keys, *presented_keys(Headers(scope=self._scope))]
                message["body"] = _redacted(message.get("body", b""), keys)
                MutableHeaders(scope=start)["content-length"] = str(len(message["body"]))
            await self._send(start)
        await self._send(message)

    def response_to(self, error: Exception) -> Response:
        """The response to a request that failed; what is unforeseen, or came after the response began, is logged."""
        begun = self.record.status > 0
        if isinstance(error, ClientDisconnect):
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        if begun or not isinstance(error, ProxyError | HTTPException):
            log.error("unforeseen error", exc_info=error)
            error = InternalError("The server had an error while processing the request.")
        if isinstance(error, ProxyError) and not begun:
            self.record.code = error.code or error.type
        route = self._scope.get("route")
        if isinstance(route, ApiRoute) and isinstance(error, ProxyError):
            return route.render_error(self._scope, error)
        return self._options.render_error(self._scope, error)

    def finish(self) -> None:
        """Log and measure the request."""
        record, seconds = self.record, time.perf_counter() - self._started
        record.ms = round(seconds * 1000, 1)
        route = getattr(self._scope.get("route"), "path", "")  # as it is written in the code; empty where none matched
        self._options.metrics.request(
            route.removeprefix("/v1").rstrip("/") or "other", record.model or "none", record.status or 500, seconds
        )
        write, path = log.debug if self.operational else log.info, route or shown_path(self._scope["path"])
        write("request", method=record.method, path=path, ms=round(record.ms), **record.fields())
        if self._options.tracer is not None and record.span is not None:
            self._options.tracer.finish(record, route, path)


class HttpMiddleware:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, options: HttpOptions) -> None:
        self._app = app
        self._options = options
        self._with_cors = CORSMiddleware(
            self._handle,
            allow_origins=options.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=options.exposed_headers,
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The application's coroutine: a frame around it would be memory of each request that waits."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        if "//" in scope["path"] or not (scope.get("raw_path") or b"/").startswith(b"/"):
            normalize_target(scope)
        # Metrics need no key, so that any page could read them.
        if scope["path"] == "/metrics" or b"origin" not in dict(scope["headers"]):
            return self._handle(scope, receive, send)
        return self._with_cors(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        lifecycle, exchange = self._options.lifecycle, _Exchange(self._options, scope, send)
        refusal = None if exchange.operational else lifecycle.enter()
        try:
            if refusal is not None:
                raise refusal
            await self._app(scope, receive, exchange.send)
        except Exception as error:
            response = exchange.response_to(error)
            if not exchange.record.status:
                await response(scope, receive, exchange.send)
        finally:
            if not exchange.operational and refusal is None:
                lifecycle.leave()
            exchange.finish()


def _redacted(body: bytes, keys: Iterable[str]) -> bytes:
    """A body without keys: clients that are set up wrongly send one as the model's name or in the path, and errors repeat both."""
    # In JSON a quote or a backslash of a key is escaped.
    forms = [form for key in keys for form in (key, json.dumps(key)[1:-1])]
    return redact(body.decode("utf-8", "surrogateescape"), forms).encode("utf-8", "surrogateescape")


def normalize_target(scope: Scope) -> None:
    """Read a request's target as clients mean it: `//v1//models` is `/v1/models`, and of `http://host/path` the path counts."""
    path, raw = scope["path"], scope.get("raw_path") or b""
    if absolute := _ABSOLUTE_FORM.match(raw):
        path = unquote(absolute[2].decode("ascii")) or "/"
        scope["headers"] = [
            (b"host", absolute[1]),
            *((name, value) for name, value in scope["headers"] if name != b"host"),
        ]
    if absolute or "//" in path:
        scope["path"] = re.sub("/{2,}", "/", path)
        scope["raw_path"] = scope["path"].encode()


def shown_path(path: str) -> str:
    """A path that a client wrote, for logs and messages: parts so long that they could be keys are left out."""
    return "/".join(part if len(part) < _KEY_LENGTH else "…" for part in path[:200].split("/"))
