"""Every end is noticed, whatever lists and reads do."""

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from proxy.backends.narrative.events import Abandoned, JobEnded, ReliabilityChanged, UpstreamCalled
from proxy.backends.narrative.polling import WatchedJob
from proxy.sandbox import SandboxOptions
from tests.faults.meddler import Answer, Fault, always, every, fickle_narrative, first
from tests.faults.running import OPTIONS, engine, in_time, request
from tests.waiting import until

QUICK = SandboxOptions(pending_s=0.01, running_s=0.2)
LATE = 15.0
"""Seconds within which every end is noticed, even of jobs that no list shows."""


def sources(events: list[Any]) -> set[str]:
    return {event.source for event in events if isinstance(event, JobEnded)}


async def test_many_jobs_are_noticed_by_the_lists() -> None:
    with fickle_narrative(QUICK) as narrative:
        async with engine(narrative.url) as running:
            await asyncio.gather(*(running.run(0.3) for _ in range(200)))
            assert running.jobs.in_flight == 0
        assert "list" in sources(running.events)
        assert narrative.meddler.counts["get_job"] < 100


async def test_the_reads_stay_within_the_budget_whatever_is_in_flight() -> None:
    options = replace(OPTIONS, reads_per_second=20, lost_after=10.0)
    with fickle_narrative(QUICK) as narrative:
        async with engine(narrative.url, options) as running:
            started = time.monotonic()
            await asyncio.gather(*(running.run(1.0) for _ in range(300)))
            seconds = time.monotonic() - started
        reads = sum(isinstance(event, UpstreamCalled) and event.operation != "submit" for event in running.events)
        assert reads <= 20 * seconds + 20


async def test_a_job_that_was_not_watched_is_read_once_somebody_waits() -> None:
    with fickle_narrative(QUICK) as narrative:
        narrative.meddler.edits["list_jobs"] = moved_on
        async with engine(narrative.url) as running, asyncio.timeout(LATE):
            others = [asyncio.create_task(running.run(60.0)) for _ in range(10)]
            job = await running.client.run_model_inference(request())
            await until(lambda: any(each.ended_at <= time.time() for each in narrative.store.jobs()))
            await until(lambda: running.jobs.in_flight == len(others))
            assert (await running.jobs.wait(job, running.client, deadline=in_time())).state == "completed"
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)


def without_result(page: Any) -> Any:
    return {**page, "records": [{**record, "result": None} for record in page["records"]]}


def lagging(page: Any) -> Any:
    """Shows nothing of the last half second."""
    return {**page, "records": [record for record in page["records"] if age(record) > 0.5]}


def age(record: dict[str, Any]) -> float:
    ended = record["ended_at"] or record["updated_at"]
    return time.time() - time.mktime(time.strptime(ended[:19], "%Y-%m-%dT%H:%M:%S")) + time.timezone


def moved_on(page: Any) -> Any:
    """Shows only the last half second: the account is a busy one."""
    return {**page, "records": [record for record in page["records"] if age(record) <= 0.5]}


async def test_a_job_that_ended_before_the_answer_to_its_submission_came_is_noticed_before_it_counts_as_late() -> None:
    with fickle_narrative(QUICK) as narrative:
        narrative.meddler.edits["list_jobs"] = moved_on
        async with engine(narrative.url) as running:
            others = [asyncio.create_task(running.run(60.0)) for _ in range(10)]
            await until(lambda: running.jobs.in_flight == len(others))
            narrative.meddler.delays["run"] = 1.0
            await running.run()
            [ended] = [event for event in running.events if isinstance(event, JobEnded)]
            assert ended.seconds < LATE
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)


SPOILED: dict[str, Callable[[Any], Any]] = {
    "leaves out results": without_result,
    "lags": lagging,
    "repeats itself": lambda page: {**page, "records": page["records"] * 3},
    "holds junk": lambda page: {**page, "records": [None, 5, {"job_id": None}, {}, *page["records"]]},
    "ignores the order": lambda page: {**page, "records": page["records"][::-1]},
    "lacks times": lambda page: {
        **page,
        "records": [{k: v for k, v in r.items() if not k.endswith("_at")} for r in page["records"]],
    },
}


@pytest.mark.parametrize("edit", SPOILED.values(), ids=SPOILED)
async def test_every_end_is_noticed_although_the_list(edit: Callable[[Any], Any]) -> None:
    with fickle_narrative(QUICK) as narrative:
        narrative.meddler.edits["list_jobs"] = edit
        async with engine(narrative.url) as running:
            texts = await asyncio.gather(*(running.run(0.3) for _ in range(30)))
        assert all(texts)


