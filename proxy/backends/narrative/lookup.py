"""Looks for a job by its tag in `GET /jobs`, when the answer to its submission was lost.

All who look in the same account and data plane at the same time share one reading of the list.
Source: shared contract `narrative.md`, sections `POST /model-inference/run` and `GET /jobs`.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.records import Record
from proxy.backends.narrative.types import Job, read_time
from proxy.errors import ProxyError, UpstreamError

_PER_PAGE: Final = 100
_MOST_PAGES: Final = 20
_MOST_OPAQUE: Final = 10
_SLACK: Final = 5.0
"""Seconds that Narrative's clock may differ from what its `Date` header showed."""
_SLACK_WITHOUT_DATE: Final = 120.0


@dataclass(slots=True)
class Scan:
    """What one reading of the list showed.

    Args:
        tagged: jobs by their tags.
        opaque: ids of jobs of the time in question whose tags the list does not show.
        covered: whether the list was read back to before the time in question.
    """

    tagged: dict[str, list[Job]] = field(default_factory=dict)
    opaque: set[str] = field(default_factory=set)
    covered: bool = False

    @property
    def conclusive(self) -> bool:
        """Whether a job that was not found is not there."""
        return self.covered and not self.opaque

    def add(self, tags: Collection[str], job: Job) -> None:
        for tag in tags:
            self.tagged.setdefault(tag, []).append(job)

    def find(self, tag: str) -> Job | None:
        """The job with that tag; the oldest, should Narrative have taken the submission twice."""
        jobs = self.tagged.get(tag)
        return jobs[-1] if jobs else None


class TagLookup:
    """Reads one account's list of jobs in one data plane, once for all who wait for it."""

    def __init__(self, client: NarrativeClient, data_plane_id: str, known: Collection[str]) -> None:
        self._client = client
        self._data_plane_id = data_plane_id
        self._known = known
        self._next: asyncio.Future[Scan] | None = None
        self._since = datetime.max.replace(tzinfo=UTC)
        self._deadline = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def scan(self, since: datetime, deadline: float) -> Scan:
        """A reading that starts after this call and reaches back to `since` (our clock).

        Raises:
            ProxyError: the list could not be read until `deadline` (loop time).
        """
        loop = asyncio.get_running_loop()
        if self._next is None:
            self._next = loop.create_future()
        wanted = self._next
        self._since = min(self._since, since)
        self._deadline = max(self._deadline, deadline)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        return await asyncio.shield(wanted)

    async def _run(self) -> None:
        while (wanted := self._next) is not None:
            since, deadline = self._since, self._deadline
            self._next, self._since, self._deadline = None, datetime.max.replace(tzinfo=UTC), float("-inf")
            try:
                scan = await self._read(since, deadline)
            except ProxyError as error:
                wanted.set_exception(error)
                wanted.exception()  # marks it as retrieved: all who wanted it may be gone
            else:
                wanted.set_result(scan)
            finally:
                if not wanted.done():  # a bug here: nobody shall wait for ever
                    wanted.set_exception(
                        UpstreamError("the list of jobs could not be read", code="narrative_unavailable")
                    )
                    wanted.exception()

    async def _read(self, since: datetime, deadline: float) -> Scan:
        ahead = self._client.clock_ahead
        oldest = since - timedelta(seconds=_SLACK_WITHOUT_DATE if ahead is None else _SLACK - ahead)
        scan = Scan()
        for number in range(_MOST_PAGES):
            page = await self._client.list_jobs(
                type="model_inference",
                data_plane_id=self._data_plane_id,
                per_page=_PER_PAGE,
                offset=number * _PER_PAGE or None,
                order_by="created_at_desc",
                deadline=deadline,
            )
            for record in page.records:
                if record.name is None:
                    return scan  # a record that cannot be read could be the one
                if tags := record.tags:
                    scan.add(tags, record.job() or Job(id=record.name))
                elif record.name not in self._known and not _older(record, oldest):
                    scan.opaque.add(record.name)
            if len(page.records) < _PER_PAGE or _older(page.records[-1], oldest):
                scan.covered = True
                break
        await self._read_opaque(scan, deadline)
        return scan

    async def _read_opaque(self, scan: Scan, deadline: float) -> None:
        """Lists may leave out what the job itself shows."""
        for job_id in list(scan.opaque)[:_MOST_OPAQUE]:
            job = await self._client.get_job(job_id, deadline=deadline)
            if job.tags:
                scan.opaque.discard(job_id)
                scan.add(job.tags, job)


def _older(record: Record, than: datetime) -> bool:
    created = read_time(record.created_at)
    return created is not None and created < than
