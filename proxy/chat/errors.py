"""Errors → what OpenAI clients understand. The one place that renders them. Source: contract `heroku-chat.md`, section Errors."""

import math
from collections.abc import Mapping

from starlette.responses import Response

from proxy.api.http.json_text import json_bytes
from proxy.errors import ProxyError
from proxy.wire.openai import ErrorAnswer

MAX_RETRY_AFTER_S = 60
_MAX_MESSAGE = 2_000


def error_answer(error: ProxyError) -> ErrorAnswer:
    """The JSON body of an error, in an answer or as the last event of a stream."""
    return {
        "error": {"message": error.message[:_MAX_MESSAGE], "type": error.type, "param": error.param, "code": error.code}
    }


def error_headers(error: ProxyError) -> dict[str, str]:
    """Whether a repeat can help: the SDKs repeat 408, 409, 429 and every 5xx by themselves, and each repeat is a new, paid job."""
    headers = {**error.headers, "x-should-retry": "false"}
    if error.retry_after is not None:
        seconds = min(max(math.ceil(error.retry_after), 1), MAX_RETRY_AFTER_S)
        headers |= {"x-should-retry": "true", "retry-after": str(seconds)}
    if error.job_id is not None:
        headers["x-narrative-job-id"] = error.job_id
    return headers


def error_response(error: ProxyError, headers: Mapping[str, str] | None = None) -> Response:
    """The whole response to a request that failed before its first byte was sent."""
    return Response(
        json_bytes(error_answer(error)),
        status_code=error.status,
        headers={**(headers or {}), **error_headers(error)},
        media_type="application/json",
    )
