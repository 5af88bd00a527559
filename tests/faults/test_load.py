"""Bounds: what is in flight, what waits, what is turned away."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import JobsOptions, Refused
from proxy.backends.narrative.types import Job
from proxy.errors import Overloaded
from proxy.sandbox import SandboxOptions
from tests.faults.meddler import Answer, always, fickle_narrative, first
from tests.faults.running import OPTIONS, Engine, engine, in_time, request
from tests.waiting import until

INSTANT = SandboxOptions(pending_s=0, running_s=0)


def few(most: int, *, waiting: int = 100, timeout: float = 30.0) -> JobsOptions:
    return replace(OPTIONS, max_in_flight=most, max_queued=waiting, queue_timeout=timeout, queue_retry_after=3.0)


async def submit(running: Engine, seconds: float = 60.0) -> None:
    await running.jobs.submit(request(seconds), running.client, deadline=in_time())


async def test_without_a_place_in_time_a_submission_is_turned_away_before_anything_is_sent() -> None:
    with fickle_narrative(INSTANT) as narrative:
        async with engine(narrative.url, few(2, timeout=0.01)) as running:
            await submit(running)
            await submit(running)
            with pytest.raises(Overloaded) as caught:
                await submit(running)
            assert caught.value.retry_after == 3.0
            assert running.count(Refused) == 1
        assert narrative.store.enqueued == 2


async def test_those_who_wait_get_a_place_when_one_comes_free() -> None:
    with fickle_narrative(INSTANT) as narrative:
        async with engine(narrative.url, few(3)) as running:
            most = 0

            async def watched() -> None:
                nonlocal most
                await running.run(0.05)
                most = max(most, running.jobs.in_flight)

            await asyncio.gather(*(watched() for _ in range(30)))
            assert most <= 3
            assert running.jobs.queued == 0
        assert narrative.store.enqueued == 30


async def test_too_many_who_wait_are_turned_away_at_once() -> None:
    with fickle_narrative(INSTANT) as narrative:
        async with engine(narrative.url, few(1, waiting=1)) as running:
            await submit(running)
            waiter = asyncio.create_task(submit(running))
            await until(lambda: running.jobs.queued)
            with pytest.raises(Overloaded):
                await submit(running)
            waiter.cancel()
            await asyncio.gather(waiter, return_exceptions=True)
            assert running.jobs.queued == 0
        assert narrative.store.enqueued == 1


async def test_a_refused_submission_gives_its_place_back() -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.before["run"] = always(Answer(401, b"{}"))
        async with engine(narrative.url, few(1, timeout=5.0)) as running:
            for _ in range(3):
                with pytest.raises(Exception, match="API key"):
                    await submit(running)
            narrative.meddler.before.clear()
            await running.run()


async def test_submissions_on_their_way_are_bounded() -> None:
    with fickle_narrative(INSTANT) as narrative:
        go_on, most = asyncio.Event(), 0

        class Held(NarrativeClient):
            """Sends no submission before the test lets it."""

            async def enqueue(self, *arguments: Any, **options: Any) -> Job:
                nonlocal most
                most = max(most, running.jobs.submitting)
                await go_on.wait()
                return await super().enqueue(*arguments, **options)

        async with engine(narrative.url, replace(OPTIONS, max_submissions=4), kind=Held) as running:
            runs = [asyncio.create_task(running.run()) for _ in range(50)]
            await until(lambda: running.jobs.queued == 46)
            assert running.jobs.submitting == 4
            go_on.set()
            await asyncio.gather(*runs)
            assert most == 4


async def test_a_submission_whose_turn_does_not_come_in_time_is_turned_away() -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.before["run"] = first(1, Answer(never=True))
        options = replace(OPTIONS, max_submissions=1)
        async with engine(narrative.url, options) as running:
            stuck = asyncio.create_task(submit(running))
            await until(lambda: running.jobs.submitting)
            with pytest.raises(Overloaded) as caught:
                await running.jobs.submit(request(), running.client, deadline=in_time(0.01))
            assert caught.value.retry_after is not None
            assert running.count(Refused) == 1
            stuck.cancel()
            await asyncio.gather(stuck, return_exceptions=True)


async def test_stopping_ends_every_wait_with_a_proper_error() -> None:
    with fickle_narrative(INSTANT) as narrative:
        async with engine(narrative.url) as running:
            callers = [asyncio.create_task(running.run(60.0)) for _ in range(20)]
            await until(lambda: running.jobs.in_flight == 20)
        for result in await asyncio.gather(*callers, return_exceptions=True):
            assert isinstance(result, Overloaded)
            assert result.job_id is not None
