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
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import Abandoned, Observer, Queued, Refused, ignore
from proxy.backends.narrative.polling import Durations
from proxy.backends.narrative.queue import FairQueue, QueueOptions
from proxy.backends.narrative.records import Record
from proxy.backends.narrative.replicas import AccountRole, ListRead, Replicas
from proxy.backends.narrative.reservations import SubmissionRecord
from proxy.backends.narrative.submit import Attempt, Submission, SubmitOptions, Submitter
from proxy.backends.narrative.types import Job, RunRequest
from proxy.backends.narrative.watcher import AccountWatcher, WatchedJob, WatchOptions
from proxy.errors import JobTimeout, Overloaded
from proxy.storage import Membership, MemoryStore, Store

log = logging.getLogger(__name__)

UNCLAIMED: Final = 5.0
"""Seconds that a job is followed before anybody waits for it."""
_MOST_IDLE_ACCOUNTS: Final = 256
_MOST_EARLY: Final = 2_000
_FEW: Final = 16
"""Jobs in flight up to which one of a model of which nothing is known is read at once."""
_SLOW_SUBMISSION: Final = 0.5
"""Seconds after which the answer to a submission comes so late that the job may have ended and left the lists' first pages."""
_WEBHOOK_LEAD: Final = 0.1
"""Seconds in which a webhook may come before the job is read."""


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
        self._store = MemoryStore() if store is None else store
        self._jobs: dict[str, WatchedJob] = {}
        self._accounts: OrderedDict[str, AccountWatcher] = OrderedDict()
        self._durations = Durations()
        self._replicas = Replicas(self._store, self._heard_read, self._take, self._renew_roles)
        self._places = FairQueue(options.queue, "jobs are in flight")
        sending = QueueOptions(options.max_submissions, options.queue.most, options.submission_patience, 1.0)
        self._sending = FairQueue(sending, "submissions are being sent")
        self._submitter = Submitter(options.submit, self._jobs.keys(), observe)
        self._webhook_accounts: set[str] = set()
        self._early: OrderedDict[str, None] = OrderedDict()

    async def __aenter__(self) -> Self:
        self._replicas.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all waits with `Overloaded`: the jobs may still end, and can be waited for elsewhere."""
        self.stop()
        for job in list(self._jobs.values()):
            self._watcher(job.client).fail(job, Overloaded("the server is stopping", job_id=job.id))
        if self._submitter.tasks:
            await asyncio.wait(set(self._submitter.tasks), timeout=self._options.closing_grace)
        for task in list(self._submitter.tasks):
            task.cancel()
        await asyncio.gather(*self._submitter.tasks, return_exceptions=True)
        await self._replicas.stop()
        await asyncio.gather(*(watcher.aclose() for watcher in self._accounts.values()))

    def __contains__(self, job_id: object) -> bool:
        """Whether the job of that id is watched."""
        return job_id in self._jobs

    @property
    def in_flight(self) -> int:
        """Jobs that are watched."""
        return len(self._jobs)

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
        return [watcher.role.membership for watcher in self._accounts.values() if not watcher.idle]

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
        return (await self.submit_once(lambda _: request, "", client, record=record, slot="0", deadline=deadline)).job

    async def submit_once(  # noqa: PLR0913
        self,
        make_request: Callable[[str], RunRequest],
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
                self._watch(
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
        watched = self._watch(job, client, deadline=deadline)
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

    def _watch(  # noqa: PLR0913
        self,
        job: Job,
        client: NarrativeClient,
        *,
        deadline: float,
        sent: float | None = None,
        model: str = "",
        on_left: Callable[[], None] | None = None,
    ) -> WatchedJob:
        """The row of a job, made when there is none. It leaves with its last waiter, or soon when nobody ever came.

        Without `sent` it was submitted a while ago, and may have ended.
        """
        watched = self._jobs.get(job.id)
        if watched is not None:
            watched.deadline = max(watched.deadline, deadline)
            if on_left is not None:
                on_left()
            return watched
        loop = asyncio.get_running_loop()
        started = _started(job, loop.time() - UNCLAIMED if sent is None else sent)
        watcher = self._watcher(client)
        usual = self._durations.usual(model)
        unknown = usual.quick is None and len(self._jobs) < _FEW and not self._store.shared
        at_once = (usual.quick or unknown) and not watcher.has_webhooks
        watched = self._jobs[job.id] = WatchedJob(
            started=started,
            ready_at=started + max(usual.earliest, _WEBHOOK_LEAD if watcher.has_webhooks else 0.0),
            late_at=started + (usual.late if loop.time() - started < _SLOW_SUBMISSION else 0.0),
            own_read=at_once or sent is None,
            id=job.id,
            client=client.without_retries(),
            model=model,
            data_plane_id=job.data_plane_id,
            future=loop.create_future(),
            deadline=deadline,
            on_left=on_left,
        )
        watched.expiry = loop.call_at(min(deadline, loop.time() + UNCLAIMED), self._expire, watched)
        watcher.add(watched)
        if job.ended:
            watcher.take(watched, job, "list")
        elif job.id in self._early:
            del self._early[job.id]
            watcher.hint(watched, "webhook")
        return watched

    def _leave(self, watched: WatchedJob) -> None:
        watched.waiters -= 1
        if watched.waiters:
            return
        if not watched.future.done():
            self._abandon(watched.id)
        self._close(watched)

    def _close(self, watched: WatchedJob) -> None:
        if self._jobs.get(watched.id) is not watched:
            return
        del self._jobs[watched.id]
        if watched.expiry is not None:
            watched.expiry.cancel()
        watched.future.cancel()
        if watcher := self._accounts.get(watched.client.account):
            watcher.drop(watched)
        if watched.on_left is not None:
            watched.on_left()

    def _expire(self, watched: WatchedJob) -> None:
        loop = asyncio.get_running_loop()
        if not watched.waiters:
            self._close(watched)
        elif loop.time() < watched.deadline:
            watched.expiry = loop.call_at(watched.deadline, self._expire, watched)

    def _abandon(self, job_id: str | None) -> None:
        """The place for a call that cancels the job, once Narrative has one."""
        log.info("nobody waits for a job any more", extra={"job_id": job_id})
        self._observe(Abandoned(job_id))

    # ------------------------------------------------------------ webhooks and replicas

    def expect_webhooks(self, client: NarrativeClient) -> None:
        """Webhooks of the client's account are subscribed to: `deliver` will be called, and they can prove reliable."""
        self._webhook_accounts.add(client.account)
        if watcher := self._accounts.get(client.account):
            watcher.has_webhooks = True

    def deliver(self, record: Record) -> None:
        """A webhook says that a job ended, which is followed here, by other replicas that share the store, or by both.

        Args:
            record: the job as Narrative shows it; it may hold no more than `job_id` and `state`.
        """
        self._take(record)
        self._replicas.publish_end(record)

    def _take(self, record: Record) -> None:
        watched = self._jobs.get(record.name or "")
        if watched is not None and not watched.future.done():
            self._watcher(watched.client).take(watched, record.job(), "webhook")
        elif record.name:
            for account in self._webhook_accounts & self._accounts.keys():
                self._accounts[account].webhook_for_another(record.name)
            if watched is None:
                self._early[record.name] = None  # a webhook can overtake the answer to the submission
                if len(self._early) > _MOST_EARLY:
                    self._early.popitem(last=False)

    def _heard_read(self, read: ListRead) -> None:
        if watcher := self._accounts.get(read.account):
            watcher.heard(read)

    async def _renew_roles(self) -> None:
        await asyncio.gather(*(watcher.renew_role() for watcher in self._accounts.values()))

    def _watcher(self, client: NarrativeClient) -> AccountWatcher:
        """The watcher of the client's account. Those without jobs are kept for a while: they know their sources."""
        watcher = self._accounts.get(client.account)
        if watcher is None:
            if len(self._accounts) >= _MOST_IDLE_ACCOUNTS:
                idle = (account for account, each in self._accounts.items() if each.idle and not each.role.taken)
                if (account := next(idle, None)) is not None:
                    del self._accounts[account]
            role = AccountRole(self._store, client.account)
            watcher = self._accounts[client.account] = AccountWatcher(
                client.without_retries(), role, self._durations, self._options.watch, self._observe
            )
            watcher.has_webhooks = client.account in self._webhook_accounts
        self._accounts.move_to_end(client.account)
        return watcher


def _started(job: Job, sent: float) -> float:
    """Loop time at which a job was created, as far as anybody says."""
    if job.created_at is None:
        return sent
    return asyncio.get_running_loop().time() - max(time.time() - job.created_at.timestamp(), 0.0)
