from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.client import Call, read_answer
from proxy.backends.narrative.failures import MAX_RETRY_AFTER, MAX_WORDS, Operation, failed, refusal_of, retry_after
from proxy.errors import ProxyError, UpstreamError

BODIES = st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode))


def asked(operation: Operation) -> Call[bytes]:
    return Call(operation, "GET", "/", bytes, job_id="job-1")


def refused(operation: Operation, status: int, body: bytes = b"", secret: str = "", **headers: str) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        read_answer(asked(operation), status, httpx.Headers(headers), body, secret)
    return caught.value


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("100000", MAX_RETRY_AFTER),
        ("inf", MAX_RETRY_AFTER),
    ],
)
def test_retry_after_in_seconds_is_read_and_bounded(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_retry_after_as_a_date_is_read_and_bounded() -> None:
    soon = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    assert soon is not None
    assert 20 < soon <= 31
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after("Wed, 21 Oct 2065 07:28:00") == MAX_RETRY_AFTER


@given(st.text())
def test_no_retry_after_header_breaks_anything(header: str) -> None:
    seconds = retry_after(header)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


@given(st.integers(300, 599), BODIES, st.sampled_from(Operation))
def test_every_status_and_body_becomes_one_named_bounded_line(status: int, body: bytes, operation: Operation) -> None:
    error = refused(operation, status, body)
    assert len(error.message) < MAX_WORDS + 200
    assert "\n" not in error.message
    refusal = refusal_of(error)
    assert refusal is not None
    assert refusal.status == status


@given(st.integers(300, 599))
def test_a_submission_invites_a_repeat_only_where_nothing_can_have_been_enqueued(status: int) -> None:
    error = refused(Operation.SUBMIT, status)
    assert (error.retry_after is not None) == (status in {429, 503})


@given(st.integers(300, 599))
def test_a_read_can_be_repeated_after_whatever_may_pass(status: int) -> None:
    error = refused(Operation.READ_JOB, status)
    assert (error.retry_after is not None) == (status >= 500 or status in {408, 429})


def test_silence_after_sending_a_submission_is_an_unknown_outcome_and_before_it_is_none() -> None:
    unknown = failed(Operation.SUBMIT, "ReadTimeout")
    assert isinstance(unknown, UpstreamError)
    assert (unknown.code, unknown.retry_after) == ("narrative_submit_unknown", None)
    nothing = failed(Operation.SUBMIT, "ConnectError", sent=False)
    assert (nothing.code, nothing.retry_after) == ("narrative_unavailable", 1.0)


def test_narratives_pause_is_passed_on() -> None:
    assert refused(Operation.SUBMIT, 429, **{"retry-after": "9"}).retry_after == 9.0
    assert refused(Operation.SUBMIT, 429).retry_after == 1.0


def test_the_key_is_struck_out_of_repeated_words() -> None:
    error = refused(Operation.SUBMIT, 400, b'{"error": "bad token abc123def456"}', secret="abc123def456")
    assert "abc123def456" not in error.message
    assert "bad token" in error.message
