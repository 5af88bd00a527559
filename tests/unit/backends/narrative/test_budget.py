import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.budget import Budget


def spend(budget: Budget, seconds: float) -> list[float]:
    """Times of reads when each starts as early as it may."""
    times = []
    now = 0.0
    while (now := budget.ready_at(now)) < seconds:
        budget.take(now)
        times.append(now)
    return times


@given(st.floats(0.5, 50), st.floats(1, 10), st.floats(1, 20))
def test_reads_never_exceed_rate_times_time_plus_burst(rate: float, burst: float, seconds: float) -> None:
    assert len(spend(Budget(rate, burst, 0.0), seconds)) <= rate * seconds + burst + 1


def test_a_read_before_its_time_delays_the_ones_after_it() -> None:
    budget = Budget(10, 1, 0.0)
    for _ in range(5):
        budget.take(0.0)
    assert budget.ready_at(0.0) >= 0.45


def test_a_rate_limit_pauses_and_slows_for_a_while() -> None:
    budget = Budget(10, 1, 0.0)
    budget.limited(started=0.0, now=0.0, retry_after=3.0)
    assert budget.ready_at(0.0) == 3.0
    assert budget.paused_until(0.0) == 3.0
    assert budget.rate == 5.0
    budget.ready_at(4.0)
    budget.ready_at(100.0)
    assert budget.rate == 10.0


def test_many_reads_limited_at_once_slow_down_once() -> None:
    budget = Budget(10, 1, 0.0)
    for _ in range(20):
        budget.limited(started=0.0, now=0.5, retry_after=1.0)
    assert budget.rate == 5.0


def test_a_storm_of_rate_limits_never_stops_reading_for_good() -> None:
    budget = Budget(10, 1, 0.0)
    for second in range(100):
        budget.limited(started=second, now=second, retry_after=0.5)
    assert budget.rate > 0
    assert budget.ready_at(100.0) < 110.0


def test_pauses_in_an_outage_grow_up_to_a_bound_and_end_with_the_first_answer() -> None:
    budget = Budget(10, 1, 0.0)
    now, pauses = 0.0, []
    for _ in range(10):
        budget.failed(started=now, now=now)
        pauses.append(budget.paused_until(now) - now)
        now = budget.paused_until(now)
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.2
    assert pauses[-1] == 5.0
    budget.succeeded()
    budget.failed(started=now, now=now)
    assert budget.paused_until(now) - now == pytest.approx(pauses[0])


def test_many_failures_at_once_count_as_one() -> None:
    budget = Budget(10, 1, 0.0)
    for _ in range(30):
        budget.failed(started=0.0, now=0.05)
    assert budget.paused_until(0.05) < 0.5
