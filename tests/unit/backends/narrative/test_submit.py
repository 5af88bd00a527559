"""Decisions of the submitter, with a client whose answers the test decides."""

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import pytest

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import JobsOptions, ignore
from proxy.backends.narrative.submit import (
    PendingSubmission,
    Submission,
    SubmissionRecord,
    Submitter,
    TagLookup,
)
from proxy.backends.narrative.types import InferenceConfig, Job, JobPage, RunMessage, RunRequest, TextBlock
from proxy.errors import Overloaded, UpstreamError
from proxy.inference.backend import Record
from proxy.storage import MemoryStore
from tests.records import record_of
from tests.waiting import suspended, until


class Scripted:
    """Submissions always have an unknown outcome; the list shows what it is given."""

    account = "a digest"
    clock_ahead: float | None = 0.0

    def __init__(self, records: Sequence[dict[str, Any]] = ()) -> None:
        self.records = list(records)
        self.submissions = 0
        self.pages = 0

    async def enqueue(self, request: RunRequest, **_: Any) -> Job:
        self.submissions += 1
        raise UpstreamError("lost", code="narrative_submit_unknown", job_may_exist=True)

    async def list_jobs(self, *, per_page: int, offset: int | None, **_: Any) -> JobPage:
        self.pages += 1
        start = offset or 0
        return JobPage(tuple(map(record_of, self.records[start : start + per_page])))

    async def get_job(self, job_id: str, *, deadline: float) -> Job:
        return Job(id=job_id)


def request(*tags: str) -> RunRequest:
    return RunRequest(
        data_plane_id="plane",
        model="model",
        messages=(RunMessage(role="user", content=(TextBlock(text="hi"),)),),
        inference_config=InferenceConfig(output_format_schema={}),
        tags=tags,
    )


def record(number: int, *, tags: Sequence[str] = ("rid:other",), minutes_old: float = 0.0) -> dict[str, Any]:
    created = datetime.now(UTC) - timedelta(minutes=minutes_old)
    return {"job_id": f"job-{number}", "input": {"tags": list(tags)}, "created_at": created.isoformat()}


def attempt(
    client: Scripted, *tags: str, seconds: float = 60.0, record: SubmissionRecord | None = None
) -> PendingSubmission:
    deadline = asyncio.get_running_loop().time() + seconds
    record = record or SubmissionRecord()

    async def make_request(_: str) -> RunRequest:
        return request(*tags)

    return PendingSubmission(make_request, "", cast(NarrativeClient, client), record, "0", deadline)


def submitter_with(**options: Any) -> Submitter:
    return Submitter(JobsOptions(**options), [], ignore)


async def submit(client: Scripted, *tags: str, seconds: float = 60.0) -> Job:
    submitter = submitter_with(lookups=(0.0, 0.0), attempts=2)
    submission = await submitter.carry(attempt(client, *tags, seconds=seconds))
    assert isinstance(submission, Submission)
    return submission.job


async def test_without_a_tag_of_its_own_a_lost_job_is_not_looked_for() -> None:
    client = Scripted()
    with pytest.raises(UpstreamError) as caught:
        await submit(client, "team:blue")
    assert caught.value.code == "narrative_submit_unknown"
    assert (client.submissions, client.pages) == (1, 0)


async def test_without_time_to_look_the_outcome_stays_unknown() -> None:
    client = Scripted()
    with pytest.raises(UpstreamError) as caught:
        await submit(client, "rid:1", seconds=0.0)
    assert caught.value.code == "narrative_submit_unknown"
    assert client.submissions == 1


@pytest.mark.parametrize(("retried_for", "given_up"), [(-1.0, True), (60.0, False)])
async def test_nothing_is_sent_again_after_the_time_for_retries(retried_for: float, given_up: bool) -> None:
    asked: list[bool] = []

    class Refusing(Scripted):
        async def enqueue(self, request: RunRequest, **options: Any) -> Job:
            asked.append(options["abandoned"]())
            raise UpstreamError("down", code="narrative_unavailable")

    pending = attempt(Refusing(), "rid:1")
    pending.retry_until = asyncio.get_running_loop().time() + retried_for
    with pytest.raises(UpstreamError):
        await submitter_with().carry(pending)
    assert asked == [given_up]


async def test_a_job_far_back_in_a_busy_list_is_found() -> None:
    records = [record(number) for number in range(1_000)]
    records[750] = record(750, tags=["team:blue", "rid:1"])
    assert (await submit(Scripted(records), "rid:1")).id == "job-750"


async def test_of_two_jobs_with_one_tag_the_older_is_taken() -> None:
    records = [record(2, tags=["rid:1"]), record(1, tags=["rid:1"])]
    assert (await submit(Scripted(records), "rid:1")).id == "job-1"


async def test_the_list_is_read_no_further_back_than_the_submission() -> None:
    client = Scripted([record(number, minutes_old=number / 10) for number in range(5_000)])
    with pytest.raises(UpstreamError) as caught:
        await submit(client, "rid:1")
    assert caught.value.code == "narrative_unavailable", "it is surely not there"
    assert client.pages <= 2 * 2 * 2


async def test_old_jobs_without_tags_leave_no_doubt_and_new_ones_do() -> None:
    old = Scripted([record(1, tags=[], minutes_old=60)])
    with pytest.raises(UpstreamError) as caught:
        await submit(old, "rid:1")
    assert caught.value.code == "narrative_unavailable"
    new = Scripted([record(1, tags=[])])
    with pytest.raises(UpstreamError) as caught:
        await submit(new, "rid:1")
    assert caught.value.code == "narrative_submit_unknown"


