"""Slots, the queue for them, and who is refused."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.narrative.jobs import FairQueue
from proxy.errors import Overloaded
from tests.waiting import until


def queue(most: int = 1, waiting: int = 100, timeout: float = 30.0) -> FairQueue:
    return FairQueue("things are under way", most, waiting, timeout, 3.0)


def far() -> float:
    return asyncio.get_running_loop().time() + 60


async def order_of(callers: list[str], slots: FairQueue) -> list[str]:
    """The order in which callers that all wait are served."""
    served: list[str] = []

    async def wait(caller: str) -> None:
        await slots.acquire(caller, far())
        served.append(caller)
        slots.release()

    await slots.acquire("holder", far())
    tasks = [asyncio.create_task(wait(caller)) for caller in callers]
    await until(lambda: len(served) + slots.waiting == len(callers))
    slots.release()
    await asyncio.gather(*tasks)
    return served


async def test_callers_are_served_in_turn_whatever_one_of_them_asks_for() -> None:
    assert await order_of(["a", "a", "a", "b", "c", "b"], queue()) == ["a", "b", "c", "a", "b", "a"]


@given(st.lists(st.sampled_from("abc"), max_size=20), st.integers(1, 3))
def test_everyone_is_served_once_and_all_slots_come_back(callers: list[str], slots: int) -> None:
    async def scene() -> None:
        bounded = queue(slots)
        assert sorted(await order_of(callers, bounded)) == sorted(callers)
        assert bounded.waiting == 0
        for _ in range(slots):
            await asyncio.wait_for(bounded.acquire("", far()), 1)

    asyncio.run(scene())


async def test_one_over_the_bound_of_the_queue_is_refused_at_once() -> None:
    slots = queue(waiting=1)
    await slots.acquire("a", far())
    waiter = asyncio.create_task(slots.acquire("a", far()))
    await until(lambda: slots.waiting == 1)
    with pytest.raises(Overloaded) as caught:
        await slots.acquire("b", far())
    assert caught.value.retry_after == 3.0
    slots.release()
    await waiter


@pytest.mark.parametrize(("longest", "seconds"), [(0.0, 60.0), (60.0, 0.0)], ids=["timeout", "deadline"])
async def test_who_waits_too_long_is_refused_and_leaves_nothing_behind(longest: float, seconds: float) -> None:
    slots = queue(timeout=longest)
    await slots.acquire("a", far())
    for _ in range(100):
        with pytest.raises(Overloaded):
            await slots.acquire("b", asyncio.get_running_loop().time() + seconds)
    assert slots.waiting == 0
    assert not slots._queues
    slots.release()
    await slots.acquire("c", far())


async def test_who_leaves_in_the_moment_of_being_granted_a_slot_gives_it_back() -> None:
    slots = queue()
    await slots.acquire("a", far())
    leaver = asyncio.create_task(slots.acquire("b", far()))
    await until(lambda: slots.waiting == 1)
    slots.release()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    await asyncio.wait_for(slots.acquire("c", far()), 1)


async def test_draining_refuses_those_who_wait_and_those_who_would_have_to() -> None:
    slots = queue(2)
    await slots.acquire("a", far())
    await slots.acquire("a", far())
    waiting = [asyncio.create_task(slots.acquire("b", far())) for _ in range(3)]
    await until(lambda: slots.waiting == 3)
    slots.drain()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, Overloaded)
        assert result.retry_after
    with pytest.raises(Overloaded):
        await slots.acquire("c", far())
    slots.release()
    await slots.acquire("c", far())
    assert slots.waiting == 0


async def test_retry_after_grows_with_the_time_that_the_queue_needs() -> None:
    slots = queue(waiting=20)
    slots._interval = 0.5
    await slots.acquire("a", far())
    waiting = [asyncio.create_task(slots.acquire("b", far())) for _ in range(20)]
    await until(lambda: slots.waiting == 20)
    with pytest.raises(Overloaded) as caught:
        await slots.acquire("c", far())
    assert caught.value.retry_after == 10.0
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_the_time_that_the_queue_needs_is_measured() -> None:
    slots = queue()
    await order_of(["a"] * 50, slots)
    assert 0.0 < slots._interval < 1.0
