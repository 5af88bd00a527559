"""Plain-ASGI middleware: an id for every request, one log line at its end, and an answer when something breaks."""

import re
import time
from uuid import uuid4

import structlog
from sse_starlette.sse import SendTimeoutError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.chat.errors import error_response
from proxy.errors import InternalError
from proxy.lifecycle import Lifecycle

OPERATIONAL = ("/healthz", "/readyz", "/metrics", "/console/api/recent")
"""Paths that are asked often, by machines."""
_SANE_ID = re.compile(r"\A[A-Za-z0-9_.:/+=-]{1,128}\Z")

log = structlog.get_logger("proxy.access")


class RequestLog:
    """Gives each request its id and time, logs it without content, and turns an unforeseen exception into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = request_id_of(Headers(scope=scope))
        sent: dict[str, str | int] = {}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(_milliseconds(started))
                sent["status"] = message["status"]
                for key, name in (("model", "x-proxy-model"), ("job", "x-narrative-job-id")):
                    if name in headers:
                        sent[key] = headers[name]
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except SendTimeoutError:
                log.warning("the client stopped reading its stream")
            except Exception:
                log.exception("unforeseen error")
                if "status" not in sent:
                    error = InternalError("The server had an error while processing the request.")
                    await error_response(error)(scope, receive, send_with_id)
            finally:
                record = log.debug if scope["path"] in OPERATIONAL else log.info
                record("request", method=scope["method"], path=scope["path"], ms=_milliseconds(started), **sent)


class Admission:
    """Counts the requests in flight, and turns new ones away while the process drains."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self.app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPERATIONAL:
            await self.app(scope, receive, send)
            return

        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and self._lifecycle.draining:
                # A client must not be about to send another request when the connection is closed.
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        if refusal := self._lifecycle.refusal():
            await error_response(refusal)(scope, receive, send_last)
            return
        with self._lifecycle.request():
            await self.app(scope, receive, send_last)


def request_id_of(headers: Headers) -> str:
    """The client's own request id if it is a sane one, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _SANE_ID.match(given) else f"req_{uuid4().hex}"


def _milliseconds(since: float) -> int:
    return round((time.perf_counter() - since) * 1000)
