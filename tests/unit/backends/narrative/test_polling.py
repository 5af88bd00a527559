"""What is read next, and how often: pure decisions, with time as an argument."""

from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.polling import (
    ListCursor,
    Polls,
    ReadBudget,
    Reliability,
    Table,
    WatchedJob,
    gap_at,
    next_polls,
)
from proxy.backends.narrative.types import ENDED
from proxy.errors import RateLimited, UpstreamError

RATE = 10.0
NUMBERS = count()


def job(started: float = 0.0, **fields: Any) -> WatchedJob:
    watched = WatchedJob(f"job-{next(NUMBERS)}", started, "account")
    for name, value in fields.items():
        setattr(watched, name, value)
    return watched


UNRELIABLE = {"list": False, "webhook": False}
WEBHOOKS = {"list": True, "webhook": True}


class Watching:
    """Asks again and again for what to read, with reads that end at once and jobs that never do."""

    def __init__(self, jobs: list[WatchedJob], rate: float = RATE, **situation: Any) -> None:
        self.jobs = jobs
        self.table = Table(**situation)
        self.budget = ReadBudget(rate, 0.0)
        for each in jobs:
            self.add(each)
        self.now = 0.0
        self.list_reads: list[tuple[float, str]] = []
        self.job_reads: list[tuple[float, WatchedJob]] = []

    def add(self, job: WatchedJob) -> None:
        self.table.jobs[job.id] = job
        self.table.newest = max(self.table.newest, job.started)
        if job.urgent_at is not None:
            self.table.hurry(job, job.urgent_at)

    def ask(self) -> Polls:
        polls = next_polls(self.table, self.now, self.budget)
        for cursor in polls.lists:
            cursor.running = False
            self.list_reads.append((self.now, cursor.state))
        for read in polls.jobs:
            read.reading = False
            self.table.reading -= 1
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


SITUATIONS = st.fixed_dictionaries(
    {
        "leads": st.booleans(),
        "members": st.integers(2, 4),
        "reliable": st.sampled_from([{"list": True, "webhook": False}, UNRELIABLE, WEBHOOKS]),
    }
) | st.fixed_dictionaries({"reliable": st.sampled_from([{"list": True, "webhook": False}, UNRELIABLE, WEBHOOKS])})


@given(st.integers(0, 400), st.integers(0, 30), SITUATIONS)
def test_reads_stay_within_the_budget_and_happen_whatever_is_in_flight(
    young: int, old: int, situation: dict[str, Any]
) -> None:
    leads = situation.get("leads", True)
    jobs = [*(job() for _ in range(young)), *(job(-60.0) for _ in range(old))]
    watching = Watching(jobs, **{**situation, "reads_lists": leads, "reliable": dict(situation["reliable"])})
    watching.budget.share = 1.0 if leads else 1 / situation["members"]
    watching.run(8.0)
    assert watching.reads <= RATE * 8.0 + RATE / 5 + 1
    if young + old and leads:
        assert watching.reads >= 4


def test_urgent_reads_come_at_once_and_on_top_of_the_budget() -> None:
    watching = Watching([job(urgent_at=0.0) for _ in range(12)])
    for _ in range(20):
        watching.budget.take(0.0)
    assert len(watching.ask().jobs) == 12
    assert not watching.ask().jobs


def test_reads_on_top_of_the_budget_wait_for_the_end_of_a_pause() -> None:
    watching = Watching([job(urgent_at=0.0), job(urgent_at=0.0)])
    watching.budget.failed(LIMITED, started=0.0, now=0.0)
    polls = watching.ask()
    assert (polls.jobs, polls.lists, polls.again_at) == ([], [], 3.0)
    watching.now = 3.0
    assert len(watching.ask().jobs) == 2


