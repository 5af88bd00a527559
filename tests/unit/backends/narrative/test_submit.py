"""Decisions of the submitter, with a client that answers as told."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from proxy.backends.narrative import NarrativeClient, SubmitOptions
from proxy.backends.narrative.events import ignore
from proxy.backends.narrative.finder import Finder
from proxy.backends.narrative.submit import Submitter, Ticket
from proxy.backends.narrative.types import InferenceConfig, Job, JobPage, Message, RunRequest, TextBlock
from proxy.errors import UpstreamError


class Scripted:
    """Submissions always have an unknown outcome; the list shows what it is given."""

    account = "a digest"
    clock_ahead: float | None = 0.0

    def __init__(self, records: Sequence[dict[str, Any]] = ()) -> None:
        self.records = list(records)
        self.submissions = 0
        self.pages = 0

    async def run_model_inference(self, request: RunRequest, *, deadline: float) -> Job:
        self.submissions += 1
        raise UpstreamError("lost", code="narrative_submit_unknown")

    async def list_jobs(self, *, per_page: int, offset: int | None, **_: Any) -> JobPage:
        self.pages += 1
        await asyncio.sleep(0)
        start = offset or 0
        return JobPage(records=tuple(self.records[start : start + per_page]))

    async def get_job(self, job_id: str, *, deadline: float) -> Job:
        return Job(id=job_id)


def request(*tags: str) -> RunRequest:
    return RunRequest(
        data_plane_id="plane",
        model="model",
        messages=(Message(role="user", content=(TextBlock(text="hi"),)),),
        inference_config=InferenceConfig(output_format_schema={}),
        tags=tags,
    )


def record(number: int, *, tags: Sequence[str] = ("rid:other",), minutes_old: float = 0.0) -> dict[str, Any]:
    created = datetime.now(UTC) - timedelta(minutes=minutes_old)
    return {"job_id": f"job-{number}", "input": {"tags": list(tags)}, "created_at": created.isoformat()}


async def submit(client: Scripted, *tags: str, seconds: float = 60.0) -> Job:
    submitter = Submitter(SubmitOptions(looks=(0.0, 0.0), attempts=2), [], ignore)
    deadline = asyncio.get_running_loop().time() + seconds
    return await submitter.submit(Ticket(request(*tags), cast(NarrativeClient, client), deadline))


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
    client = Scripted([record(1)])
    finder = Finder(cast(NarrativeClient, client), "plane", [])
    deadline = asyncio.get_running_loop().time() + 60
    scans = await asyncio.gather(*(finder.scan(datetime.now(UTC), deadline) for _ in range(200)))
    assert all(scan.covered for scan in scans)
    assert client.pages <= 2


async def test_a_job_that_another_process_submitted_is_looked_for_before_anything_is_sent() -> None:
    client = Scripted([record(2), record(1, tags=["rid:1"], minutes_old=2)])
    submitter = Submitter(SubmitOptions(looks=(0.0,)), [], ignore)
    since = (datetime.now(UTC) - timedelta(minutes=5)).timestamp()
    deadline = asyncio.get_running_loop().time() + 60
    ticket = Ticket(request("rid:1"), cast(NarrativeClient, client), deadline, since)
    assert (await submitter.submit(ticket)).id == "job-1"
    assert client.submissions == 0
