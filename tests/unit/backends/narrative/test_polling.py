"""What is read next, and how often: pure decisions, with time as an argument."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.lists import STATES, ListCursor
from proxy.backends.narrative.polling import (
    Budget,
    Durations,
    PolledJob,
    Polls,
    Situation,
    Usual,
    gap_at,
    next_polls,
)

RATE = 10.0


def job(started: float = 0.0, *, ready: float = 0.0, late: float = 15.0, **fields: Any) -> PolledJob:
    return PolledJob(started, started + ready, started + late, **fields)


def lists() -> dict[str, ListCursor]:
    return {state.value: ListCursor(state.value) for state in STATES}


class Watching:
    """Asks again and again for what to read, with reads that end at once and jobs that never do."""

    def __init__(self, jobs: list[PolledJob], situation: Situation | None = None, rate: float = RATE) -> None:
        self.jobs = jobs
        self.situation = situation or Situation()
        self.budget = Budget(rate, max(1.0, rate / 5), 0.0)
        self.lists = lists()
        self.now = 0.0
        self.list_reads: list[tuple[float, str]] = []
        self.job_reads: list[tuple[float, PolledJob]] = []

    def ask(self) -> Polls:
        polls = next_polls(self.jobs, self.lists, self.situation, self.budget, self.now)
        for state in polls.lists:
            self.lists[state].running = False
            self.list_reads.append((self.now, state))
        for read in polls.jobs:
            read.own_read, read.urgent_at, read.read_at = False, None, self.now
            self.job_reads.append((self.now, read))
        return polls

    def run(self, until: float) -> None:
        while self.now < until:
            polls = self.ask()
            if not polls.lists and not polls.jobs:
                assert polls.again_at > self.now
                self.now = min(polls.again_at, until)

    @property
    def reads(self) -> int:
        return len(self.list_reads) + len(self.job_reads)


def test_nothing_is_read_while_no_job_can_have_ended() -> None:
    watching = Watching([job(ready=3.0), job(ready=2.0)])
    polls = watching.ask()
    assert (polls.lists, polls.jobs, polls.again_at) == ((), (), 2.0)


def test_without_jobs_there_is_nothing_to_ask_again_for() -> None:
    assert Watching([]).ask() == Polls()


@pytest.mark.parametrize("age", [0.0, 1.0, 5.0, 22.0, 100.0])
def test_a_job_alone_in_flight_is_read_often_enough_for_its_age(age: float) -> None:
    watching = Watching([job(-age)])
    watching.run(10.0)
    assert not watching.list_reads
    times = [at for at, _ in watching.job_reads]
    longest = max(later - earlier for earlier, later in pairwise(times))
    assert longest <= max(0.13, 0.02 * (age + 10.0))


SITUATIONS = st.builds(Situation, st.booleans(), st.integers(2, 4), st.booleans(), st.booleans()) | st.builds(
    Situation, lists_reliable=st.booleans(), webhooks_reliable=st.booleans()
)


@given(st.integers(0, 400), st.integers(0, 30), SITUATIONS)
def test_reads_stay_within_the_budget_and_happen_whatever_is_in_flight(
    young: int, old: int, situation: Situation
) -> None:
    watching = Watching([*(job() for _ in range(young)), *(job(-60.0) for _ in range(old))], situation)
    watching.budget.share = 1.0 if situation.leads else 1 / situation.members
    watching.run(8.0)
    assert watching.reads <= RATE * 8.0 + RATE / 5 + 1
    if young + old and situation.leads:
        assert watching.reads >= 4


def test_one_read_of_its_own_comes_at_once_and_on_top_of_the_budget() -> None:
    watching = Watching([job(own_read=True) for _ in range(12)])
    watching.budget.limited(started=-1.0, now=-1.0, retry_after=0.0)
    for _ in range(20):
        watching.budget.take(0.0)
    assert len(watching.ask().jobs) == 12
    assert not watching.ask().jobs


def test_reads_on_top_of_the_budget_wait_for_the_end_of_a_pause() -> None:
    watching = Watching([job(own_read=True), job(urgent_at=0.0)])
    watching.budget.limited(started=0.0, now=0.0, retry_after=3.0)
    polls = watching.ask()
    assert (polls.jobs, polls.again_at) == ((), 3.0)
    watching.now = 3.0
    assert len(watching.ask().jobs) == 2


def test_an_urgent_job_is_read_when_its_time_comes_and_not_while_it_is_being_read() -> None:
    watching = Watching([job(urgent_at=0.4), job(urgent_at=0.0, reading=True)])
    assert watching.ask().again_at == 0.4
    watching.now = 0.4
    assert watching.ask().jobs == (watching.jobs[0],)


def test_many_jobs_cost_no_single_reads_until_they_are_late() -> None:
    watching = Watching([job() for _ in range(100)])
    watching.run(10.0)
    assert not watching.job_reads
    assert {state for _, state in watching.list_reads} == {state.value for state in STATES}
    watching.run(20.0)
    assert {at >= 15.0 for at, _ in watching.job_reads} == {True}


def test_two_jobs_are_read_each_and_three_by_the_lists() -> None:
    two, three = Watching([job(), job()]), Watching([job(), job(), job()])
    two.run(2.0)
    three.run(2.0)
    assert (bool(two.job_reads), bool(two.list_reads)) == (True, False)
    assert (bool(three.job_reads), bool(three.list_reads)) == (False, True)


def test_every_job_is_read_in_turn_when_the_lists_are_unreliable() -> None:
    watching = Watching([job() for _ in range(20)], Situation(lists_reliable=False))
    watching.run(8.0)
    assert {id(read) for _, read in watching.job_reads} == {id(each) for each in watching.jobs}
    assert watching.list_reads, "they may become reliable again"


def test_lists_are_read_less_often_for_jobs_that_all_are_old() -> None:
    young, old = Watching([job() for _ in range(10)]), Watching([job(-100.0) for _ in range(10)])
    young.run(10.0)
    old.run(10.0)
    assert len(old.list_reads) < len(young.list_reads) / 3


def test_while_webhooks_are_reliable_the_lists_are_glanced_at_and_late_jobs_read() -> None:
    watching = Watching([*(job() for _ in range(50)), job(-60.0)], Situation(webhooks_reliable=True))
    assert watching.ask().glance
    watching.run(10.0)
    assert len(watching.list_reads) <= 15
    assert {id(read) for _, read in watching.job_reads} == {id(watching.jobs[-1])}


def test_a_follower_reads_no_lists_and_only_its_share_of_jobs() -> None:
    follower = Watching([job(-60.0) for _ in range(50)], Situation(leads=False, members=3))
    follower.budget.share = 1 / 3
    follower.run(10.0)
    assert not follower.list_reads
    assert 0 < len(follower.job_reads) <= RATE * 10 / 3 + 2


def test_a_leader_reads_the_lists_for_others_even_without_jobs() -> None:
    leader = Watching([], Situation(members=2))
    leader.run(2.0)
    assert leader.list_reads
    assert not leader.job_reads


def test_reads_under_way_bound_the_ones_that_start() -> None:
    watching = Watching([job(own_read=True) for _ in range(30)], Situation(free_reads=4))
    assert len(watching.ask().jobs) == 4
    watching.situation = replace(watching.situation, free_reads=0)
    assert not watching.ask().jobs


@given(st.floats(0.0, 1e6))
def test_the_gap_follows_the_age_within_bounds(age: float) -> None:
    assert 0.1 <= gap_at(age) <= max(0.1, min(0.02 * age, 2.0))


# ---------------------------------------------------------------- budget


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


# ---------------------------------------------------------------- durations


def learned(seconds: float, count: int = Durations.ENOUGH) -> Durations:
    durations = Durations()
    for _ in range(count):
        durations.learn("model", seconds)
    return durations


def test_nothing_is_known_of_a_new_model_nor_after_a_few_jobs() -> None:
    assert Durations().usual("model") == Usual()
    assert learned(8.0, Durations.ENOUGH - 1).usual("model") == Usual()
    assert learned(8.0).usual("other") == Usual()


def test_no_job_is_read_before_it_can_have_ended() -> None:
    usual = learned(8.0).usual("model")
    assert 5.0 < usual.earliest < 8.0
    assert usual.late > 8.0
    assert usual.quick is False


@pytest.mark.parametrize(("seconds", "quick"), [(0.0, True), (0.05, True), (0.06, False)])
def test_jobs_that_end_with_the_answer_to_their_submission_are_quick(seconds: float, quick: bool) -> None:
    assert learned(seconds).usual("model").quick is quick


def test_what_is_learned_follows_a_change() -> None:
    durations = learned(30.0, 200)
    for _ in range(Durations.WINDOW):
        durations.learn("model", 1.0)
    assert durations.usual("model").late < 5.0


def test_the_table_of_models_is_bounded() -> None:
    durations = Durations()
    for number in range(Durations.MODELS * 2):
        for _ in range(Durations.ENOUGH):
            durations.learn(f"model {number}", 9.0)
    assert durations.usual("model 0") == Usual()
    assert durations.usual(f"model {Durations.MODELS * 2 - 1}") != Usual()
    assert math.isfinite(durations.usual("model 0").late)