def test_an_urgent_job_is_read_when_its_time_comes_and_not_while_it_is_being_read() -> None:
    watching = Watching([job(urgent_at=0.4), job(urgent_at=0.0, reading=True)])
    watching.budget = ReadBudget(1e-6, 0.0)
    watching.budget.take(0.0)
    assert watching.ask().again_at == 0.4
    watching.now = 0.4
    assert watching.ask().jobs == [watching.jobs[0]]


def test_only_the_latest_time_of_an_urgent_job_counts() -> None:
    watching = Watching([job(urgent_at=5.0)])
    watching.table.hurry(watching.jobs[0], 0.0)
    assert watching.ask().jobs == watching.jobs
    watching.table.hurry(watching.jobs[0], 2.0)
    watching.table.drop(watching.jobs[0])
    watching.now = 9.0
    assert watching.ask() == Polls()


def test_many_jobs_cost_no_single_reads_until_they_are_past_their_usual_duration() -> None:
    watching = Watching([job() for _ in range(100)], usual=10.0)
    watching.run(15.9)
    assert not watching.job_reads
    assert {state for _, state in watching.list_reads} == set(ENDED)
    watching.run(20.0)
    assert watching.job_reads


def test_jobs_that_the_lists_omit_are_each_read_in_the_end() -> None:
    watching = Watching([job() for _ in range(30)])
    watching.run(60.0)
    assert {id(read) for _, read in watching.job_reads} == {id(each) for each in watching.jobs}


def test_jobs_are_read_each_where_the_budget_suffices_for_their_age() -> None:
    young, old, slow = Watching([job(), job()]), Watching([job(-60.0), job(-60.0)]), Watching([job()], rate=0.5)
    for watching in (young, old, slow):
        watching.run(2.0)
    assert (bool(young.job_reads), bool(young.list_reads)) == (False, True)
    assert (bool(old.job_reads), bool(old.list_reads)) == (True, False)
    assert (bool(slow.job_reads), bool(slow.list_reads)) == (True, False)


def test_every_job_is_read_in_turn_when_the_lists_are_unreliable() -> None:
    watching = Watching([job() for _ in range(20)], reliable=dict(UNRELIABLE))
    watching.run(8.0)
    assert {id(read) for _, read in watching.job_reads} == {id(each) for each in watching.jobs}
    assert watching.list_reads, "they may become reliable again"


def test_lists_are_read_less_often_for_jobs_that_all_are_old() -> None:
    young, old = Watching([job() for _ in range(10)]), Watching([job(-100.0) for _ in range(10)])
    young.run(10.0)
    old.run(10.0)
    assert len(old.list_reads) < len(young.list_reads) / 3


def test_while_webhooks_are_reliable_the_lists_are_read_now_and_then_and_late_jobs_each() -> None:
    watching = Watching([job(-60.0), *(job() for _ in range(50))], reliable=dict(WEBHOOKS), usual=10.0)
    watching.run(10.0)
    assert 0 < len(watching.list_reads) <= 15
    assert {id(read) for _, read in watching.job_reads} == {id(watching.jobs[0])}


def test_a_follower_reads_no_lists_and_only_its_share_of_jobs() -> None:
    follower = Watching([job(-60.0) for _ in range(50)], leads=False, reads_lists=False, members=3)
    follower.budget.share = 1 / 3
    follower.run(10.0)
    assert not follower.list_reads
    assert 0 < len(follower.job_reads) <= RATE * 10 / 3 + 2


def test_a_leader_reads_the_lists_for_others_even_without_jobs() -> None:
    leader = Watching([], members=2)
    leader.run(2.0)
    assert leader.list_reads
    assert not leader.job_reads


def test_reads_under_way_bound_the_ones_that_start() -> None:
    watching = Watching([job(urgent_at=0.0) for _ in range(30)], reading=12)
    assert len(next_polls(watching.table, 0.0, watching.budget).jobs) == 4
    assert not next_polls(watching.table, 0.0, watching.budget).jobs


