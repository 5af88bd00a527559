"""What running a job makes of an upstream that misbehaves."""

import asyncio

import pytest

from proxy.backends.narrative.client import ClientOptions, NarrativeClient
from proxy.backends.narrative.events import JobsOptions, Unreadable
from proxy.backends.narrative.jobs import Jobs
from proxy.errors import JobTimeout, Overloaded, UpstreamError
from tests.faults.raw_upstream import Reply, Seen, answer, raw_upstream, silence
from tests.faults.test_upstream_faults import ACCEPTED, DONE, HTML, KEY, request
from tests.waiting import suspended, until

QUICK = JobsOptions(reads_per_second=100, lost_after=0.0)
CLIENT = ClientOptions(read_timeout=0.2, total_timeout=0.2, first_backoff=0.001)
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


async def test_a_job_is_not_lost_soon_after_its_submission_however_often_it_is_unknown() -> None:
    options = JobsOptions(reads_per_second=100, lost_after=60.0)
    async with (
        raw_upstream(ACCEPTED, *[answer(404)] * 6, DONE) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(options) as jobs,
    ):
        job = await jobs.run(request(), client, deadline=in_seconds(20))
        assert job.state == "completed"


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
        await suspended(leaver, stayer)
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


def ended(**fields: object) -> Reply:
    return answer(200, {"job_id": "job-1", "state": "completed", **fields})


NO_RESULT = ended(result=None)


async def test_a_completed_job_without_a_result_is_read_again_until_it_has_one() -> None:
    async with (
        raw_upstream(ACCEPTED, NO_RESULT, ended(result={}), DONE) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(QUICK) as jobs,
    ):
        job = await jobs.run(request(), client, deadline=in_seconds(20))
        assert job.complete
        assert len(upstream.seen) == 4


async def test_a_completed_job_whose_result_never_comes_is_taken_as_it_is() -> None:
    options = JobsOptions(reads_per_second=100, result_lag=0.3)
    async with (
        raw_upstream(ACCEPTED, NO_RESULT) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(options) as jobs,
    ):
        job = await jobs.run(request(), client, deadline=in_seconds(20))
        assert (job.state, job.result) == ("completed", None)
        assert len(upstream.seen) >= 3


@pytest.mark.parametrize("state", ["COMPLETED", "Canceled", "FAILED"])
async def test_ends_are_noticed_in_any_spelling(state: str) -> None:
    end = answer(
        200, {"id": "job-1", "state": state, "result": {"structured_output": 1, "usage": {"total_tokens": 1.5}}}
    )
    async with (
        raw_upstream(ACCEPTED, end) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(QUICK) as jobs,
    ):
        assert (await jobs.run(request(), client, deadline=in_seconds(20))).ended


@pytest.mark.parametrize("record", [{"job_id": "job-1", "state": 5}, {"job_id": "job-2", "state": "completed"}, {}])
async def test_a_record_that_cannot_be_read_for_long_ends_the_wait_with_an_error_that_says_so(
    record: dict[str, object],
) -> None:
    events: list[object] = []
    options = JobsOptions(reads_per_second=100, unreadable_after=0.2)
    async with (
        raw_upstream(ACCEPTED, answer(200, record)) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(options, observe=events.append) as jobs,
    ):
        with pytest.raises(UpstreamError, match="could not be read") as caught:
            await jobs.run(request(), client, deadline=in_seconds(20))
    assert (caught.value.code, caught.value.job_id) == ("narrative_record_unreadable", "job-1")
    assert caught.value.retry_after is None
    assert events.count(Unreadable("job-1")) == len(upstream.seen) - 1 >= 2


async def test_a_record_that_cannot_be_read_for_a_moment_does_not_end_the_wait() -> None:
    async with (
        raw_upstream(ACCEPTED, answer(200, b"{}"), answer(200, b"{}"), RUNNING, answer(200, b"{}"), DONE) as upstream,
        NarrativeClient(KEY, environment=upstream.url, options=CLIENT) as client,
        Jobs(QUICK) as jobs,
    ):
        assert (await jobs.run(request(), client, deadline=in_seconds(20))).complete
        assert len(upstream.seen) == 6


