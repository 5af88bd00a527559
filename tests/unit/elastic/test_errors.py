"""Errors in Elastic's shape: what the official clients do next follows from the status and `Retry-After`."""

import pytest

from proxy.elastic.errors import error_response
from proxy.errors import JobTimeout, Overloaded, ProxyError, RateLimited, UpstreamError


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [(0.0, "1"), (0.4, "1"), (1.0, "1"), (1.001, "2"), (7.2, "8"), (59.2, "60"), (60.0, "60"), (61.0, "60")],
)
def test_retry_after_is_in_whole_seconds_rounded_up_from_1_to_60(retry_after: float, header: str) -> None:
    response = error_response(RateLimited("x", retry_after=retry_after), "application/json")
    assert response.status_code == 429
    assert response.headers["retry-after"] == header


@pytest.mark.parametrize(
    ("error", "status"),
    [(RateLimited("x"), 500), (UpstreamError("x"), 500), (Overloaded("x"), 500), (JobTimeout("x"), 408)],
)
def test_an_error_that_must_not_be_repeated_has_no_status_that_is(error: ProxyError, status: int) -> None:
    response = error_response(error, "application/json")
    assert response.status_code == status
    assert "retry-after" not in response.headers
