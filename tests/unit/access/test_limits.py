"""Who is let in when: requests and tokens a minute, jobs in flight."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.access.limits import Lease, Quota, RateLimits, Rule
from proxy.errors import RateLimited
from proxy.storage import Limit, MemoryStore
from proxy.storage.store import Levels
from tests.waiting import until


async def enter(limits: RateLimits, quota: Quota, *, tokens: int = 10, jobs: int = 1, scope: str = "s") -> Any:
    try:
        return await limits.enter([Rule(scope, quota)], tokens=tokens, jobs=jobs)
    except RateLimited as error:
        return error


@pytest.fixture
def limits() -> RateLimits:
    return RateLimits(MemoryStore(), wait_s=0)


async def test_without_a_quota_nothing_is_counted_or_told() -> None:
    store = MemoryStore()
    lease = await enter(RateLimits(store), Quota())
    assert lease.headers == {}
    await lease.release(1_000)
    assert not store._counters


async def test_of_many_at_once_exactly_as_many_are_let_in_as_the_limit_says(limits: RateLimits) -> None:
    got = await asyncio.gather(*(enter(limits, Quota(requests=50)) for _ in range(200)))
    assert sum(isinstance(each, Lease) for each in got) == 50


async def test_the_headers_count_down_and_the_refusal_says_when_to_come_back(limits: RateLimits) -> None:
    quota = Quota(requests=3)
    left = [(await enter(limits, quota)).headers["x-ratelimit-remaining-requests"] for _ in range(3)]
    assert left == ["2", "1", "0"]
    refusal = await enter(limits, quota)
    assert refusal.headers["x-ratelimit-limit-requests"] == "3"
    assert refusal.headers["x-ratelimit-remaining-requests"] == "0"
    assert 50 < refusal.retry_after <= 60
    assert 50 < float(refusal.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60


async def test_scopes_are_counted_apart(limits: RateLimits) -> None:
    assert isinstance(await enter(limits, Quota(requests=1), scope="a"), Lease)
    assert isinstance(await enter(limits, Quota(requests=1), scope="b"), Lease)


async def test_a_refusal_by_one_rule_uses_up_nothing_of_another(limits: RateLimits) -> None:
    narrow, wide = Rule("narrow", Quota(requests=1)), Rule("wide", Quota(requests=2))
    await limits.enter([wide, narrow], tokens=0, jobs=1)
    for _ in range(5):
        with pytest.raises(RateLimited):
            await limits.enter([wide, narrow], tokens=0, jobs=1)
    assert (await limits.enter([wide], tokens=0, jobs=1)).headers["x-ratelimit-remaining-requests"] == "0"


async def test_the_tightest_rule_is_told(limits: RateLimits) -> None:
    rules = [Rule("key", Quota(requests=100)), Rule("endpoint", Quota(requests=2, tokens=500))]
    headers = (await limits.enter(rules, tokens=100, jobs=1)).headers
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-limit-tokens"] == "500"
    assert headers["x-ratelimit-remaining-tokens"] == "400"


@pytest.mark.parametrize(("used", "left"), [(900, "100"), (20, "980"), (300, "700")])
async def test_tokens_are_estimated_first_and_settled_by_what_was_used(
    limits: RateLimits, used: int, left: str
) -> None:
    lease = await enter(limits, Quota(tokens=1000), tokens=300)
    await lease.release(used)
    await lease.release(used)  # once only
    probe = await enter(limits, Quota(tokens=1000), tokens=0)
    assert probe.headers["x-ratelimit-remaining-tokens"] == left


async def test_more_tokens_than_are_left_have_to_wait_and_a_settled_overdraft_counts(limits: RateLimits) -> None:
    lease = await enter(limits, Quota(tokens=1000), tokens=300)
    await lease.release(5000)
    refusal = await enter(limits, Quota(tokens=1000), tokens=1)
    assert isinstance(refusal, RateLimited)
    assert refusal.retry_after > 1
    assert refusal.headers["x-ratelimit-remaining-tokens"] == "0"


async def test_an_estimate_over_the_whole_limit_is_let_in_by_an_empty_window(limits: RateLimits) -> None:
    assert isinstance(await enter(limits, Quota(tokens=100), tokens=10_000), Lease)
    assert isinstance(await enter(limits, Quota(tokens=100), tokens=10_000), RateLimited)


async def test_jobs_in_flight_are_bounded_and_places_come_back(limits: RateLimits) -> None:
    quota = Quota(jobs=3)
    two, one = await enter(limits, quota, jobs=2), await enter(limits, quota)
    assert isinstance(await enter(limits, quota), RateLimited)
    await two.release()
    await two.release()
    assert isinstance(await enter(limits, quota, jobs=2), Lease)
    assert isinstance(await enter(limits, quota), RateLimited)
    await one.release()


async def test_a_place_that_frees_soon_is_waited_for() -> None:
    class Noting(MemoryStore):
        """Notes that something was refused."""

        refused = False

        async def acquire(self, lease: str, limits: Sequence[Limit]) -> Levels:
            acquired, levels = await super().acquire(lease, limits)
            self.refused = self.refused or not acquired
            return acquired, levels

    store = Noting()
    limits = RateLimits(store, wait_s=30)
    first = await enter(limits, Quota(jobs=1))
    second = asyncio.create_task(enter(limits, Quota(jobs=1)))
    await until(lambda: store.refused)
    assert not second.done()
    await first.release()
    assert isinstance(await second, Lease)


async def test_one_that_does_not_is_refused_at_once() -> None:
    limits = RateLimits(MemoryStore(), wait_s=30)
    await enter(limits, Quota(requests=1))
    async with asyncio.timeout(10):
        assert isinstance(await enter(limits, Quota(requests=1)), RateLimited)


async def test_of_60_requests_at_once_a_token_quota_of_10_admits_10(limits: RateLimits) -> None:
    got = await asyncio.gather(*(enter(limits, Quota(tokens=10), tokens=1) for _ in range(60)))
    assert sum(isinstance(each, Lease) for each in got) == 10


async def test_the_excess_of_a_request_that_took_longer_than_a_minute_counts_when_it_is_known() -> None:
    now = 0.0
    limits = RateLimits(MemoryStore(clock=lambda: now), wait_s=0)
    long, short = await enter(limits, Quota(tokens=1000)), await enter(limits, Quota(tokens=1000))
    now = 61.0
    await long.release(710)
    await short.release(2)
    probe = await enter(limits, Quota(tokens=1000), tokens=0)
    assert probe.headers["x-ratelimit-remaining-tokens"] == "300"


@pytest.mark.parametrize(
    ("quota", "admitted"), [(Quota(requests=3), 3), (Quota(tokens=30), 3), (Quota(tokens=29), 2), (Quota(jobs=3), 3)]
)
async def test_both_sides_of_every_limit(limits: RateLimits, quota: Quota, admitted: int) -> None:
    got = [await enter(limits, quota) for _ in range(5)]
    assert [isinstance(each, Lease) for each in got] == [True] * admitted + [False] * (5 - admitted)
