"""Errors → Elastic's shape. Source: contract `elastic-inference.md`.

The official clients repeat 429, 502, 503 and 504 three times by themselves, whatever a header says: an error of which a repeat would
pay again never has one of these statuses.
"""

import math

from starlette.responses import Response

from proxy.api.http.json_text import json_bytes
from proxy.errors import (
    InvalidApiKey,
    InvalidRequest,
    JobTimeout,
    ModelNotFound,
    PermissionDenied,
    ProxyError,
    RequestTooLarge,
)
from proxy.wire.elastic import ErrorOut

_REPEATED = frozenset({429, 502, 503, 504})
ALREADY_EXISTS = "resource_already_exists"
"""The code of an error for an endpoint that is there already."""


def error_answer(error: ProxyError) -> ErrorOut:
    """The JSON body of an error, in an answer or as the last event of a stream."""
    kind = _type(error)
    cause = {"type": kind, "reason": error.message[:2_000]}
    return {
        "error": {"root_cause": [{"type": kind, "reason": cause["reason"]}], "type": kind, "reason": cause["reason"]},
        "status": _status(error),
    }


def error_response(error: ProxyError, media_type: str) -> Response:
    """The response to a request that failed before its first byte was sent."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["retry-after"] = str(min(max(math.ceil(error.retry_after), 1), 60))
    if isinstance(error, InvalidApiKey):
        headers["www-authenticate"] = 'ApiKey, Bearer, Basic realm="narrative-proxy"'
    if error.job_id is not None:
        headers["x-narrative-job-id"] = error.job_id
    body = json_bytes(error_answer(error))
    return Response(body, status_code=_status(error), headers=headers, media_type=media_type)


def _status(error: ProxyError) -> int:
    if error.status in _REPEATED and error.retry_after is None:
        return 408 if isinstance(error, JobTimeout) else 500
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
