"""Draining without signals: what is reported of it, and what becomes of work that outlasts the grace period."""

import asyncio

import pytest

from proxy.errors import Overloaded
from proxy.lifecycle import Lifecycle, UnlessOver


async def test_whoever_waits_in_a_queue_hears_of_draining_at_once_and_the_server_stops_when_all_is_answered() -> None:
    lifecycle, events = Lifecycle(grace_s=60.0), []
    lifecycle.on_drain(lambda: events.append("draining"))
    stopped = asyncio.Event()
    assert lifecycle.enter() is None
    lifecycle.drain(stopped.set)
    assert events == ["draining"]
    assert lifecycle.enter() is not None
    assert not stopped.is_set()
    lifecycle.leave()
    await asyncio.wait_for(stopped.wait(), 30)


@pytest.mark.parametrize("resumable", [False, True])
async def test_work_that_outlasts_the_grace_period_is_cancelled_and_a_retry_invited_where_it_is_free(
    resumable: bool,
) -> None:
    lifecycle, stopped = Lifecycle(grace_s=60.0, resumable=resumable), asyncio.Event()

    begun = asyncio.Event()

    async def wait() -> None:
        with UnlessOver(lifecycle):
            begun.set()
            await asyncio.Event().wait()

    assert lifecycle.enter() is None
    work = asyncio.create_task(wait())
    lifecycle.drain(stopped.set)
    await begun.wait()
    lifecycle.end_grace()
    with pytest.raises(Overloaded) as caught:
        await work
    lifecycle.leave()
    assert (caught.value.retry_after is not None) is resumable
    await asyncio.wait_for(stopped.wait(), 30)