def test_ten_thousand_jobs_are_not_scanned() -> None:
    watching = Watching([job() for _ in range(10_000)])
    seen: list[str] = []

    class Jobs(type(watching.table.jobs)):  # type: ignore[misc]
        def values(self) -> Any:
            for each in super().values():
                seen.append(each.id)
                yield each

    watching.table.jobs = Jobs(watching.table.jobs)
    watching.now = 30.0
    for _ in range(10):
        watching.ask()
        watching.now += 0.1
    assert watching.job_reads
    assert len(seen) <= 500


@given(st.floats(0.0, 1e6))
def test_the_gap_follows_the_age_within_bounds(age: float) -> None:
    assert 0.1 <= gap_at(age) <= max(0.15, min(0.02 * age, 2.0))


# ---------------------------------------------------------------- budget

LIMITED = RateLimited("slow down", retry_after=3.0)
AWAY = UpstreamError("away", code="narrative_unavailable")


def spend(budget: ReadBudget, seconds: float) -> list[float]:
    """Times of reads when each starts as early as it may."""
    times = []
    now = 0.0
    while (now := budget.ready_at(now)) < seconds:
        budget.take(now)
        times.append(now)
    return times


@given(st.floats(0.5, 50), st.floats(1, 20))
def test_reads_never_exceed_rate_times_time_plus_burst(rate: float, seconds: float) -> None:
    assert len(spend(ReadBudget(rate, 0.0), seconds)) <= rate * seconds + max(1.0, rate / 5) + 1


def test_a_read_before_its_time_delays_the_ones_after_it() -> None:
    budget = ReadBudget(10, 0.0)
    for _ in range(5):
        budget.take(0.0)
    assert budget.ready_at(0.0) >= 0.35


def test_a_rate_limit_pauses_and_slows_for_a_while() -> None:
    budget = ReadBudget(10, 0.0)
    budget.failed(LIMITED, started=0.0, now=0.0)
    assert budget.ready_at(0.0) == 3.0
    assert budget.paused_until == 3.0
    assert budget.rate == 5.0
    budget.ready_at(4.0)
    budget.ready_at(100.0)
    assert budget.rate == 10.0


def test_many_reads_limited_at_once_slow_down_once() -> None:
    budget = ReadBudget(10, 0.0)
    for _ in range(20):
        budget.failed(LIMITED, started=0.0, now=0.5)
    assert budget.rate == 5.0


def test_a_storm_of_rate_limits_never_stops_reading_for_good() -> None:
    budget = ReadBudget(10, 0.0)
    for second in range(100):
        budget.failed(RateLimited("slow down", retry_after=0.5), started=second, now=second)
    assert budget.rate > 0
    assert budget.ready_at(100.0) < 110.0


def test_pauses_in_an_outage_grow_up_to_a_bound_and_end_with_the_first_answer() -> None:
    budget = ReadBudget(10, 0.0)
    now, pauses = 0.0, []
    for _ in range(10):
        budget.failed(AWAY, started=now, now=now)
        pauses.append(budget.paused_until - now)
        now = budget.paused_until
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.2
    assert pauses[-1] == 5.0
    budget.failures = 0
    budget.failed(AWAY, started=now, now=now)
    assert budget.paused_until - now == pytest.approx(pauses[0])


def test_many_failures_at_once_count_as_one() -> None:
    budget = ReadBudget(10, 0.0)
    for _ in range(30):
        budget.failed(AWAY, started=0.0, now=0.05)
    assert budget.paused_until < 0.5


# ---------------------------------------------------------------- cursors of lists


def page(newest: int, count: int) -> list[str]:
    """Ids of the jobs `newest`, `newest - 1`, …"""
    return [f"job {number}" for number in range(newest, max(newest - count, -1), -1)]


