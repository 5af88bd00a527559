"""State that replicas share: the same promises as in memory, across processes and through outages."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from proxy.errors import StoreUnavailable
from proxy.storage import ALONE, Limit, Membership, open_storage
from proxy.storage.outages import FailOpen
from proxy.storage.redis import RedisStore
from tests.faults.relay import relay_to
from tests.redis_server import serve_redis
from tests.waiting import until


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve_redis() as url:
        yield url


@pytest.fixture
async def replicas(url: str) -> Any:
    async with AsyncExitStack() as stack:
        prefix = f"{uuid4()}:"
        yield [FailOpen(await stack.enter_async_context(RedisStore(url, prefix))) for _ in range(2)]


async def test_of_many_who_add_a_field_all_see_the_same_value(replicas: list[FailOpen]) -> None:
    values = await asyncio.gather(*(replicas[number % 2].add("r", "f", str(number), ttl_s=60) for number in range(40)))
    assert len(set(values)) == 1
    assert [await replica.read("r") for replica in replicas] == [{"f": values[0]}] * 2


async def test_of_many_who_swap_a_value_one_succeeds(replicas: list[FailOpen]) -> None:
    await replicas[0].put("r", "f", "old", ttl_s=60)
    swapped = await asyncio.gather(
        *(replicas[number % 2].compare_and_set("r", "f", "old", str(number)) for number in range(20))
    )
    assert sum(swapped) == 1
    assert await replicas[0].read("r") == {"f": str(swapped.index(True))}


async def test_what_one_removes_is_gone_for_the_other(replicas: list[FailOpen]) -> None:
    one, other = replicas
    for field in ("f", "g"):
        await one.put("r", field, "1", ttl_s=60)
    await one.remove("r", "f")
    assert await other.read("r") == {"g": "1"}
    await one.remove("r")
    assert await other.read("r") == {}
    assert not await other.compare_and_set("r", "g", "1", "2")


async def test_records_expire_by_themselves(replicas: list[FailOpen]) -> None:
    one, other = replicas
    await one.put("r", "f", "1", ttl_s=0.1)

    async def gone() -> bool:
        return await other.read("r") == {}

    await until(gone)


async def test_a_replica_that_ended_is_not_alive_and_one_that_runs_is(url: str) -> None:
    prefix = f"{uuid4()}:"
    async with RedisStore(url, prefix) as here:
        async with RedisStore(url, prefix) as there:
            assert await here.alive(there.replica)
        assert not await here.alive(there.replica)
        assert await here.alive(here.replica)
        assert not await here.alive("")


async def test_of_those_who_take_part_in_a_role_one_leads(replicas: list[FailOpen]) -> None:
    one, other = replicas
    assert await one.join("feed") == Membership(leads=True, members=1)
    assert await other.join("feed") == Membership(leads=False, members=2)
    assert await one.join("feed") == Membership(leads=True, members=2)
    assert await other.join("another role") == Membership(leads=True, members=1)


async def test_who_leaves_a_role_lets_another_lead_at_once(replicas: list[FailOpen]) -> None:
    one, other = replicas
    await one.join("feed")
    await other.join("feed")
    await other.leave("feed")
    assert await one.join("feed") == Membership(leads=True, members=1)
    await one.leave("feed")
    assert await other.join("feed") == Membership(leads=True, members=1)


async def test_who_does_not_ask_again_loses_the_role(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.storage.redis.LEASE_S", 0.1)
    prefix = f"{uuid4()}:"
    async with RedisStore(url, prefix) as one, RedisStore(url, prefix) as other:
        await one.join("feed")

        async def leads_alone() -> bool:
            return await other.join("feed") == Membership(leads=True, members=1)

        await until(leads_alone)


async def test_what_is_published_reaches_the_others_and_not_oneself(url: str) -> None:
    prefix = f"{uuid4()}:"
    heard: list[tuple[int, str]] = []
    async with AsyncExitStack() as stack:
        stores = [RedisStore(url, prefix) for _ in range(2)]
        for number, store in enumerate(stores):
            store.subscribe("news", lambda message, number=number: heard.append((number, message)))
            await stack.enter_async_context(store)

        async def reached() -> bool:
            await stores[0].publish("news", "job 1 ended")
            return bool(heard)

        await until(reached)
    assert set(heard) == {(1, "job 1 ended")}


async def test_a_listener_that_raises_keeps_nobody_from_hearing_more(url: str) -> None:
    prefix = f"{uuid4()}:"
    heard: list[str] = []

    def hear(message: str) -> None:
        heard.append(message)
        raise LookupError(message)

    async with RedisStore(url, prefix) as one, RedisStore(url, prefix) as other:
        other.subscribe("news", hear)

        async def twice() -> bool:
            await one.publish("news", "again")
            return len(heard) >= 2

        await until(twice)


async def test_one_call_that_redis_refuses_does_not_count_as_its_absence(url: str) -> None:
    failures: list[None] = []
    prefix = f"{uuid4()}:"
    async with RedisStore(url, prefix, lambda: failures.append(None)) as raw, Redis.from_url(url) as redis:
        store = FailOpen(raw)
        await redis.set(f"{prefix}odd", "not a record")
        assert await store.read("odd") == {}
        assert failures
        assert store.healthy
        assert await store.add("r", "f", "1", ttl_s=60) == "1"


async def test_one_that_may_not_lead_takes_part_and_lets_another_lead(replicas: list[FailOpen]) -> None:
    one, other = replicas
    await one.join("feed")
    assert await one.join("feed", may_lead=False) == Membership(leads=False, members=1)
    assert await other.join("feed") == Membership(leads=True, members=2)
    assert await one.join("feed") == Membership(leads=False, members=2)


async def test_while_redis_is_away_each_replica_goes_on_with_what_it_wrote(url: str) -> None:
    failures: list[None] = []
    async with relay_to(int(url.rsplit(":", 1)[1].partition("/")[0])) as relay:
        address = f"redis://127.0.0.1:{relay.port}/0"
        async with RedisStore(address, f"{uuid4()}:", lambda: failures.append(None)) as redis:
            store = FailOpen(redis)
            assert await store.add("r", "f", "before", ttl_s=60) == "before"
            relay.cut()
            assert await store.add("r", "f", "while", ttl_s=60) == "before"
            assert not store.healthy
            assert failures
            assert await store.read("r") == {"f": "before"}
            assert await store.compare_and_set("r", "f", "before", "after")
            await store.put("s", "f", "1", ttl_s=60)
            await store.remove("s")
            await store.publish("news", "nobody hears it")
            assert await store.join("feed") == ALONE
            await store.leave("feed")
            relay.mend()

            async def is_back() -> bool:
                return store.healthy

            await until(is_back)
            assert await store.add("new", "f", "1", ttl_s=60) == "1"


async def test_a_redis_that_was_never_there_does_not_keep_a_replica_from_serving() -> None:
    async with RedisStore("redis://127.0.0.1:1/0", "p:") as redis:
        store = FailOpen(redis)
        assert not store.healthy
        assert await store.add("r", "f", "1", ttl_s=60) == "1"
        assert await store.read("r") == {"f": "1"}


async def test_of_60_replicas_requests_at_once_as_many_are_admitted_as_the_limit_says(
    replicas: list[FailOpen],
) -> None:
    limits = [Limit("wide", 100, 1, 60), Limit("tokens", 10, 1, 60)]
    got = await asyncio.gather(*(replicas[number % 2].acquire(str(number), limits) for number in range(60)))
    assert sum(acquired for acquired, _ in got) == 10
    _, levels = await replicas[0].acquire("probe", [replace(limit, amount=0) for limit in limits])
    assert [level.used for level in levels] == [10, 10], "a refused request takes nothing of its other limits"


async def test_counters_in_redis_behave_as_in_memory(replicas: list[FailOpen]) -> None:
    one, other = replicas

    async def used() -> int:
        return (await other.acquire("probe", [Limit("c", 100, 0, 60)]))[1][0].used

    acquired, [level] = await one.acquire("a", [Limit("c", 10, 8, 60)])
    assert acquired
    assert (level.used, level.wait_s) == (8, 0)
    assert 59 < level.reset_s <= 60
    acquired, [level] = await other.acquire("b", [Limit("c", 10, 3, 60)])
    assert not acquired
    assert 50 < level.wait_s <= 60
    await other.resize("c", "a", 2)
    assert await used() == 2
    await one.resize("c", "a:excess", 40, ttl_s=60)
    assert await used() == 42
    await one.resize("c", "a:excess", 0)
    await one.resize("c", "a", 0)
    await one.resize("c", "a", 5)  # it has ended, and stays so
    assert await used() == 0


async def test_leases_in_redis_end_by_themselves(replicas: list[FailOpen]) -> None:
    one, other = replicas
    await one.acquire("a", [Limit("c", 2, 2, 0.1)])

    async def free() -> bool:
        return (await other.acquire("b", [Limit("c", 2, 2, 60)]))[0]

    await until(free)


async def test_during_an_outage_limits_are_counted_by_each_replica() -> None:
    async with RedisStore("redis://127.0.0.1:1/0", "p:") as redis:
        store = FailOpen(redis)
        got = [(await store.acquire(str(number), [Limit("c", 2, 1, 60)]))[0] for number in range(3)]
        assert got == [True, True, False]
        await store.resize("c", "0", 0)
        assert (await store.acquire("3", [Limit("c", 2, 1, 60)]))[0]


async def test_keys_and_endpoints_in_redis_last_and_fail_closed(url: str) -> None:
    prefix = f"{uuid4()}:"
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(relay_to(int(url.rsplit(":", 1)[1].partition("/")[0])))
        opening = open_storage(Path("unused"), f"redis://127.0.0.1:{relay.port}/0", prefix)
        storage = await stack.enter_async_context(opening)
        assert await storage.durable.compare_and_set("keys", "a", None, "1")
        assert not await storage.durable.compare_and_set("keys", "a", None, "2")
        assert await storage.durable.compare_and_set("keys", "a", "1", "2")
        assert await storage.durable.get("keys", "a") == "2"
        async with Redis.from_url(url) as redis:
            assert await redis.pttl(f"{prefix}keys") == -1, "they never expire"
        relay.cut()
        assert await storage.durable.get("keys", "a") == "2"
        with pytest.raises(StoreUnavailable):
            await storage.durable.get("keys", "b")
        assert not storage.live.healthy
        assert await storage.live.get("r", "f") is None
