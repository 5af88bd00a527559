"""The list of the last requests: bounded, without content, each caller's own."""

import time
from collections import deque

from proxy.console.routes import seen_by
from proxy.logs import RequestRecord


def entry(owner: str = "a", jobs: tuple[str, ...] = ()) -> RequestRecord:
    return RequestRecord(at=time.time(), method="POST", owner=owner, request_id="req_1", jobs=jobs)


def test_only_the_last_requests_are_kept_the_newest_first() -> None:
    recent: deque[RequestRecord] = deque(maxlen=2)
    first, second, third = entry(), entry(), entry()
    recent.extend((first, second, third))
    found = seen_by(recent, None)
    assert len(found) == 2
    assert found[0] is third
    assert found[1] is second


def test_a_caller_sees_its_own_requests_only() -> None:
    recent = [entry("a", ("job-a",)), entry("b", ("job-b",))]
    assert [each.owner for each in seen_by(recent, "a")] == ["a"]
    assert [each.jobs for each in seen_by(recent, None)] == [("job-b",), ("job-a",)]