def read(cursor: ListCursor, newest: int, now: float, record_bytes: int = 100) -> set[str]:
    """One whole read of a list that grew to `newest`; the ids it showed."""
    asked = cursor.first_page(now)
    shown: set[str] = set()
    offset = 0
    while asked:
        ids = page(newest - offset, asked)
        shown.update(ids)
        offset += asked
        asked = cursor.next_page(ids, len(ids), asked, record_bytes * len(ids))
    cursor.end(now)
    return shown


@given(st.lists(st.integers(0, 1500), min_size=1, max_size=20))
def test_no_end_is_missed_between_two_reads(growth: list[int]) -> None:
    cursor = ListCursor("completed")
    newest = 10
    read(cursor, newest, 0.0)
    for number, new in enumerate(growth):
        before, newest = newest, newest + new
        shown = read(cursor, newest, 0.2 * (number + 1))
        assert {f"job {at}" for at in range(before + 1, newest + 1)} <= shown


def test_a_quiet_list_is_asked_for_little() -> None:
    cursor = ListCursor("completed")
    read(cursor, 100, 0.0)
    for number in range(50):
        read(cursor, 100, float(number) / 5)
    assert cursor.first_page(11.0) <= 25


@pytest.mark.parametrize(("record_bytes", "records"), [(166_000, 1), (20_000, 13), (1_000, 20)])
def test_pages_of_large_records_are_small(record_bytes: int, records: int) -> None:
    cursor = ListCursor("completed")
    read(cursor, 1_000, 0.0, record_bytes)
    for number in range(40):
        read(cursor, 1_000, float(number) / 5, record_bytes)
    assert cursor.first_page(9.0) == records


def test_a_read_stops_after_a_few_pages() -> None:
    cursor = ListCursor("completed")
    read(cursor, 100, 0.0)
    assert len(read(cursor, 1_000_000, 0.2)) <= 2_000


def test_after_an_outage_all_that_ended_meanwhile_is_read() -> None:
    cursor = ListCursor("completed")
    read(cursor, 100, 0.0)
    assert len(read(cursor, 6_000, 45.0)) >= 5_900
    assert len(read(cursor, 1_000_000, 90.0)) <= 10_000


def test_after_a_long_rest_the_backlog_is_left_alone() -> None:
    cursor = ListCursor("completed")
    read(cursor, 100, 0.0)
    assert len(read(cursor, 100_000, 1000.0)) <= 100


def test_records_that_were_listed_late_are_shown_by_the_overlap() -> None:
    cursor = ListCursor("completed")
    read(cursor, 100, 0.0)
    asked = cursor.first_page(0.2)
    ids = page(101, asked)
    ids.insert(5, "late")
    assert not cursor.next_page(ids, len(ids), asked)


def test_reads_stay_evenly_spaced_when_one_starts_a_little_late() -> None:
    cursor = ListCursor("completed")
    cursor.start(10.0, gap=0.2)
    cursor.start(10.25, gap=0.2)
    assert cursor.due(0.2) == pytest.approx(10.4)
    cursor.start(20.0, gap=0.2)
    assert cursor.due(0.2) == pytest.approx(20.2)


def test_a_list_that_cannot_be_read_is_asked_less_often_until_it_can() -> None:
    cursor = ListCursor("completed")
    cursor.start(10.0, gap=0.2)
    cursor.failures += 10
    assert cursor.due(0.2) > 15
    read(cursor, 100, 20.0)
    assert cursor.due(0.2) < 15


def test_what_another_replica_read_need_not_be_read_again() -> None:
    cursor = ListCursor("completed")
    read(cursor, 100, 0.0)
    cursor.answered(frozenset(f"job {number}" for number in range(900, 1001)), 5.0)
    shown = read(cursor, 1_020, 5.2)
    assert {f"job {number}" for number in range(1_001, 1_021)} <= shown
    assert "job 500" not in shown


