"""How many lines run at a time, and what is made again."""

import pytest

from proxy.batches.lines import Pace, may_be_repeated
from proxy.errors import (
    InternalError,
    InvalidRequest,
    JobTimeout,
    Overloaded,
    PaidFailure,
    ProxyError,
    RateLimited,
    UpstreamError,
)


def test_the_pace_grows_with_answers_and_halves_after_refusals() -> None:
    now = 0.0
    pace, refusal = Pace(20, lambda: now), RateLimited("Slow down.")
    assert pace.width == 8
    for _ in range(30):
        pace.answered()
    assert pace.width == 20
    pace.pause(refusal, 1)
    pace.pause(refusal, 1)  # of the same moment
    assert pace.width == 10
    for _ in range(10):
        now += 1.0
        pace.pause(refusal, 1)
    assert pace.width == 1
    assert Pace(3).width == 3


def test_a_job_that_runs_on_slows_nothing() -> None:
    pace = Pace(20)
    pace.pause(JobTimeout("It runs.", job_id="1"), 1)
    assert pace.width == 8


@pytest.mark.parametrize("tries", [1, 5, 50, 5_000])
def test_pauses_grow_within_bounds(tries: int) -> None:
    assert 0.25 <= Pace(1).pause(Overloaded("x"), tries) <= 30.0
    assert 12.0 <= Pace(1).pause(Overloaded("x", retry_after=12.0), tries) <= 30.0
    assert Pace(1).pause(Overloaded("x", retry_after=3_600.0), tries) == 30.0


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (RateLimited("x"), True),
        (Overloaded("x", job_id="1"), True),
        (JobTimeout("x", job_id="1"), True),
        (UpstreamError("x", code="narrative_unavailable"), True),
        (UpstreamError("x", code="narrative_submit_unknown", job_may_exist=True), True),
        (UpstreamError("x", code="narrative_unauthorized"), True),
        (UpstreamError("x", code="narrative_rejected"), False),
        (PaidFailure("x", code="narrative_job_failed", job_id="1"), False),
        (InvalidRequest("x"), False),
        (InternalError("x"), False),
    ],
)
def test_what_is_made_again(error: ProxyError, again: bool) -> None:
    assert may_be_repeated(error) is again
