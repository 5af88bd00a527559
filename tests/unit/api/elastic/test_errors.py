"""Errors in Elastic's shape: statuses that the official clients retry stand only for errors whose retry costs nothing."""

import json

import pytest
from starlette.exceptions import HTTPException

from proxy.api.elastic.routes import error_response
from proxy.errors import (
    InvalidApiKey,
    InvalidRequest,
    JobTimeout,
    ModelNotFound,
    Overloaded,
    PaidFailure,
    ProxyError,
    RateLimited,
    RequestTooLarge,
    UpstreamError,
)

COMPATIBLE = "application/vnd.elasticsearch+json;compatible-with=8"
SCOPE = {"type": "http", "method": "GET", "path": "/_inference/mine", "headers": []}


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidRequest("m"), 400, "illegal_argument_exception"),
        (InvalidRequest("m", param="p"), 400, "validation_exception"),
        (ModelNotFound("m"), 404, "resource_not_found_exception"),
        (RequestTooLarge("m"), 413, "content_too_long_exception"),
        (InvalidApiKey("m"), 401, "security_exception"),
        (RateLimited("m", retry_after=2), 429, "status_exception"),
        (RateLimited("m"), 500, "status_exception"),
        (Overloaded("m", retry_after=1), 503, "status_exception"),
        (Overloaded("m"), 500, "status_exception"),
        (UpstreamError("m", retry_after=1), 502, "status_exception"),
        (UpstreamError("m"), 500, "status_exception"),
        (PaidFailure("m"), 500, "status_exception"),
        (JobTimeout("m"), 408, "status_exception"),
        (JobTimeout("m", retry_after=1), 408, "status_exception"),
    ],
)
def test_the_status_and_type_of_an_error(error: ProxyError, status: int, kind: str) -> None:
    response = error_response(SCOPE, error)
    assert response.status_code == status
    assert json.loads(bytes(response.body)) == {
        "error": {"root_cause": [{"type": kind, "reason": "m"}], "type": kind, "reason": "m"},
        "status": status,
    }


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60"), (60.0, "60"), (600.0, "60")]
)
def test_retry_after_is_in_whole_seconds_from_1_to_60(seconds: float, header: str) -> None:
    assert error_response(SCOPE, RateLimited("m", retry_after=seconds)).headers["retry-after"] == header
    assert "retry-after" not in error_response(SCOPE, RateLimited("m")).headers


def test_headers_of_an_error() -> None:
    assert error_response(SCOPE, InvalidApiKey("m")).headers["www-authenticate"].startswith("ApiKey")
    assert error_response(SCOPE, PaidFailure("m", job_id="j1")).headers["x-narrative-job-id"] == "j1"


@pytest.mark.parametrize(("accept", "media_type"), [("", "application/json"), (COMPATIBLE, COMPATIBLE)])
def test_a_path_that_is_not_served_gets_elastics_error_and_headers(accept: str, media_type: str) -> None:
    response = error_response({**SCOPE, "headers": [(b"accept", accept.encode())]}, HTTPException(405))
    assert (response.status_code, response.headers["x-elastic-product"]) == (400, "Elasticsearch")
    assert response.headers["content-type"] == media_type
    assert "[/_inference/mine] and method [GET]" in json.loads(bytes(response.body))["error"]["reason"]
