"""Every submission is made once, whoever works on the request and wherever they are killed."""

import asyncio
from typing import Any, cast
from uuid import UUID

import pytest

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import JobsOptions
from proxy.backends.narrative.jobs import Jobs
from proxy.backends.narrative.submit import PendingSubmission, Submission, SubmissionRecord
from proxy.backends.narrative.types import InferenceConfig, Job, RunMessage, RunRequest, TextBlock
from proxy.errors import IdempotencyConflict, RateLimited, UpstreamError
from proxy.inference.backend import Record
from proxy.storage import MemoryStore
from tests.waiting import until

SEED = UUID("5a4db0c5-0000-4000-8000-00005a4db0c5")
OPTIONS = JobsOptions(lookups=(0.0,), closing_grace=0.1)


class Replica(MemoryStore):
    """A store that is shared with another one, as replicas on one Redis have."""

    def __init__(self, other: "Replica | None" = None) -> None:
        super().__init__()
        self.dead: set[str] = other.dead if other else set()
        if other is not None:
            self._records = other._records

    async def alive(self, replica: str) -> bool:
        return bool(replica) and replica not in self.dead


def recorded(store: MemoryStore, wait_s: float = 5.0) -> SubmissionRecord:
    return SubmissionRecord(store, Record("run:1", SEED, ttl_s=60.0), wait_s=wait_s)


class Narrative:
    """Takes submissions once `go` is set; each outcome is an error to raise or the id of the job."""

    account = "account"
    clock_ahead = 0.0

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[str] = []
        self.lookups = 0
        self.go = asyncio.Event()

    async def enqueue(self, request: RunRequest, **_: Any) -> Job:
        self.sent.append(request.model)
        await self.go.wait()
        outcome = self.outcomes.pop(0) if self.outcomes else f"job-{len(self.sent)}"
        if isinstance(outcome, Exception):
            raise outcome
        return Job(id=str(outcome))

    async def list_jobs(self, **_: Any) -> Any:
        self.lookups += 1
        raise UpstreamError("away", code="narrative_unavailable")

    async def get_job(self, job_id: str, **_: Any) -> Job:
        return Job(id=job_id, state="running")

    def without_retries(self) -> "Narrative":
        return self

    async def submit(self, jobs: Jobs, record: SubmissionRecord, form: str = "") -> Submission:
        client = cast(NarrativeClient, self)
        deadline = asyncio.get_running_loop().time() + 60

        async def make_request(form_: str) -> RunRequest:
            return request(form_, record.tag("0"))

        return await jobs.submit_once(PendingSubmission(make_request, form, client, record, "0", deadline))


def request(form: str, tag: str) -> RunRequest:
    return RunRequest(
        data_plane_id="plane",
        model=f"in form {form}",
        messages=(RunMessage(role="user", content=(TextBlock(text="hi"),)),),
        inference_config=InferenceConfig(output_format_schema={}),
        tags=(f"rid:{tag}",),
    )


async def test_whoever_comes_later_gets_the_same_job_and_the_form_it_was_submitted_in() -> None:
    narrative, store = Narrative(), Replica()
    narrative.go.set()
    async with Jobs(OPTIONS) as jobs:
        first = await narrative.submit(jobs, recorded(store), "blocks")
        later = await narrative.submit(jobs, recorded(Replica(store)), "text")
    assert (first.new, later.new) == (True, False)
    assert (later.job.id, later.form) == (first.job.id, "blocks") == ("job-1", "blocks")
    assert len(narrative.sent) == 1


async def test_who_comes_meanwhile_waits_for_the_one_who_submits() -> None:
    narrative, store = Narrative(), Replica()
    async with Jobs(OPTIONS) as jobs:
        both = [asyncio.create_task(narrative.submit(jobs, recorded(s))) for s in (store, Replica(store))]
        await until(lambda: narrative.sent)
        narrative.go.set()
        assert {submission.job.id for submission in await asyncio.gather(*both)} == {"job-1"}
    assert len(narrative.sent) == 1


async def test_a_client_that_leaves_does_not_stop_the_submission() -> None:
    narrative, store = Narrative(), Replica()
    async with Jobs(OPTIONS) as jobs:
        leaver = asyncio.create_task(narrative.submit(jobs, recorded(store)))
        await until(lambda: narrative.sent)
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
        narrative.go.set()
        assert (await narrative.submit(jobs, recorded(store))).job.id == "job-1"
    assert len(narrative.sent) == 1


async def test_the_reservation_of_a_killed_replica_is_taken_over_by_looking_first() -> None:
    narrative, store = Narrative(), Replica()
    async with Jobs(OPTIONS) as jobs:
        killed = asyncio.create_task(narrative.submit(jobs, recorded(store), "blocks"))
        await until(lambda: narrative.sent)
        other = Replica(store)
        other.dead.add(store.replica)
        with pytest.raises(UpstreamError) as caught:
            await narrative.submit(jobs, recorded(other), "text")
        assert caught.value.code == "narrative_submit_unknown"
        assert (len(narrative.sent), narrative.lookups) == (1, 1)
        narrative.go.set()
        assert (await killed).form == "blocks"


async def test_an_unknown_outcome_is_looked_up_by_the_next_one() -> None:
    narrative = Narrative(UpstreamError("?", code="narrative_submit_unknown", job_may_exist=True))
    narrative.go.set()
    store = Replica()
    first = recorded(store)
    async with Jobs(OPTIONS) as jobs:
        with pytest.raises(UpstreamError):
            await narrative.submit(jobs, first)
        assert "0" in await store.read("run:1")
        assert narrative.lookups == 1
        with pytest.raises(UpstreamError):
            await narrative.submit(jobs, recorded(store))
    assert (len(narrative.sent), narrative.lookups) == (1, 2), "nothing is sent before the job was looked up"


async def test_a_refused_submission_leaves_nothing_behind() -> None:
    narrative = Narrative(RateLimited("no", retry_after=1.0))
    narrative.go.set()
    store = Replica()
    first = recorded(store)
    async with Jobs(OPTIONS) as jobs:
        with pytest.raises(RateLimited):
            await narrative.submit(jobs, first)
    assert len(store) == 0


async def test_a_submission_that_takes_too_long_elsewhere_is_a_conflict() -> None:
    narrative, store = Narrative(), Replica()
    async with Jobs(OPTIONS) as jobs:
        busy = asyncio.create_task(narrative.submit(jobs, recorded(store)))
        await until(lambda: narrative.sent)
        with pytest.raises(IdempotencyConflict) as caught:
            await narrative.submit(jobs, recorded(Replica(store), wait_s=0.0))
        assert caught.value.retry_after
        narrative.go.set()
        await busy


async def test_a_submission_that_is_cut_off_at_the_end_is_recorded_as_one_that_may_exist() -> None:
    narrative, store = Narrative(), Replica()
    record = recorded(store)
    async with Jobs(OPTIONS) as jobs:
        asking = asyncio.create_task(narrative.submit(jobs, record))
        await until(lambda: narrative.sent)
    [error] = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(error, Exception)
    assert getattr(error, "job_may_exist", False)
    assert await record.find("0") is None, "whoever comes next looks the job up"
    assert "0" in await store.read("run:1")


async def test_tags_are_the_same_for_everyone_and_differ_by_slot() -> None:
    one, other = recorded(Replica()), recorded(Replica())
    assert one.tag("0.first") == other.tag("0.first")
    assert one.tag("0.first") != one.tag("1.first")