@pytest.mark.parametrize("trouble", [answer(500), answer(200, {"job_id": "job-1", "state": "running"}), answer(404)])
async def test_a_job_that_a_list_calls_ended_while_its_own_record_fails_or_lags_is_read_again(trouble: Reply) -> None:
    """The list shows the end without the result; the first and second reads of the job bring nothing."""
    ids: list[str] = []
    failures = {"left": 2}

    async def reply(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method == "POST":
            ids.append(f"job-{len(ids)}")
            await answer(200, {"job_id": ids[-1]})(seen, writer)
        elif seen.path == "/jobs":
            shown = [{"job_id": ids[0], "state": "completed"}] if "state=completed" in seen.target and ids else []
            await answer(200, {"records": shown})(seen, writer)
        elif seen.path == f"/jobs/{ids[0]}" and failures["left"] > 0:
            failures["left"] -= 1
            await trouble(seen, writer)
        else:
            state = "completed" if seen.path == f"/jobs/{ids[0]}" else "running"
            record = {"job_id": seen.path.rsplit("/", 1)[1], "state": state, "result": {"structured_output": 1}}
            await answer(200, record)(seen, writer)

    events: list[object] = []
    async with (
        raw_upstream(reply) as upstream,
        NarrativeClient(KEY, environment=upstream.url) as client,
        Jobs(JobsOptions(lost_after=30.0), observe=events.append) as jobs,
    ):
        first = await jobs.submit(request(), client, deadline=in_seconds(30))
        others = [asyncio.create_task(jobs.run(request(), client, deadline=in_seconds(30))) for _ in range(5)]
        assert (await jobs.wait(first, client, deadline=in_seconds(30))).complete
        assert failures["left"] == 0
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def test_polling_backs_off_while_lists_and_jobs_answer_503() -> None:
    async def reply(seen: Seen, writer: asyncio.StreamWriter) -> None:
        if seen.method == "POST":
            await answer(200, {"job_id": f"job-{len(upstream.seen)}"})(seen, writer)
        else:
            await answer(503)(seen, writer)

    async with (
        raw_upstream(reply) as upstream,
        NarrativeClient(KEY, environment=upstream.url) as client,
        Jobs(QUICK) as jobs,
    ):
        waits = [asyncio.create_task(jobs.run(request(), client, deadline=in_seconds(3.0))) for _ in range(5)]
        results = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(result) for result in results} == {JobTimeout}
        reads = [seen for seen in upstream.seen if seen.method == "GET"]
        # Pauses of 0.1, 0.2, … 1.6 s fit into three seconds; several reads may end one pause together.
        assert len(reads) <= 60, "a hundred a second were allowed"


async def test_a_queued_submission_is_refused_at_once_when_the_server_drains() -> None:
    async with (
        raw_upstream(silence) as upstream,
        NarrativeClient(KEY, environment=upstream.url) as client,
        Jobs(JobsOptions(max_submissions=1, closing_grace=0.1)) as jobs,
    ):
        first = asyncio.create_task(jobs.submit(request(), client, deadline=in_seconds(60)))
        await until(lambda: upstream.seen)
        queued = [asyncio.create_task(jobs.submit(request(), client, deadline=in_seconds(60))) for _ in range(3)]
        await until(lambda: jobs.queued == 3)
        jobs.drain()
        for result in await asyncio.gather(*queued, return_exceptions=True):
            assert isinstance(result, Overloaded)
            assert result.retry_after
            assert not result.job_may_exist
        assert len(upstream.seen) == 1
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_submissions_queue_until_their_deadline_and_not_longer() -> None:
    async with (
        raw_upstream(silence) as upstream,
        NarrativeClient(KEY, environment=upstream.url) as client,
        Jobs(JobsOptions(max_submissions=1, closing_grace=0.1)) as jobs,
    ):
        first = asyncio.create_task(jobs.submit(request(), client, deadline=in_seconds(60)))
        await until(lambda: upstream.seen)
        with pytest.raises(Overloaded) as caught:
            await jobs.submit(request(), client, deadline=in_seconds(0.05))
        assert caught.value.retry_after
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
