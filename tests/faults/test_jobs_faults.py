"""What running a job makes of an upstream that misbehaves."""

import asyncio

import pytest

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.jobs import Jobs, JobsOptions
from proxy.backends.narrative.transport import ClientOptions
from proxy.backends.narrative.watcher import WatchOptions
from proxy.errors import JobTimeout, UpstreamError
from tests.faults.raw_upstream import Reply, Seen, answer, raw_upstream, silence
from tests.faults.test_upstream_faults import ACCEPTED, DONE, HTML, KEY, request
from tests.waiting import until

QUICK = JobsOptions(watch=WatchOptions(reads_per_second=100, lost_after=0.0))
CLIENT = ClientOptions(read_timeout=0.2, total_timeout=0.2, first_backoff=0.001, closing_grace=0.01)
RUNNING = answer(200, {"job_id": "job-1", "state": "running"})


def in_seconds(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


@pytest.mark.parametrize(
    "trouble",
    [
        answer(404),
        HTML,
        answer(429),
        answer(401),
        answer(200, b"{"),
        answer(200, {"job_id": "job-1", "state": "a state of tomorrow"}),
        silence,
    ],
)
async def test_passing_trouble_does_not_end_a_wait(trouble: Reply) -> None:
    async with (
        raw_upstream(ACCEPTED, RUNNING, trouble, trouble, DONE) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(QUICK) as jobs,
    ):
        job = await jobs.run(request(), client, deadline=in_seconds(20))
        assert job.state == "completed"
        assert jobs.in_flight == 0


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_every_end_is_returned(state: str) -> None:
    end = answer(200, {"id": "job-1", "state": state, "failures": [{"message": "no"}]})
    async with (
        raw_upstream(ACCEPTED, end) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(QUICK) as jobs,
    ):
        job = await jobs.run(request(), client, deadline=in_seconds(20))
        assert job.state == state
        assert job.failures == ("no",)


async def test_a_job_that_stays_unknown_is_lost() -> None:
    async with (
        raw_upstream(ACCEPTED, answer(404)) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(QUICK) as jobs,
    ):
        with pytest.raises(UpstreamError) as caught:
            await jobs.run(request(), client, deadline=in_seconds(20))
        assert caught.value.code == "narrative_job_lost"
        assert caught.value.job_id == "job-1"
        assert jobs.in_flight == 0


async def test_a_job_that_never_ends_times_out_with_its_id_and_can_be_waited_for_again() -> None:
    async with (
        raw_upstream(ACCEPTED, RUNNING) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(QUICK) as jobs,
    ):
        job = await jobs.submit(request(), client, deadline=in_seconds(20))
        with pytest.raises(JobTimeout, match="job-1") as caught:
            await jobs.wait(job, client, deadline=in_seconds(0.1))
        assert caught.value.job_id == "job-1"
        assert jobs.in_flight == 0
        upstream.replies[:] = [DONE]
        assert (await jobs.wait(job, client, deadline=in_seconds(20))).ended


async def test_a_cancelled_caller_stops_waiting_at_once_and_leaves_nothing_behind() -> None:
    polled = asyncio.Event()

    async def running(seen: Seen, writer: asyncio.StreamWriter) -> None:
        polled.set()
        await RUNNING(seen, writer)

    async with (
        raw_upstream(ACCEPTED, running) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(QUICK) as jobs,
    ):
        callers = asyncio.create_task(jobs.run(request(), client, deadline=in_seconds(20)))
        await polled.wait()
        callers.cancel()
        with pytest.raises(asyncio.CancelledError):
            await callers
        assert jobs.in_flight == 0


async def test_one_of_two_callers_may_leave() -> None:
    async with (
        raw_upstream(ACCEPTED, RUNNING) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(QUICK) as jobs,
    ):
        job = await jobs.submit(request(), client, deadline=in_seconds(20))
        leaver = asyncio.create_task(jobs.wait(job, client, deadline=in_seconds(20)))
        stayer = asyncio.create_task(jobs.wait(job, client, deadline=in_seconds(20)))
        await asyncio.sleep(0)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        upstream.replies[:] = [DONE]
        assert (await stayer).ended


async def test_a_submitted_job_that_nobody_waits_for_is_forgotten_at_its_deadline() -> None:
    async with (
        raw_upstream(ACCEPTED, RUNNING) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(QUICK) as jobs,
    ):
        await jobs.submit(request(), client, deadline=in_seconds(2))
        assert jobs.in_flight == 1
        await until(lambda: not jobs.in_flight)
