"""State that replicas share: the same promises as in memory, across processes and through outages."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from proxy.state import BY_ITSELF, Standing
from proxy.state.redis import RedisStore
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
        yield [await stack.enter_async_context(RedisStore(url, prefix)) for _ in range(2)]


async def test_of_many_who_add_a_field_all_see_the_same_value(replicas: list[RedisStore]) -> None:
    values = await asyncio.gather(*(replicas[number % 2].add("r", "f", str(number), ttl_s=60) for number in range(40)))
    assert len(set(values)) == 1
    assert [await replica.read("r") for replica in replicas] == [{"f": values[0]}] * 2


async def test_of_many_who_swap_a_value_one_succeeds(replicas: list[RedisStore]) -> None:
    await replicas[0].put("r", "f", "old", ttl_s=60)
    swapped = await asyncio.gather(*(replicas[number % 2].swap("r", "f", "old", str(number)) for number in range(20)))
    assert sum(swapped) == 1
    assert await replicas[0].read("r") == {"f": str(swapped.index(True))}


async def test_what_one_removes_is_gone_for_the_other(replicas: list[RedisStore]) -> None:
    one, other = replicas
    for field in ("f", "g"):
        await one.put("r", field, "1", ttl_s=60)
    await one.remove("r", "f")
    assert await other.read("r") == {"g": "1"}
    await one.remove("r")
    assert await other.read("r") == {}
    assert not await other.swap("r", "g", "1", "2")


async def test_records_expire_by_themselves(replicas: list[RedisStore]) -> None:
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


async def test_of_those_who_take_part_in_a_role_one_leads(replicas: list[RedisStore]) -> None:
    one, other = replicas
    assert await one.join("feed") == Standing(leads=True, members=1)
    assert await other.join("feed") == Standing(leads=False, members=2)
    assert await one.join("feed") == Standing(leads=True, members=2)
    assert await other.join("another role") == Standing(leads=True, members=1)


async def test_who_leaves_a_role_lets_another_lead_at_once(replicas: list[RedisStore]) -> None:
    one, other = replicas
    await one.join("feed")
    await other.join("feed")
    await other.leave("feed")
    assert await one.join("feed") == Standing(leads=True, members=1)
    await one.leave("feed")
    assert await other.join("feed") == Standing(leads=True, members=1)


async def test_who_does_not_ask_again_loses_the_role(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.state.redis.LEASE_S", 0.1)
    prefix = f"{uuid4()}:"
    async with RedisStore(url, prefix) as one, RedisStore(url, prefix) as other:
        await one.join("feed")

        async def leads_alone() -> bool:
            return await other.join("feed") == Standing(leads=True, members=1)

        await until(leads_alone)


async def test_what_is_published_reaches_the_others_and_not_oneself(url: str) -> None:
    prefix = f"{uuid4()}:"
    heard: list[tuple[int, str]] = []
    async with AsyncExitStack() as stack:
        stores = [RedisStore(url, prefix) for _ in range(2)]
        for number, store in enumerate(stores):
            store.listen("news", lambda message, number=number: heard.append((number, message)))
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
        other.listen("news", hear)

        async def twice() -> bool:
            await one.publish("news", "again")
            return len(heard) >= 2

        await until(twice)


async def test_one_call_that_redis_refuses_does_not_count_as_its_absence(url: str) -> None:
    failures: list[None] = []
    prefix = f"{uuid4()}:"
    async with RedisStore(url, prefix, lambda: failures.append(None)) as store, Redis.from_url(url) as redis:
        await redis.set(f"{prefix}odd", "not a record")
        assert await store.read("odd") == {}
        assert failures
        assert store.healthy
        assert await store.add("r", "f", "1", ttl_s=60) == "1"


async def test_one_that_may_not_lead_takes_part_and_lets_another_lead(replicas: list[RedisStore]) -> None:
    one, other = replicas
    await one.join("feed")
    assert await one.join("feed", may_lead=False) == Standing(leads=False, members=1)
    assert await other.join("feed") == Standing(leads=True, members=2)
    assert await one.join("feed") == Standing(leads=False, members=2)


async def test_while_redis_is_away_each_replica_goes_on_with_what_it_wrote(url: str) -> None:
    failures: list[None] = []
    async with relay_to(int(url.rsplit(":", 1)[1].partition("/")[0])) as relay:
        address = f"redis://127.0.0.1:{relay.port}/0"
        async with RedisStore(address, f"{uuid4()}:", lambda: failures.append(None)) as store:
            assert await store.add("r", "f", "before", ttl_s=60) == "before"
            relay.cut()
            assert await store.add("r", "f", "while", ttl_s=60) == "before"
            assert not store.healthy
            assert failures
            assert await store.read("r") == {"f": "before"}
            assert await store.swap("r", "f", "before", "after")
            await store.put("s", "f", "1", ttl_s=60)
            await store.remove("s")
            await store.publish("news", "nobody hears it")
            assert await store.join("feed") == BY_ITSELF
            await store.leave("feed")
            relay.mend()

            async def is_back() -> bool:
                return store.healthy

            await until(is_back)
            assert await store.add("new", "f", "1", ttl_s=60) == "1"


async def test_a_redis_that_was_never_there_does_not_keep_a_replica_from_serving() -> None:
    async with RedisStore("redis://127.0.0.1:1/0", "p:") as store:
        assert not store.healthy
        assert await store.add("r", "f", "1", ttl_s=60) == "1"
        assert await store.read("r") == {"f": "1"}
