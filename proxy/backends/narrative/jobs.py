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
from proxy.backends.narrative.events import Abandoned, Observer, Queued, Refused, ignore
from proxy.backends.narrative.queue import FairQueue, QueueOptions
from proxy.backends.narrative.reservations import SubmissionRecord
from proxy.backends.narrative.submit import Attempt, Submission, SubmitOptions, Submitter
from proxy.backends.narrative.table import JobTable
from proxy.backends.narrative.types import Job, RunRequest
from proxy.backends.narrative.watcher import WatchedJob, WatchOptions
from proxy.errors import JobTimeout, Overloaded
from proxy.storage import Membership, MemoryStore, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobsOptions:
    """How jobs are run."""

    queue: QueueOptions = field(default_factory=QueueOptions)
    """Jobs in flight."""
    submit: SubmitOptions = field(default_factory=SubmitOptions)
    watch: WatchOptions = field(default_factory=WatchOptions)
    max_submissions: int = 32
    """Submissions being sent at one time."""
    submission_patience: float = math.inf
    """Seconds that a submission waits to be sent at most, if its deadline is later."""
    closing_grace: float = 5.0
    """Seconds that submissions on their way are given at the end, so that their jobs are recorded."""


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
        sending = QueueOptions(options.max_submissions, options.queue.most, options.submission_patience, 1.0)
        self._sending = FairQueue(sending, "submissions are being sent")
        self._submitter = Submitter(options.submit, self._table.jobs.keys(), observe)

    async def __aenter__(self) -> Self:
        self._table.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all waits with `Overloaded`: the jobs may still end, and can be waited for elsewhere."""
        self.stop()
        self._table.fail_all()
        if self._submitter.tasks:
            await asyncio.wait(set(self._submitter.tasks), timeout=self._options.closing_grace)
        for task in list(self._submitter.tasks):
            task.cancel()
        await asyncio.gather(*self._submitter.tasks, return_exceptions=True)
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

    # ------------------------------------------------------------ submissions

    async def submit(self, request: RunRequest, client: NarrativeClient, *, deadline: float) -> Job:
        """Enqueue a job that nobody else can take up, and start to watch it.

        Args:
            request: its body; its tags hold one that is unique, `rid:<uuid>`, by which it is found if the answer is lost.
            client: submits it and reads it.
            deadline: loop time until which its end is of interest.

        Raises:
            Overloaded: too much is in flight; nothing was enqueued.
            ProxyError: as `NarrativeClient.run_model_inference`.
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
            Overloaded: too much is in flight, or the server is shutting down; nothing was enqueued.
            IdempotencyConflict: another replica has been submitting in this slot for too long.
            ProxyError: as `NarrativeClient.run_model_inference`.
        """
        while True:
            if (found := await self._submitter.taken(record, slot)) is not None:
                return found
            await self._take_turn(caller or client.account, deadline)
            attempt = Attempt(make_request, form, client, deadline, record, slot)
            task = self._submitter.start(attempt)
            task.add_done_callback(lambda _: self._sending.release())
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                attempt.client_left = True
                task.add_done_callback(self._sent_for_nobody)
                raise
            if (submission := self._sent(task)) is not None:
                self._table.open(
                    submission.job,
                    client,
                    deadline=deadline,
                    model=attempt.model,
                    sent=attempt.sent,
                    on_left=self._places.release,
                )
                return submission

    async def _take_turn(self, caller: str, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        try:
            await self._places.acquire(caller, deadline)
            try:
                await self._sending.acquire(caller, deadline)
            except BaseException:
                self._places.release()
                raise
        except Overloaded:
            self._observe(Refused(self.in_flight))
            raise
        self._observe(Queued(loop.time() - arrived))

    def _sent(self, task: "asyncio.Task[Submission | None]") -> Submission | None:
        """What came of a submission; the place of one that brought no job is given back."""
        submission = None
        try:
            if task.cancelled():
                raise Overloaded("the server is stopping", job_may_exist=True)
            submission = task.result()
        finally:
            if submission is None:
                self._places.release()
        return submission

    def _sent_for_nobody(self, task: "asyncio.Task[Submission | None]") -> None:
        self._places.release()
        submission = None if task.cancelled() or task.exception() else task.result()
        self._abandon(submission.job.id if submission else None)

    # ------------------------------------------------------------ waiting

    async def wait(self, job: Job, client: NarrativeClient, *, deadline: float) -> Job:
        """The ended job, whatever its end: completed, failed or cancelled.

        Raises:
            JobTimeout: the deadline passed; the job may still end, and can be waited for again.
            UpstreamError: `narrative_job_lost` when Narrative does not know the job any more; `narrative_unauthorized`;
                `narrative_record_unreadable`.
            PermissionDenied: the job may no longer be read.
            Overloaded: the engine stops.
        """
        loop = asyncio.get_running_loop()
        watched = self._table.open(job, client, deadline=deadline)
        watched.waiters += 1
        try:
            await asyncio.wait({watched.future}, timeout=max(deadline - loop.time(), 0.0))
            if watched.future.done():
                return watched.future.result()
        finally:
            self._leave(watched)
        raise JobTimeout(f"Job {job.id} did not end in time", job_id=job.id)

    async def run(self, request: RunRequest, client: NarrativeClient, *, deadline: float) -> Job:
        """Submit and wait. Raises what `submit` and `wait` raise."""
        return await self.wait(await self.submit(request, client, deadline=deadline), client, deadline=deadline)

    def _leave(self, watched: WatchedJob) -> None:
        watched.waiters -= 1
        if watched.waiters:
            return
        if not watched.future.done():
            self._abandon(watched.id)
        self._table.close(watched)

    def _abandon(self, job_id: str | None) -> None:
        """The place for a call that cancels the job, once Narrative has one."""
        log.info("nobody waits for a job any more", extra={"job_id": job_id})
        self._observe(Abandoned(job_id))
