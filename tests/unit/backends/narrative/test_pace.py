import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.pace import Load, Mode, pace
from proxy.storage import Membership

LOADS = st.integers(0, 20_000).flatmap(
    lambda active: st.builds(
        Load,
        active=st.just(active),
        late=st.integers(0, active),
        silence=st.floats(0, 1e4),
        feed_reliable=st.booleans(),
        push_reliable=st.booleans(),
    )
)


def load(active: int, late: int = 0, *, silence: float = 0.0, feed: bool = True, push: bool = False) -> Load:
    return Load(active, late, silence, feed, push)


def cost(given_load: Load, rate: float) -> float:
    """Reads a second that are planned."""
    planned = pace(given_load, rate)
    if planned.mode is Mode.REST:
        return 0.0
    looks = given_load.active / planned.look_gap if planned.looks_at_all else planned.sweep_rate
    return sum(1 / gap for gap in planned.feed_gaps.values()) + looks


@given(LOADS, st.floats(0.1, 100))
def test_what_is_planned_stays_within_the_budget(given_load: Load, rate: float) -> None:
    assert cost(given_load, rate) <= rate * 1.0001


@given(st.lists(LOADS, min_size=2, max_size=20), st.booleans(), st.booleans(), st.floats(0.1, 100))
def test_replicas_share_one_budget(loads: list[Load], feed: bool, push: bool, rate: float) -> None:
    replicas = [
        replace(each, feed_reliable=feed, push_reliable=push, standing=Membership(number == 0, len(loads)))
        for number, each in enumerate(loads)
    ]
    assert sum(cost(each, rate) for each in replicas) <= rate * 1.0001


@given(LOADS, st.floats(0.1, 100))
def test_the_replica_that_leads_reads_the_feed_although_nothing_is_in_flight_here(each: Load, rate: float) -> None:
    assert pace(replace(each, active=0, late=0, standing=Membership(leads=True, members=2)), rate).feed_gaps


def test_a_replica_that_is_told_what_the_feed_shows_reads_none_and_is_content_for_a_few_jobs() -> None:
    planned = pace(replace(load(1), standing=Membership(leads=False, members=2)), 10)
    assert not planned.feed_gaps
    assert not planned.looks_at_all


def test_a_replica_that_is_not_told_helps_itself() -> None:
    assert pace(replace(load(100, feed=False), standing=Membership(leads=False, members=2)), 10).looks_at_all


@given(LOADS, st.floats(0.1, 100))
def test_something_is_always_read_while_a_job_can_be_done(given_load: Load, rate: float) -> None:
    planned = pace(given_load, rate)
    if given_load.active:
        assert planned.looks_at_all or planned.feed_gaps
        assert math.isfinite(planned.look_gap)
        assert planned.sweep_rate > 0


def test_nothing_is_read_while_nothing_can_be_done() -> None:
    planned = pace(load(0), 10)
    assert planned.mode is Mode.REST
    assert not planned.feed_gaps
    assert not planned.looks_at_all


def test_a_few_jobs_are_looked_at_and_many_are_left_to_the_feed() -> None:
    assert pace(load(1), 10).mode is Mode.LOOKS
    assert pace(load(3), 10).mode is Mode.FEED


@given(st.integers(3, 20_000))
def test_the_cost_of_many_jobs_does_not_depend_on_their_number(active: int) -> None:
    assert (
        pace(load(active), 10) == pace(load(3), 10) or pace(load(active), 10).feed_gaps == pace(load(3), 10).feed_gaps
    )


def test_an_unreliable_feed_gives_way_to_looks() -> None:
    planned = pace(load(100, feed=False), 10)
    assert planned.mode is Mode.LOOKS_AND_FEED
    assert planned.feed_gaps["completed"] > pace(load(100), 10).feed_gaps["completed"]


def test_reliable_webhooks_leave_a_glance_now_and_then() -> None:
    planned = pace(load(100, push=True), 10)
    assert planned.mode is Mode.PUSH
    assert sum(1 / gap for gap in planned.feed_gaps.values()) <= 1.0


def test_outliers_are_read_more_slowly_the_longer_nothing_happens() -> None:
    gaps = [pace(load(100, 100, silence=silence), 10).feed_gaps["completed"] for silence in (0, 4, 10, 1000)]
    assert gaps == sorted(gaps)
    assert gaps[0] == pace(load(100), 10).feed_gaps["completed"]
    assert gaps[-1] > 5 * gaps[0]
