"""What happens during an outage: idempotency, limits and leadership serve on; keys and endpoints are refused unless known."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from proxy.errors import StoreUnavailable
from proxy.storage import ALONE, Limit, Membership, MemoryStore
from proxy.storage.outages import FailClosed, FailOpen
from proxy.storage.store import Levels, unavailable

T = TypeVar("T")


class Flaky(MemoryStore):
    """A store that can be away, and counts what is read."""

    shared = True
    away = False
    reads = 0

    async def get(self, name: str, field: str) -> str | None:
        self.reads += 1
        return await self._here(lambda: MemoryStore.get(self, name, field))

    async def join(self, group: str, *, may_lead: bool = True) -> Membership:
        return await self._here(lambda: _value(Membership(False, 2)))

    async def acquire(self, lease: str, limits: object) -> Levels:
        return await self._here(lambda: MemoryStore.acquire(self, lease, limits))  # type: ignore[arg-type]

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        return await self._here(lambda: MemoryStore.compare_and_set(self, name, field, old, new))

    async def put(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> None:
        await self._here(lambda: MemoryStore.put(self, name, field, value, ttl_s=ttl_s))

    async def _here(self, call: Callable[[], Awaitable[T]]) -> T:
        if self.away:
            raise unavailable()
        return await call()


async def _value(value: T) -> T:
    return value


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Flaky:
    return Flaky()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_value_is_read_again_within_a_second_so_that_a_revoked_key_stops_working(
    store: Flaky, clock: Clock
) -> None:
    records = FailClosed(store, clock=clock)
    await store.put("keys", "a", "1")
    for _ in range(5):
        assert await records.get("keys", "a") == "1"
    assert store.reads == 1
    await store.put("keys", "a", "revoked")
    clock.now = 1.0
    assert await records.get("keys", "a") == "revoked"


async def test_a_field_that_is_absent_is_read_each_time_so_that_a_new_key_works_at_once(
    store: Flaky, clock: Clock
) -> None:
    records = FailClosed(store, clock=clock)
    assert await records.get("keys", "a") is None
    await store.put("keys", "a", "1")
    assert await records.get("keys", "a") == "1"


async def test_a_change_of_ones_own_is_seen_at_once(store: Flaky, clock: Clock) -> None:
    records = FailClosed(store, clock=clock)
    for value in ("1", "2"):
        await records.put("keys", "a", value)
        assert await records.get("keys", "a") == value
        assert await records.read("keys") == {"a": value}
    await records.remove("keys", "a")
    assert await records.get("keys", "a") is None
    assert await records.read("keys") == {}
    assert await records.compare_and_set("keys", "a", None, "3")
    assert await records.get("keys", "a") == "3"
    assert await records.compare_and_set("keys", "a", "3", "4")
    assert await records.get("keys", "a") == "4"
    await records.remove("keys")
    assert await records.get("keys", "a") is None


async def test_keys_fail_closed_but_what_was_read_stays_in_force_for_a_while(store: Flaky, clock: Clock) -> None:
    records = FailClosed(store, kept_s=600, clock=clock)
    await store.put("keys", "a", "1")
    await records.get("keys", "a")
    store.away = True
    clock.now = 599
    assert await records.get("keys", "a") == "1"
    with pytest.raises(StoreUnavailable) as caught:
        await records.get("keys", "unknown")
    assert caught.value.code == "state_unavailable"
    clock.now = 601
    with pytest.raises(StoreUnavailable):
        await records.get("keys", "a")


async def test_the_cache_is_bounded(store: Flaky, clock: Clock) -> None:
    records = FailClosed(store, max_entries=10, clock=clock)
    for number in range(20):
        await store.put("keys", str(number), "1")
        await records.get("keys", str(number))
    for number in range(20):
        await records.get("keys", str(number))
    assert store.reads == 40, "of 20 fields in turn, none is still in a cache of 10"


async def test_idempotency_and_leadership_fail_open(store: Flaky) -> None:
    live = FailOpen(store)
    assert await live.add("r", "f", "before", ttl_s=60) == "before"
    assert await live.join("group") == Membership(False, 2)
    store.away = True
    assert await live.get("r", "f") == "before"
    assert await live.compare_and_set("r", "f", "before", "during")
    assert await live.get("r", "f") == "during"
    await live.put("s", "f", "1", ttl_s=60)
    assert await live.get("s", "f") == "1"
    assert await live.join("group") == ALONE


async def test_limits_fail_open_and_what_was_acquired_in_an_outage_is_given_back_after_it(store: Flaky) -> None:
    live = FailOpen(store)
    store.away = True
    assert (await live.acquire("a", [Limit("jobs", 1, 1, 60)]))[0]
    assert not (await live.acquire("b", [Limit("jobs", 1, 1, 60)]))[0]
    store.away = False
    await live.resize("jobs", "a", 0)
    store.away = True
    assert (await live.acquire("b", [Limit("jobs", 1, 1, 60)]))[0]
