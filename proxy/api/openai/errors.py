"""Errors as OpenAI's clients understand them. Source: contract `heroku-chat.md`, section Errors."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from proxy.api.http.json_text import json_bytes, json_line
from proxy.api.http.middleware import shown_path
from proxy.api.http.runs import error_headers
from proxy.errors import MethodNotAllowed, PaidFailure, ProxyError, UnknownUrl

CLIENT_CLOSED_REQUEST: Final = 499
"""The status that is logged, and that nobody receives, when the client left before its response."""
_CHAT_URL: Final = "POST /v1/chat/completions"
_MAX_MESSAGE: Final = 2_000


def error_body(error: ProxyError) -> bytes:
    """The JSON body of an error."""
    return json_bytes(_error(error))


def error_event(error: ProxyError) -> bytes:
    """An error as the last event of a stream."""
    return b"data: " + json_line(_error(error)) + b"\n\n"


def error_response(
    error: ProxyError, headers: Mapping[str, str] | None = None, *, paid_failure_status: int = PaidFailure.status
) -> Response:
    """The whole response to a request that failed before its first byte was sent."""
    return Response(
        error_body(error),
        status_code=paid_failure_status if isinstance(error, PaidFailure) else error.status,
        headers={**(headers or {}), **error_headers(error)},
        media_type="application/json",
    )


def exception_handlers(
    paid_failure_status: int,
) -> dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]:
    """Handlers for errors of the project, for URLs and methods that are not served, and for clients that left."""

    async def on_error(request: Request, error: Exception) -> Response:
        return error_response(cast(ProxyError, error), paid_failure_status=paid_failure_status)

    async def on_unrouted(request: Request, error: Exception) -> Response:
        """The message names the URL that is served."""
        error = cast(HTTPException, error)
        what = f"{request.method} {shown_path(request.url.path)}"
        if error.status_code == 405:
            refusal: ProxyError = MethodNotAllowed(
                f"Method not allowed: {what}. Chat completions are served at {_CHAT_URL}."
            )
        else:
            refusal = UnknownUrl(f"Unknown URL: {what}. This server speaks the Chat Completions API, at {_CHAT_URL}.")
        return error_response(refusal, error.headers)

    async def on_disconnect(request: Request, error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    return {ProxyError: on_error, HTTPException: on_unrouted, ClientDisconnect: on_disconnect}


def _error(error: ProxyError) -> dict[str, Any]:
    return {
        "error": {"message": error.message[:_MAX_MESSAGE], "type": error.type, "param": error.param, "code": error.code}
    }