def half(page: Any) -> Any:
    return {**page, "records": [record for record in page["records"] if int(record["job_id"][-1], 16) % 2]}


HIDING: dict[str, tuple[dict[str, Fault], dict[str, Any]]] = {
    "shows nothing": ({}, {"list_jobs": lambda page: {**page, "records": []}}),
    "hides half of the jobs": ({}, {"list_jobs": half}),
    "may not be read": ({"list_jobs": always(Answer(403, b"{}"))}, {}),
    "always fails": ({"list_jobs": always(Answer(500, b""))}, {}),
    "is garbage": ({"list_jobs": always(Answer(200, b'{"records": [{'))}, {}),
}


@pytest.mark.parametrize(("faults", "edits"), HIDING.values(), ids=HIDING)
async def test_every_end_is_noticed_and_the_lists_count_as_unreliable_when_the_list(
    faults: dict[str, Fault], edits: dict[str, Any]
) -> None:
    with fickle_narrative(QUICK) as narrative:
        async with engine(narrative.url) as running:
            for _ in range(10):
                await running.run(0.1)  # the engine learns how long jobs take
            narrative.meddler.before.update(faults)
            narrative.meddler.edits.update(edits)
            await asyncio.gather(*(running.run(0.1) for _ in range(60)))
        assert ReliabilityChanged("list", reliable=False) in running.events


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(429, b"", ((b"retry-after", b"0"),)),
        Answer(429, b""),
        Answer(500, b""),
        Answer(502),
        Answer(503, b""),
        Answer(200, b"{"),
        Answer(200, b'{"records": [', cut=True),
        Answer(404, b"{}"),
        Answer(401, b"{}"),
    ],
    ids=repr,
)
async def test_bursts_of_trouble_with_reads_end_no_wait(trouble: Answer) -> None:
    options = replace(OPTIONS, lost_after=30.0)
    with fickle_narrative(QUICK) as narrative:
        narrative.meddler.before["get_job"] = every(2, trouble)
        narrative.meddler.before["list_jobs"] = every(2, trouble)
        async with engine(narrative.url, options) as running:
            await asyncio.gather(*(running.run(0.2) for _ in range(20)))


async def test_stuck_reads_end_no_wait() -> None:
    with fickle_narrative(QUICK) as narrative:
        narrative.meddler.before["get_job"] = first(2, Answer(never=True))
        narrative.meddler.before["list_jobs"] = first(2, Answer(never=True))
        async with engine(narrative.url) as running:
            await asyncio.gather(*(running.run(0.2) for _ in range(10)))


async def test_narrative_may_be_away_for_a_while_in_the_middle() -> None:
    with fickle_narrative(QUICK) as narrative:
        async with engine(narrative.url) as running:
            callers = asyncio.gather(*(running.run(0.3) for _ in range(50)))
            await until(lambda: narrative.store.enqueued >= 50)
            away = always(Answer(503, b""))
            narrative.meddler.before.update(get_job=away, list_jobs=away, run=away)
            late = asyncio.gather(*(running.run() for _ in range(10)))
            await until(lambda: narrative.meddler.counts["run"] >= 70)
            narrative.meddler.before.clear()
            await callers
            await late
        assert narrative.store.enqueued == 60


async def test_thousands_of_callers_that_vanish_leave_nothing_behind() -> None:
    """Trap: memory grows with what nobody waits for any more."""
    with fickle_narrative(QUICK) as narrative:
        async with engine(narrative.url) as running:
            callers = [asyncio.create_task(running.run(30.0)) for _ in range(2_000)]
            await until(lambda: running.jobs.in_flight >= 1_000)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            await until(lambda: not running.jobs.submitting)
            assert running.jobs.in_flight == 0
            assert running.jobs.queued == 0
            assert running.count(Abandoned) == narrative.store.enqueued
            await running.run()
            del caller, callers
            gc.collect()
            assert not [each for each in gc.get_objects() if isinstance(each, WatchedJob)]


async def test_each_caller_s_jobs_are_read_with_that_caller_s_token() -> None:
    with fickle_narrative(QUICK) as narrative:
        async with engine(narrative.url) as running:
            tokens = [f"token-{number}" for number in range(5)]
            await asyncio.gather(
                *(
                    running.jobs.run(request(0.2), running.client.with_api_key(token), deadline=in_time())
                    for token in tokens
                    for _ in range(12)
                )
            )
        for token in tokens:
            assert ("list_jobs", f"Bearer {token}") in narrative.meddler.tokens
        assert not any(token == "Bearer key" for _, token in narrative.meddler.tokens)