async def test_narratives_clock_may_go_wrong_by_hours() -> None:
    slow = Scripted([record(number, minutes_old=180) for number in range(150)])
    slow.records[120] = record(120, tags=["rid:1"], minutes_old=180)
    slow.clock_ahead = -180 * 60.0
    assert (await submit(slow, "rid:1")).id == "job-120"


async def test_all_who_look_at_the_same_time_share_one_reading() -> None:
    go_on = asyncio.Event()

    class Held(Scripted):
        async def list_jobs(self, **query: Any) -> JobPage:
            page = await super().list_jobs(**query)
            await go_on.wait()
            return page

    client = Held([record(1)])
    lookup = TagLookup(cast(NarrativeClient, client), "plane", [])
    deadline = asyncio.get_running_loop().time() + 60
    first = asyncio.create_task(lookup.scan(time.time(), deadline))
    await until(lambda: client.pages)
    others = [asyncio.create_task(lookup.scan(time.time(), deadline)) for _ in range(199)]
    await suspended(*others)
    go_on.set()
    assert all(conclusive for _, conclusive in await asyncio.gather(first, *others))
    assert client.pages == 2, "one that had begun, and one for all who looked since"


class Killed(MemoryStore):
    """A store that holds the reservation of a replica that was killed."""

    async def alive(self, replica: str) -> bool:
        return replica == self.replica


async def reserved_before(minutes: float) -> SubmissionRecord:
    store = Killed()
    at = (datetime.now(UTC) - timedelta(minutes=minutes)).timestamp()
    slot = {"form": "", "job": None, "by": "a killed replica", "nonce": "n", "at": at}
    await store.add("run:1", "0", json.dumps(slot), ttl_s=60)
    return SubmissionRecord(store, Record("run:1", uuid4(), ttl_s=60))


async def test_a_job_that_another_process_submitted_is_looked_up_before_anything_is_sent() -> None:
    client = Scripted([record(2), record(1, tags=["rid:1"], minutes_old=2)])
    submitter = submitter_with(lookups=(0.0,))
    found = await submitter.carry(attempt(client, "rid:1", record=await reserved_before(5)))
    assert found is not None
    assert found.job.id == "job-1"
    assert client.submissions == 0


async def test_a_reservation_that_was_taken_over_is_not_sent_for_a_client_that_left() -> None:
    client = Scripted()
    going = attempt(client, "rid:1", record=await reserved_before(5))
    going.client_left = True
    with pytest.raises(UpstreamError) as caught:
        await submitter_with(lookups=(0.0,)).carry(going)
    assert (caught.value.code, caught.value.job_may_exist) == ("narrative_unavailable", False)
    assert client.submissions == 0


@pytest.mark.parametrize(("seconds_old", "in_doubt"), [(115, True), (125, False)])
async def test_without_a_date_header_a_job_without_tags_is_in_doubt_within_the_slack(
    seconds_old: float, in_doubt: bool
) -> None:
    client = Scripted([record(1, tags=[], minutes_old=seconds_old / 60)])
    client.clock_ahead = None
    with pytest.raises(UpstreamError) as caught:
        await submit(client, "rid:1")
    assert caught.value.code == ("narrative_submit_unknown" if in_doubt else "narrative_unavailable")
    assert caught.value.job_may_exist is in_doubt
    assert client.submissions == (1 if in_doubt else 2)


@pytest.mark.parametrize(("seconds_old", "in_doubt"), [(3, True), (8, False)])
async def test_with_a_date_header_the_slack_is_a_few_seconds(seconds_old: float, in_doubt: bool) -> None:
    client = Scripted([record(1, tags=[], minutes_old=seconds_old / 60)])
    with pytest.raises(UpstreamError) as caught:
        await submit(client, "rid:1")
    assert caught.value.job_may_exist is in_doubt


async def test_a_client_that_left_has_nothing_sent_again_although_the_job_is_surely_not_there() -> None:
    class Leaving(Scripted):
        async def list_jobs(self, **query: Any) -> JobPage:
            going.client_left = True
            return await super().list_jobs(**query)

    client = Leaving()
    submitter = submitter_with(lookups=(0.0,), attempts=3)
    going = attempt(client, "rid:1")
    with pytest.raises(UpstreamError) as caught:
        await submitter.carry(going)
    assert client.submissions == 1
    assert (caught.value.code, caught.value.job_may_exist) == ("narrative_unavailable", False)


async def test_nothing_is_sent_once_the_grace_period_is_over() -> None:
    client = Scripted()
    submitter = submitter_with()
    submitter.stopped = True
    with pytest.raises(Overloaded) as caught:
        await submitter.carry(attempt(client, "rid:1"))
    assert caught.value.retry_after
    assert not caught.value.job_may_exist
    assert client.submissions == 0


async def test_an_unknown_outcome_is_recorded_as_a_job_that_may_exist() -> None:
    client = Scripted([record(1, tags=[])])
    store = MemoryStore()
    going = attempt(client, "rid:1", record=SubmissionRecord(store, Record("run:1", uuid4(), ttl_s=60)))
    with pytest.raises(UpstreamError):
        await submitter_with(lookups=(0.0,)).carry(going)
    assert json.loads((await store.read("run:1"))["0"]).get("job") is None
