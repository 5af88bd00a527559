"""Errors in Elastic's shape. Source: contract `elastic-inference.md`.

The official clients retry 429, 502, 503 and 504 three times by themselves, whatever a header says: an error whose retry would pay again
never has one of these statuses.
"""

from starlette.responses import Response

from proxy.api.elastic.types import ErrorOut
from proxy.api.http.json_text import json_bytes
from proxy.api.http.runs import retry_after
from proxy.errors import (
    InvalidApiKey,
    InvalidRequest,
    JobTimeout,
    ModelNotFound,
    PaidFailure,
    PermissionDenied,
    ProxyError,
    RequestTooLarge,
)

_RETRIED = frozenset({429, 502, 503, 504})
_MAX_REASON = 2_000
ALREADY_EXISTS = "resource_already_exists"
"""The code of an error for an endpoint that exists already."""


def error_out(error: ProxyError) -> ErrorOut:
    """The JSON body of an error, in a response or as the last event of a stream."""
    kind, reason = _type(error), error.message[:_MAX_REASON]
    return {
        "error": {"root_cause": [{"type": kind, "reason": reason}], "type": kind, "reason": reason},
        "status": _status(error),
    }


def error_response(error: ProxyError) -> Response:
    """The response to a request that failed before its first byte was sent."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["retry-after"] = retry_after(error.retry_after)
    if isinstance(error, InvalidApiKey):
        headers["www-authenticate"] = 'ApiKey, Bearer, Basic realm="narrative-proxy"'
    if error.job_id is not None:
        headers["x-narrative-job-id"] = error.job_id
    body = json_bytes(error_out(error))
    return Response(body, status_code=_status(error), headers=headers, media_type="application/json")


def _status(error: ProxyError) -> int:
    if isinstance(error, JobTimeout):
        return 408
    if isinstance(error, PaidFailure) or (error.status in _RETRIED and error.retry_after is None):
        return 500
    return error.status


def _type(error: ProxyError) -> str:
    match error:
        case ModelNotFound():
            return "resource_not_found_exception"
        case RequestTooLarge():
            return "content_too_long_exception"
        case InvalidRequest() if error.code == ALREADY_EXISTS:
            return "resource_already_exists_exception"
        case InvalidRequest(param=None):
            return "illegal_argument_exception"
        case InvalidRequest():
            return "validation_exception"
        case InvalidApiKey() | PermissionDenied():
            return "security_exception"
        case _:
            return "status_exception"
