"""Runs jobs from submission to end: queue, submit once, wait.

    job = await jobs.submit(request, client, deadline=deadline)            # for callers that nobody can repeat
    submission = await jobs.submit_once(make_request, form, client, record=record, slot="0.first", deadline=deadline)
    job = await jobs.wait(job, client, deadline=deadline)

All deadlines are absolute, in the running loop's `time()`. A caller that is cancelled stops waiting at once, and the job is left to end
by itself: Narrative cannot cancel it. Whether a job may exist is in `SubmissionRecord.job_may_exist` and `ProxyError.job_may_exist`.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import Abandoned, Observer, ignore
from proxy.backends.narrative.submit import (
    FairQueue,
    PendingSubmission,
    QueueOptions,
    Submission,
    SubmissionRecord,
    SubmitOptions,
    Submitter,
)
from proxy.backends.narrative.table import JobTable
from proxy.backends.narrative.types import Job, RunRequest
from proxy.backends.narrative.watcher import WatchOptions
from proxy.errors import JobTimeout
from proxy.storage import Membership, MemoryStore, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobsOptions:
    """How jobs are run.

    Args:
        queue: bounds the jobs in flight.
        max_submissions: being sent at one time.
        closing_grace: seconds that submissions on their way are given at the end, so that their jobs are recorded.
    """

    queue: QueueOptions = field(default_factory=QueueOptions)
    submit: SubmitOptions = field(default_factory=SubmitOptions)
    watch: WatchOptions = field(default_factory=WatchOptions)
    max_submissions: int = 32
    closing_grace: float = 5.0


class Jobs:
    """See the module. An async context manager that owns the tasks which submit and watch jobs.

    Args:
        options: bounds and habits.
        observe: called with events, for metrics and logs; it must be quick and must not raise.
        store: shared with other processes that run jobs of the same accounts, so that one of them reads for all.
    """

    def __init__(
        self, options: JobsOptions | None = None, *, observe: Observer = ignore, store: Store | None = None
    ) -> None:
        self._options = options = options or JobsOptions()
        self._observe = observe
        self._table = JobTable(options.watch, observe, MemoryStore() if store is None else store)
        self.expect_webhooks = self._table.expect_webhooks
        self.deliver = self._table.deliver
        self._places = FairQueue(options.queue, "jobs are in flight")
        sending = QueueOptions(options.max_submissions, options.queue.most, math.inf, 1.0)
        self._sending = FairQueue(sending, "submissions are being sent")
        self._submitter = Submitter(options.submit, self._places, self._sending, self._table.jobs.keys(), observe)

    async def __aenter__(self) -> Self:
        self._table.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all waits with `Overloaded`: the jobs may still end, and can be waited for elsewhere."""
        self.stop()
        self._table.fail_all()
        await self._submitter.aclose(self._options.closing_grace)
        await self._table.aclose()

    def __contains__(self, job_id: object) -> bool:
        """Whether the job of that id is watched."""
        return job_id in self._table.jobs

    @property
    def in_flight(self) -> int:
        """Jobs that are watched."""
        return len(self._table.jobs)

    @property
    def queued(self) -> int:
        """Submissions that wait for their turn."""
        return self._places.waiting + self._sending.waiting

    @property
    def submitting(self) -> int:
        """Submissions on their way, those of callers who left among them."""
        return len(self._submitter.tasks)

    @property
    def memberships(self) -> Collection[Membership]:
        """This replica's role in following each of the accounts that it follows."""
        return self._table.memberships

    def drain(self) -> None:
        """The server shuts down: refuse the submissions that are queued, and all that would have to queue."""
        self._places.drain()
        self._sending.drain()

    def stop(self) -> None:
        """The grace period is over: nothing is sent any more."""
        self.drain()
        self._submitter.stopped = True

    async def submit(self, request: RunRequest, client: NarrativeClient, *, deadline: float) -> Job:
        """Enqueue a job that nobody else can take up, and start to watch it. Raises what `submit_once` raises.

        Args:
            request: its body; its tags hold one that is unique, `rid:<uuid>`, by which it is found if the answer is lost.
            deadline: loop time until which its end is of interest.
        """
        record = SubmissionRecord()

        async def make_request(_: str) -> RunRequest:
            return request

        return (await self.submit_once(make_request, "", client, record=record, slot="0", deadline=deadline)).job

    async def submit_once(  # noqa: PLR0913
        self,
        make_request: Callable[[str], Awaitable[RunRequest]],
        form: str,
        client: NarrativeClient,
        *,
        record: SubmissionRecord,
        slot: str,
        deadline: float,
        caller: str = "",
    ) -> Submission:
        """The job of a slot, enqueued and watched if there is none yet. Waits for its turn until the deadline.

        Args:
            make_request: form → the body, with the tag `rid:<record.tag(slot)>`.
            form: how the request is put to the model; another replica's reservation may say another one.
            record: where the slot is.
            caller: whose submission it is: the queue is fair between callers.

        Raises:
            Overloaded, IdempotencyConflict, ProxyError: as `Submitter.submit`.
        """
        pending = PendingSubmission(make_request, form, client, record, slot, deadline, caller)
        submission = await self._submitter.submit(pending)
        if submission.new:
            self._table.open(
                submission.job,
                client,
                deadline=deadline,
                model=pending.model,
                sent=pending.sent,
                on_left=self._places.release,
            )
        return submission

    async def wait(self, job: Job, client: NarrativeClient, *, deadline: float) -> Job:
        """The ended job, whatever its end: completed, failed or cancelled.

        Raises:
            JobTimeout: the deadline passed; the job may still end, and can be waited for again.
            UpstreamError: `narrative_job_lost` when Narrative does not know the job any more; `narrative_unauthorized`;
                `narrative_record_unreadable`.
            PermissionDenied: the job may no longer be read.
            Overloaded: the engine stops.
        """
        watched = self._table.open(job, client, deadline=deadline)
        watched.waiters += 1
        try:
            await asyncio.wait({watched.future}, timeout=max(deadline - asyncio.get_running_loop().time(), 0.0))
            if watched.future.done():
                return watched.future.result()
        finally:
            watched.waiters -= 1
            if not watched.waiters:
                if not watched.future.done():
                    log.info("nobody waits for a job any more", extra={"job_id": job.id})
                    self._observe(Abandoned(job.id))
                self._table.close(watched)
        raise JobTimeout(f"Job {job.id} did not end in time", job_id=job.id)

    async def run(self, request: RunRequest, client: NarrativeClient, *, deadline: float) -> Job:
        """Submit and wait. Raises what `submit` and `wait` raise."""
        return await self.wait(await self.submit(request, client, deadline=deadline), client, deadline=deadline)