def test_what_was_read_elsewhere_without_overlap_leaves_a_gap() -> None:
    cursor = ListCursor("completed")
    assert not cursor.misses(frozenset({"job 1"})), "nothing is known yet"
    read(cursor, 100, 0.0)
    assert not cursor.misses(frozenset())
    assert not cursor.misses(frozenset({"job 100", "job 101"}))
    assert cursor.misses(frozenset({"job 150", "job 151"}))


# ---------------------------------------------------------------- reliability


def missed(source: Reliability, count: int, now: float) -> None:
    for number in range(count):
        source.owe(f"missed at {now}, {number}", now)
    source.settle(now + 5.0)


def test_a_source_that_misses_ends_is_unreliable_until_it_shows_them_again() -> None:
    source = Reliability(reliable=True, grace=1.0)
    missed(source, 2, 0.0)
    assert source.reliable
    missed(source, 1, 1.0)
    assert not source.reliable
    for _ in range(7):
        source.count(shown=True)
    assert not source.reliable
    source.count(shown=True)
    assert source.reliable


def test_misses_among_many_hits_do_no_harm() -> None:
    source = Reliability(reliable=True, grace=1.0)
    for number in range(20):
        missed(source, 1, 30.0 * number)
        for _ in range(9):
            source.count(shown=True)
    assert source.reliable


def test_hits_between_misses_do_not_hide_them() -> None:
    source = Reliability(reliable=True, grace=1.0)
    for number in range(5):
        source.count(shown=True)
        missed(source, 1, float(number))
    assert not source.reliable


def test_a_new_source_has_to_prove_itself() -> None:
    source = Reliability(reliable=False, grace=3.0)
    for _ in range(10):
        source.count(shown=True)
    assert not source.reliable
    source.count(shown=True)
    assert source.reliable


def test_what_is_shown_within_the_grace_is_no_miss() -> None:
    source, cursor = Reliability(reliable=True, grace=3.0), ListCursor("completed")
    for name in "abc":
        source.owe(name, 10.0, cursor)
    cursor.reads = 100
    source.settle(12.9)
    cursor.reads = 1
    source.settle(20.0)
    assert source.reliable, "too few reads of the list"
    for name in "ab":
        source.shown(name)
    cursor.reads = 2
    source.settle(20.0)
    assert source.reliable


def test_what_is_owed_is_bounded_and_forgotten_when_the_source_is_not_followed() -> None:
    source = Reliability(reliable=True, grace=3.0)
    for number in range(100_000):
        source.owe(f"job {number}", 0.0)
    assert len(source._owed) <= 1_000
    source.settle(100.0, followed=False)
    source.settle(100.0)
    assert source.reliable


# ---------------------------------------------------------------- the first read of a job


def first_read(*took: float, jobs: int = 1, usual: float = 3.0, **situation: Any) -> float | None:
    """When a job that was submitted just now is first read, after jobs that took so many seconds; None for no read of its own."""
    table = Table(usual=usual, **situation)
    for seconds in took:
        table.ended("earlier", ENDED[0], "read", seconds, 0.0)
    watched = [job() for _ in range(jobs)]
    table.jobs.update({each.id: each for each in watched})
    return table.first_read_at(watched[0], 0.0, RATE)


def test_the_first_job_is_read_at_once() -> None:
    assert first_read() == 0.0


def test_a_lone_job_is_first_read_after_half_the_time_of_the_shortest_of_the_last_ones() -> None:
    assert first_read(0.6, 0.5) == pytest.approx(0.25, abs=0.01)
    assert first_read(*[5.0] * 10) == 0.3
    assert first_read(*[5.0] * 10, 0.0) == 0.0, "one that was quick is enough"
    rising = first_read(0.0, *[1.0] * 5)
    assert rising is not None
    assert 0.05 < rising < 0.2


def test_many_jobs_are_read_once_each_only_where_they_are_quick() -> None:
    assert first_read(jobs=100) is None
    assert first_read(jobs=100, usual=0.05) == 0.0
    assert first_read(has_webhooks=True) is None
