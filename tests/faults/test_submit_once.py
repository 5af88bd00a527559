"""Exactly once: lost answers to submissions neither lose a job nor pay for it twice."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from proxy.backends.narrative.events import Resubmitted, Submitted
from proxy.errors import UpstreamError
from proxy.sandbox import SandboxOptions
from tests.faults.meddler import Answer, Served, always, every, fickle_narrative, first
from tests.faults.running import OPTIONS, engine, in_time, request
from tests.waiting import until

INSTANT = SandboxOptions(pending_s=0, running_s=0)
LOST = {
    "a gateway's 502": Answer(502),
    "a gateway's 504": Answer(504, b""),
    "a cut body": Answer(200, b'{"job', cut=True),
    "an unreadable body": Answer(200, b"<html>"),
}


def tags(narrative: Served) -> Counter[str]:
    return Counter(tag for job in narrative.store.jobs() for tag in job.body["tags"])


async def test_2000_requests_with_a_tenth_of_the_answers_lost_make_2000_jobs() -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.after["run"] = every(10, Answer(502))
        async with engine(narrative.url) as running:
            answers = await asyncio.gather(*(running.run() for _ in range(2_000)))
        assert len(answers) == 2_000
        assert narrative.store.enqueued == 2_000
        assert set(tags(narrative).values()) == {1}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
async def test_a_job_whose_answer_was_lost_is_found_by_its_tag_and_adopted(lost: Answer) -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.after["run"] = first(1, lost)
        async with engine(narrative.url) as running:
            await running.run()
        assert narrative.store.enqueued == 1
        assert [event.adopted for event in running.events if isinstance(event, Submitted)] == [True]


async def test_a_submission_that_is_never_answered_is_found_after_the_read_timeout() -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.after["run"] = first(1, Answer(never=True))
        async with engine(narrative.url) as running:
            await running.run()
        assert narrative.store.enqueued == 1


async def test_a_submission_that_surely_was_not_taken_is_sent_again() -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.before["run"] = first(1, Answer(502))
        async with engine(narrative.url) as running:
            await running.run()
        assert narrative.store.enqueued == 1
        assert [event.sure for event in running.events if isinstance(event, Resubmitted)] == [True]


async def test_a_submission_that_is_never_taken_ends_with_an_error_that_invites_a_repeat() -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.before["run"] = always(Answer(502))
        async with engine(narrative.url) as running:
            with pytest.raises(UpstreamError) as caught:
                await running.run()
        assert caught.value.code == "narrative_unavailable"
        assert caught.value.retry_after is not None
        assert narrative.meddler.counts["run"] == 3


async def test_a_list_that_lags_is_asked_again() -> None:
    looked = 0

    def lag(page: Any) -> Any:
        nonlocal looked
        looked += 1
        return page if looked > 2 else {**page, "records": []}

    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.after["run"] = first(1, Answer(502))
        narrative.meddler.edits["list_jobs"] = lag
        async with engine(narrative.url) as running:
            await running.run()
        assert narrative.store.enqueued == 1


def without_tags(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "input": {key: value for key, value in record["input"].items() if key != "tags"}}


async def test_a_list_without_tags_is_completed_by_reading_the_jobs() -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.after["run"] = first(1, Answer(502))
        narrative.meddler.edits["list_jobs"] = lambda page: {**page, "records": [*map(without_tags, page["records"])]}
        async with engine(narrative.url) as running:
            await running.run()
        assert narrative.store.enqueued == 1


CANNOT_TELL = {
    "the list may not be read": ({"list_jobs": always(Answer(403, b"{}"))}, {}),
    "no tags are shown anywhere": (
        {},
        {
            "list_jobs": lambda page: {**page, "records": [*map(without_tags, page["records"])]},
            "get_job": without_tags,
        },
    ),
    "a record cannot be read": ({}, {"list_jobs": lambda page: {**page, "records": [{"state": 5}]}}),
}


@pytest.mark.parametrize(("faults", "edits"), CANNOT_TELL.values(), ids=CANNOT_TELL)
async def test_when_nobody_can_tell_nothing_is_sent_again(faults: dict[str, Any], edits: dict[str, Any]) -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.after["run"] = always(Answer(502))
        narrative.meddler.before.update(faults)
        narrative.meddler.edits.update(edits)
        async with engine(narrative.url) as running:
            with pytest.raises(UpstreamError) as caught:
                await running.run()
        assert caught.value.code == "narrative_submit_unknown"
        assert caught.value.retry_after is None
        assert narrative.store.enqueued == 1


async def test_when_nobody_can_tell_it_is_sent_again_if_the_operator_wants() -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.after["run"] = first(1, Answer(502))
        narrative.meddler.before["list_jobs"] = lambda passing: Answer(403, b"{}") if passing.number < 3 else None
        options = replace(OPTIONS, lookups=(0.01, 0.01, 0.01), in_doubt="resubmit")
        async with engine(narrative.url, options) as running:
            await running.run()
        assert narrative.store.enqueued == 2


@pytest.mark.parametrize(
    "refusal", [Answer(429, b""), Answer(429, b"", ((b"retry-after", b"0"),)), Answer(503, b"")], ids=repr
)
async def test_a_storm_of_refusals_delays_submissions_and_doubles_none(refusal: Answer) -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.before["run"] = first(50, refusal)
        async with engine(narrative.url) as running:
            await asyncio.gather(*(running.run() for _ in range(40)))
        assert narrative.store.enqueued == 40


async def test_a_caller_that_leaves_during_a_submission_has_nothing_sent_again_for_it() -> None:
    with fickle_narrative(INSTANT) as narrative:
        narrative.meddler.before["run"] = always(Answer(502))
        async with engine(narrative.url) as running:
            caller = asyncio.create_task(running.jobs.submit(request(), running.client, deadline=in_time()))
            await until(lambda: narrative.meddler.counts["list_jobs"])
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert running.jobs.in_flight == 0
            await until(lambda: not running.jobs.submitting)
        assert narrative.meddler.counts["run"] == 1
