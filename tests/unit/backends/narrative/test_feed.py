from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.feed import FeedCursor, record_id


def cursor() -> FeedCursor:
    return FeedCursor("completed", lambda _: None)


def page(newest: int, count: int) -> list[dict[str, Any]]:
    """Records of jobs `newest`, `newest - 1`, …"""
    return [{"job_id": f"job {number}"} for number in range(newest, max(newest - count, -1), -1)]


def read(feed: FeedCursor, newest: int, now: float) -> set[str]:
    """One whole read of a list that grew to `newest`; the ids it showed."""
    asked = feed.begin(now)
    shown: set[str] = set()
    offset = 0
    while True:
        records = page(newest - offset, asked)
        shown |= {record["job_id"] for record in records}
        if not feed.absorb(records, asked):
            break
        offset += asked
        asked = 500
    feed.end(now)
    return shown


@given(st.lists(st.integers(0, 1500), min_size=1, max_size=20))
def test_no_end_is_missed_between_two_reads(growth: list[int]) -> None:
    feed = cursor()
    newest = 10
    read(feed, newest, 0.0)
    for number, new in enumerate(growth):
        before, newest = newest, newest + new
        shown = read(feed, newest, 0.2 * (number + 1))
        assert {f"job {at}" for at in range(before + 1, newest + 1)} <= shown


def test_a_quiet_feed_asks_for_little() -> None:
    feed = cursor()
    read(feed, 100, 0.0)
    for beat in range(50):
        read(feed, 100, float(beat) / 5)
    assert feed.begin(11.0) <= 25


def test_a_read_stops_after_a_few_pages() -> None:
    feed = cursor()
    read(feed, 100, 0.0)
    assert len(read(feed, 1_000_000, 0.2)) <= 2_000


def test_after_an_outage_all_that_ended_meanwhile_is_read() -> None:
    feed = cursor()
    read(feed, 100, 0.0)
    assert len(read(feed, 6_000, 45.0)) >= 5_900
    assert len(read(feed, 1_000_000, 90.0)) <= 10_000


def test_what_ended_while_nobody_followed_is_left_alone() -> None:
    feed = cursor()
    read(feed, 100, 0.0)
    feed.forget()
    assert len(read(feed, 6_000, 45.0)) <= 100


def test_after_a_long_rest_the_backlog_is_left_alone() -> None:
    feed = cursor()
    read(feed, 100, 0.0)
    assert len(read(feed, 100_000, 1000.0)) <= 100


def test_records_that_were_listed_late_are_shown_by_the_overlap() -> None:
    feed = cursor()
    read(feed, 100, 0.0)
    asked = feed.begin(0.2)
    records = page(101, asked)
    records.insert(5, {"id": "late"})
    assert not feed.absorb(records, asked)


def test_the_beat_is_kept_when_a_read_starts_a_little_late() -> None:
    feed = cursor()
    feed.start(10.0, gap=0.2)
    feed.start(10.25, gap=0.2)
    assert feed.due(0.2) == pytest.approx(10.4)
    feed.start(20.0, gap=0.2)
    assert feed.due(0.2) == pytest.approx(20.2)


def test_a_feed_that_cannot_be_read_is_asked_less_often_and_not_relied_on_until_it_can() -> None:
    feed = cursor()
    feed.start(10.0, gap=0.2)
    for _ in range(10):
        feed.failed(10.0)
    assert feed.due(0.2) > 15
    assert not feed.reliable
    read(feed, 100, 20.0)
    assert feed.due(0.2) < 15
    assert feed.reliable


def test_a_feed_that_left_out_ends_gets_a_new_chance_in_the_end() -> None:
    feed = cursor()
    for number in range(5):
        feed.trust.owe(f"job {number}", 0)
    for beat in range(10):
        read(feed, 100, beat / 5)
    assert not feed.reliable
    for beat in range(2_000):
        read(feed, 100, beat / 5)
    assert feed.reliable


def test_what_another_replica_read_need_not_be_read_again() -> None:
    feed = cursor()
    read(feed, 100, 0.0)
    feed.read_elsewhere(frozenset(f"job {number}" for number in range(900, 1001)), 5.0)
    shown = read(feed, 1_020, 5.2)
    assert {f"job {number}" for number in range(1_001, 1_021)} <= shown
    assert "job 500" not in shown


def test_what_was_read_elsewhere_without_overlap_leaves_a_gap() -> None:
    feed = cursor()
    assert not feed.misses(frozenset({"job 1"})), "nothing is known yet"
    read(feed, 100, 0.0)
    assert not feed.misses(frozenset())
    assert not feed.misses(frozenset({"job 100", "job 101"}))
    assert feed.misses(frozenset({"job 150", "job 151"}))


def test_a_feed_that_cannot_be_read_is_hopeless_for_a_while() -> None:
    feed = cursor()
    for _ in range(3):
        assert not feed.hopeless(5.0)
        feed.failed(5.0)
    assert feed.hopeless(5.0)
    assert not feed.hopeless(60.0)
    read(feed, 100, 5.0)
    assert not feed.hopeless(5.0)


def test_a_feed_that_another_replica_reads_is_trusted_by_the_same_rules() -> None:
    feed = cursor()
    for number in range(5):
        feed.trust.owe(f"job {number}", 0)
    for beat in range(10):
        feed.read_elsewhere(frozenset(), beat / 5)
    assert not feed.reliable


def test_records_without_an_id_are_skipped() -> None:
    feed = cursor()
    assert record_id({}) is None
    assert record_id({"job_id": 5}) is None
    assert record_id({"id": "a"}) == "a"
    assert not feed.absorb([{}, {"job_id": None}], feed.begin(0.0))
