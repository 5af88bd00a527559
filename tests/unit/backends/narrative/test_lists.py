"""Cursors of lists, and which sources are relied on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.lists import ListCursor, Reliability


def page(newest: int, count: int) -> list[str]:
    """Ids of the jobs `newest`, `newest - 1`, …"""
    return [f"job {number}" for number in range(newest, max(newest - count, -1), -1)]


def read(cursor: ListCursor, newest: int, now: float, record_bytes: int = 100) -> set[str]:
    """One whole read of a list that grew to `newest`; the ids it showed."""
    asked = cursor.begin(now)
    shown: set[str] = set()
    offset = 0
    while asked:
        ids = page(newest - offset, asked)
        shown.update(ids)
        offset += asked
        asked = cursor.absorb(ids, len(ids), asked, record_bytes * len(ids))
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
    assert cursor.begin(11.0) <= 25


@pytest.mark.parametrize(("record_bytes", "records"), [(166_000, 1), (20_000, 13), (1_000, 20)])
def test_pages_of_large_records_are_small(record_bytes: int, records: int) -> None:
    cursor = ListCursor("completed")
    read(cursor, 1_000, 0.0, record_bytes)
    for number in range(40):
        read(cursor, 1_000, float(number) / 5, record_bytes)
    assert cursor.begin(9.0) == records


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
    asked = cursor.begin(0.2)
    ids = page(101, asked)
    ids.insert(5, "late")
    assert not cursor.absorb(ids, len(ids), asked)


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
    for _ in range(10):
        cursor.failed(10.0)
    assert cursor.due(0.2) > 15
    read(cursor, 100, 20.0)
    assert cursor.due(0.2) < 15


def test_what_another_replica_read_need_not_be_read_again() -> None:
    cursor = ListCursor("completed")
    read(cursor, 100, 0.0)
    cursor.read_elsewhere(frozenset(f"job {number}" for number in range(900, 1001)), 5.0)
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
    source = Reliability(reliable=True, patience=1.0)
    missed(source, 2, 0.0)
    assert source.reliable
    missed(source, 1, 1.0)
    assert not source.reliable
    for _ in range(9):
        source.hit()
    assert not source.reliable
    source.hit()
    assert source.reliable


def test_misses_far_apart_do_no_harm() -> None:
    source = Reliability(reliable=True, patience=1.0)
    for number in range(20):
        missed(source, 1, 30.0 * number)
    assert source.reliable


def test_hits_between_misses_do_not_hide_them() -> None:
    source = Reliability(reliable=True, patience=1.0)
    for number in range(3):
        for _ in range(100):
            source.hit()
        missed(source, 1, float(number))
    assert not source.reliable


def test_a_new_source_has_to_prove_itself() -> None:
    source = Reliability(reliable=False, patience=3.0)
    for _ in range(9):
        source.hit()
    assert not source.reliable
    source.hit()
    assert source.reliable


def test_what_is_shown_within_the_patience_is_no_miss() -> None:
    source = Reliability(reliable=True, patience=3.0)
    for name in "abc":
        source.owe(name, 10.0, reads=5)
    source.settle(12.9, reads=100)
    source.settle(20.0, reads=6)
    assert source.reliable, "too few reads of the list"
    for name in "ab":
        source.shown(name)
    source.settle(20.0, reads=7)
    assert source.reliable


def test_what_is_owed_is_forgiven_and_bounded() -> None:
    source = Reliability(reliable=True, patience=3.0)
    for number in range(100_000):
        source.owe(f"job {number}", 0.0)
    assert len(source._owed) <= 1_000
    source.forgive()
    source.settle(100.0)
    assert source.reliable
