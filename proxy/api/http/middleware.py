"""The one ASGI middleware: cross-origin requests, request ids, access log, metrics, refusal while draining, unforeseen errors."""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.access.authentication import presented_keys
from proxy.api.http.headers import credentials_digest
from proxy.errors import InternalError, ProxyError, redact
from proxy.lifecycle import Lifecycle
from proxy.metrics import Metrics

_OPERATIONAL: Final = ("/healthz", "/readyz", "/metrics", "/console/api/recent")
"""Paths that machines ask often: logged at debug level, and served while the process drains."""
_UNRECORDED: Final = ("/console", "/metrics", "/healthz", "/readyz")
_VALID_ID: Final = re.compile(r"\A[A-Za-z0-9_.:/+=-]{1,128}\Z")
_ABSOLUTE_FORM: Final = re.compile(rb"\A[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)(.*)\Z", re.DOTALL)
_KEY_LENGTH: Final = 12

log = structlog.get_logger("proxy.access")


@dataclass(slots=True)
class RequestRecord:
    """One request, without its content. The middleware fills it in as the request goes on.

    Attributes:
        at: when it arrived, in seconds since 1970.
        owner: digest of its credentials.
        route: as it is written in the code, never what the client wrote; "" until the response begins, as are the fields below.
        model: the backend's id of the model; "" where none is known.
        jobs: ids of the jobs that were submitted for it.
        ms: how long it took; None while it is under way.
    """

    at: float
    method: str
    owner: str
    request_id: str
    route: str = ""
    status: int = 0
    model: str = ""
    jobs: tuple[str, ...] = ()
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What the middleware works with.

    Attributes:
        origins: from which browsers may call; `*` is all.
        exposed_headers: response headers that their scripts may read.
        render_error: the response to a request that fails here, in the shape of its API.
        record: called with each request when it arrives, those for pages and probes aside.
    """

    lifecycle: Lifecycle
    metrics: Metrics
    origins: Sequence[str]
    exposed_headers: Sequence[str]
    render_error: Callable[[Scope, ProxyError], Response]
    record: Callable[[RequestRecord], None] | None = None


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        normalize_target(scope)
        # Metrics need no key, so that any page could read them.
        handle = self._handle if scope["path"] == "/metrics" else self._with_cors
        await handle(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers, path = Headers(scope=scope), scope["path"]
        record = RequestRecord(time.time(), scope["method"], credentials_digest(headers), _request_id(headers))
        if self._options.record and record.method != "OPTIONS" and not path.startswith(_UNRECORDED):
            self._options.record(record)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._fill_in(record, scope, message, started)
            await send(message)

        with structlog.contextvars.bound_contextvars(request=record.request_id):
            try:
                await self._answer(scope, receive, send_on)
            except Exception:
                log.exception("unforeseen error")
                if not record.status:
                    error = InternalError("The server had an error while processing the request.")
                    await self._options.render_error(scope, error)(scope, receive, send_on)
            finally:
                seconds = time.perf_counter() - started
                record.ms = round(seconds * 1000, 1)
                self._options.metrics.request(
                    _metric_route(scope), record.model or "none", record.status or 500, seconds
                )
                fields = {"model": record.model, "job": ", ".join(record.jobs), "status": record.status}
                write = log.debug if path in _OPERATIONAL else log.info
                write(
                    "request",
                    method=record.method,
                    path=_route(scope) or shown_path(path),
                    ms=round(record.ms),
                    **{name: value for name, value in fields.items() if value},
                )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _OPERATIONAL:
            await self._app(scope, receive, send)
        elif refusal := self._options.lifecycle.refusal():
            await self._options.render_error(scope, refusal)(scope, receive, send)
        else:
            with self._options.lifecycle.request():
                await self._app(scope, receive, send)

    def _fill_in(self, record: RequestRecord, scope: Scope, message: Message, started: float) -> None:
        headers = MutableHeaders(scope=message)
        headers["x-request-id"] = record.request_id
        headers["openai-processing-ms"] = str(round((time.perf_counter() - started) * 1000))
        if self._options.lifecycle.draining and scope["path"] not in _OPERATIONAL:
            # A client must not be about to send another request when the connection is closed.
            headers["connection"] = "close"
        record.route = _route(scope) or "unknown"
        record.status = message["status"]
        record.model = headers.get("x-proxy-model", "")
        record.jobs = tuple(filter(None, headers.get("x-narrative-job-id", "").split(", ")))


class RedactKeys:
    """Leaves keys out of the bodies of error responses: the client's own, those of the settings, and what looks like one.

    Clients that are set up wrongly send a key as the model's name or in the path, and errors repeat both.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: Message | None = None

        async def send_on(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start" and message["status"] >= 400:
                held = message
                return
            if held is not None:
                start, held = held, None
                if not message.get("more_body"):
                    keys = [*self._keys, *presented_keys(Headers(scope=scope))]
                    message["body"] = _redacted(message.get("body", b""), keys)
                    MutableHeaders(scope=start)["content-length"] = str(len(message["body"]))
                await send(start)
            await send(message)

        await self._app(scope, receive, send_on if scope["type"] == "http" else send)


def _redacted(body: bytes, keys: Sequence[str]) -> bytes:
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


def _request_id(headers: Headers) -> str:
    """The client's own request id if it is a valid one, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _VALID_ID.match(given) else f"req_{uuid4().hex}"


def _route(scope: Scope) -> str:
    """The route as it is written in the code; empty where none matched."""
    path: str = getattr(scope.get("route"), "path", "")
    return path


def _metric_route(scope: Scope) -> str:
    return _route(scope).removeprefix("/v1").rstrip("/") or "other"
