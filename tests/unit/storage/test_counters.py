"""Counters of leases: never more than the limit, all limits or none, and each lease ends by itself."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.storage import Limit, MemoryStore


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_both_sides_of_a_limit() -> None:
    store = MemoryStore(clock=Clock())
    assert (await store.acquire("a", [Limit("c", 10, 9, 60)]))[0]
    assert not (await store.acquire("b", [Limit("c", 10, 2, 60)]))[0]
    acquired, [level] = await store.acquire("b", [Limit("c", 10, 1, 60)])
    assert acquired
    assert level.used == 10
    assert (await store.acquire("c", [Limit("c", 10, 0, 60)]))[0]
    assert not (await store.acquire("c", [Limit("c", 10, 1, 60)]))[0]


async def test_all_limits_are_taken_or_none() -> None:
    store = MemoryStore(clock=Clock())
    await store.acquire("a", [Limit("narrow", 1, 1, 60)])
    acquired, levels = await store.acquire("b", [Limit("wide", 5, 1, 60), Limit("narrow", 1, 1, 60)])
    assert not acquired
    assert [level.used for level in levels] == [0, 1]


async def test_the_wait_is_until_enough_leases_have_ended() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    for lease, amount in (("a", 1), ("b", 2), ("c", 4)):
        await store.acquire(lease, [Limit("c", 7, amount, 60)])
        clock.now += 10
    waits = [(await store.acquire("d", [Limit("c", 7, amount, 60)]))[1][0].wait_s for amount in (1, 2, 3, 4, 7)]
    assert waits == [30, 40, 40, 50, 50]
    assert (await store.acquire("d", [Limit("c", 7, 1, 60)]))[1][0].reset_s == 30
    clock.now += 29.9
    assert not (await store.acquire("d", [Limit("c", 7, 1, 60)]))[0]
    clock.now += 0.1
    assert (await store.acquire("d", [Limit("c", 7, 1, 60)]))[0]


async def test_a_lease_is_resized_given_back_or_made_later() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)

    async def used() -> int:
        return (await store.acquire("probe", [Limit("c", 100, 0, 60)]))[1][0].used

    await store.acquire("a", [Limit("c", 10, 10, 60)])
    await store.resize("c", "a", 3)
    assert await used() == 3
    await store.resize("c", "a:excess", 40, ttl_s=60)
    assert await used() == 43
    await store.resize("c", "a", 0)
    await store.resize("c", "a", 0)
    assert await used() == 40
    clock.now += 60
    await store.resize("c", "a", 5)  # it has ended, and stays so
    assert await used() == 0


async def test_a_resized_lease_ends_when_it_would_have_ended() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.acquire("first", [Limit("c", 10, 4, 60)])
    clock.now += 30
    await store.acquire("second", [Limit("c", 10, 4, 60)])
    await store.resize("c", "first", 5)
    clock.now += 30
    _, [level] = await store.acquire("probe", [Limit("c", 10, 0, 60)])
    assert (level.used, level.reset_s) == (4, 30)


async def test_counters_without_leases_are_dropped_and_their_number_is_bounded() -> None:
    """A table with an entry for every caller there ever was would grow without end."""
    clock = Clock()
    store = MemoryStore(clock=clock, max_counters=50)
    for number in range(200):
        await store.acquire("a", [Limit(f"c{number}", 1, 1, 60)])
    assert len(store._counters) <= 50
    clock.now += 60
    for number in range(100):
        await store.acquire("a", [Limit(f"d{number}", 1, 0, 60)])
    assert len(store._counters) <= 2


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 6)), max_size=60))
async def test_no_60_seconds_contain_more_than_the_limit(requests: list[tuple[float, int]]) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    admitted: list[tuple[float, int]] = []
    for number, (pause, amount) in enumerate(requests):
        clock.now += pause
        acquired, [level] = await store.acquire(str(number), [Limit("c", 10, amount, 60)])
        if acquired:
            admitted.append((clock.now, amount))
        assert level.used == sum(each for at, each in admitted if at + 60 > clock.now)
        assert level.used <= 10
        assert acquired == (level.wait_s == 0)
