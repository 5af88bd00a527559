"""Errors as OpenAI's clients understand them, and the headers that report how a request was served."""

import json

import pytest

from proxy.api.http.responses import report_headers
from proxy.api.openai.decode import ChatReply
from proxy.api.openai.encode import ChatStreamEncoder, error_body
from proxy.api.openai.routes import error_response
from proxy.errors import InvalidRequest, PaidFailure, RateLimited
from proxy.inference.backend import Report


def test_the_body_of_an_error() -> None:
    error = InvalidRequest("It is\u2028wrong.", param="n", code="c")
    expected = {"error": {"message": "It is\u2028wrong.", "type": "invalid_request_error", "param": "n", "code": "c"}}
    assert json.loads(error_body(error)) == expected
    event = ChatStreamEncoder(ChatReply("m")).error(error)
    assert json.loads(event.removeprefix(b"data: ")) == expected
    assert len(event.decode().splitlines()) == 2
    assert len(json.loads(error_body(InvalidRequest("x" * 10_000)))["error"]["message"]) == 2_000


def test_the_status_of_a_paid_failure_is_a_setting() -> None:
    assert error_response(PaidFailure("m")).status_code == 424
    assert error_response(PaidFailure("m"), paid_failure_status=502).status_code == 502
    assert error_response(InvalidRequest("m"), paid_failure_status=502).status_code == 400


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (60.0, "60"), (61.0, "60")]
)
def test_a_retry_that_can_help_is_invited_after_whole_seconds(seconds: float, header: str) -> None:
    headers = error_response(RateLimited("m", retry_after=seconds)).headers
    assert (headers["x-should-retry"], headers["retry-after"]) == ("true", header)


def test_no_other_retry_is_invited() -> None:
    error = PaidFailure("m", job_id="j1")
    error.headers = {"allow": "GET"}
    headers = error_response(error).headers
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers
    assert (headers["x-narrative-job-id"], headers["allow"]) == ("j1", "GET")


def test_a_report_becomes_headers_that_any_server_can_send() -> None:
    report = Report(
        model="m",
        job_ids=("a", "b"),
        ignored=("seed", "store"),
        adjusted=("one: grün\r\nset-cookie: x",),
        unmatched="x" * 5_000,
        rate_limits={"x-ratelimit-limit-requests": "3"},
    )
    assert report_headers(report) == {
        "x-proxy-model": "m",
        "x-narrative-job-id": "a, b",
        "x-proxy-ignored": "seed, store",
        "x-proxy-adjusted": "one: gr?n??set-cookie: x",
        "x-proxy-unmatched": "x" * 4_000,
        "x-ratelimit-limit-requests": "3",
    }
    assert report_headers(Report()) == {}
