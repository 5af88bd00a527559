"""The list of the last requests: bounded, without content, each caller's own."""

import time

from proxy.api.http.middleware import RequestRecord
from proxy.console.recent import RecentRequests


def entry(owner: str = "a", jobs: tuple[str, ...] = ()) -> RequestRecord:
    return RequestRecord(at=time.time(), method="POST", owner=owner, request_id="req_1", jobs=jobs)


def test_only_the_last_requests_are_kept_the_newest_first() -> None:
    recent = RecentRequests(most=2)
    first, second, third = entry(), entry(), entry()
    for each in (first, second, third):
        recent.add(each)
    found = recent.seen_by(None)
    assert len(found) == 2
    assert found[0] is third
    assert found[1] is second


def test_a_caller_sees_its_own_requests_and_jobs_only() -> None:
    recent = RecentRequests()
    recent.add(entry("a", ("job-a",)))
    recent.add(entry("b", ("job-b",)))
    assert [each.owner for each in recent.seen_by("a")] == ["a"]
    assert recent.has_job("job-a", "a")
    assert not recent.has_job("job-b", "a")
    assert recent.has_job("job-b", None)


def test_jobs_are_forgotten_with_their_requests() -> None:
    recent = RecentRequests(most=1)
    recent.add(entry(jobs=("old",)))
    recent.add(entry())
    assert not recent.has_job("old", None)
