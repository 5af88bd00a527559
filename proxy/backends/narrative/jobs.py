"""Jobs from submission to end: submit once, wait, give up."""

import asyncio
import logging
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import Abandoned, Observer, Queued, Refused, ignore
from proxy.backends.narrative.ledger import UNCLAIMED, Entry, Ledger
from proxy.backends.narrative.news import News
from proxy.backends.narrative.places import PlaceOptions, Places
from proxy.backends.narrative.reader import WatchOptions
from proxy.backends.narrative.submit import SubmitOptions, Submitter, Ticket
from proxy.backends.narrative.types import Job, JsonObject, RunRequest
from proxy.errors import JobTimeout, Overloaded
from proxy.storage import Membership, MemoryStore, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JobsOptions:
    """How jobs are run."""

    places: PlaceOptions = field(default_factory=PlaceOptions)
    submit: SubmitOptions = field(default_factory=SubmitOptions)
    watch: WatchOptions = field(default_factory=WatchOptions)
    max_submissions: int = 32
    """Submissions on their way at one time."""
    submission_patience: float = 30.0
    """Seconds that a submission waits for its turn."""


class Jobs:
    """Runs jobs; an async context manager that owns the tasks which watch them.

    Deadlines are absolute, in the running loop's `time()`. A caller that is cancelled stops waiting at once, and the job is
    left to end by itself: Narrative cannot cancel it.

    Args:
        options: bounds and habits.
        observe: told what happens, for metrics and journals; it must be quick and must not raise.
        store: shared with other processes that run jobs of the same accounts, so that one of them reads for all.
    """

    def __init__(
        self, options: JobsOptions | None = None, *, observe: Observer = ignore, store: Store | None = None
    ) -> None:
        self._options = options = options or JobsOptions()
        self._observe = observe
        self._ledger = Ledger()
        self._news = News(self._ledger, options.watch, observe, store or MemoryStore())
        self._ledger.listener = self._news
        self._places = Places(options.places)
        self._submitter = Submitter(options.submit, self._ledger, observe)
        self._sending = asyncio.Semaphore(options.max_submissions)
        self._submissions: set[asyncio.Task[Job]] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._news)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all waits with `Overloaded`: the jobs may still end, and can be waited for elsewhere."""
        self._ledger.fail_all(lambda entry: Overloaded("the server is stopping", job_id=entry.job.id))
        for task in list(self._submissions):
            task.cancel()
        await asyncio.gather(*self._submissions, return_exceptions=True)
        await self._stack.aclose()

    def __contains__(self, job_id: object) -> bool:
        """Whether the job of that id is watched."""
        return job_id in self._ledger

    @property
    def in_flight(self) -> int:
        """Jobs that are watched."""
        return len(self._ledger)

    @property
    def queued(self) -> int:
        """Submissions that wait for a place."""
        return self._places.waiting

    @property
    def submitting(self) -> int:
        """Submissions on their way, those of callers who left among them."""
        return len(self._submissions)

    @property
    def standings(self) -> Collection[Membership]:
        """This replica's part in following each of the accounts that it follows."""
        return self._news.standings

    def expect_push(self, client: NarrativeClient) -> None:
        """Webhooks of the client's account are subscribed to: `deliver` will be called, and they can earn trust."""
        self._news.expect_push(client.account)

    def deliver(self, record: JsonObject) -> None:
        """A webhook says that a job ended. Replicas that share the store are told, too.

        Args:
            record: the job as Narrative shows it; it may hold no more than `job_id` and `state`.
        """
        self._news.deliver(record)

    async def submit(
        self, request: RunRequest, client: NarrativeClient, *, deadline: float, since: float | None = None
    ) -> Job:
        """Enqueue a job and start to watch it.

        Args:
            request: its body; its tags hold one that is unique, `rid:<uuid>`, by which it is found if the answer is lost.
            client: submits it and reads it.
            deadline: loop time until which its end is of interest.
            since: when it may have been submitted first, by a process that was killed, in seconds since 1970: it is looked for
                before anything is sent.

        Returns:
            The pending job.

        Raises:
            Overloaded: too much is in flight; nothing was enqueued.
            ProxyError: as `NarrativeClient.run_model_inference`.
        """
        arrived = asyncio.get_running_loop().time()
        try:
            await self._places.take(deadline)
            ticket = Ticket(request, client, deadline, since)
            job = await self._send_in_place(ticket, arrived)
        except Overloaded:
            self._observe(Refused(self.in_flight))
            raise
        self._ledger.open(
            job, client, deadline=deadline, model=request.model, sent=ticket.sent, on_left=self._places.give_back
        )
        return job

    async def _send_in_place(self, ticket: Ticket, arrived: float) -> Job:
        try:
            return await self._send(ticket, arrived)
        except BaseException:
            self._places.give_back()
            raise

    async def _send(self, ticket: Ticket, arrived: float) -> Job:
        """Submit in a task of its own: a caller that leaves in the middle must not leave an unknown outcome behind."""
        turn_ends = asyncio.get_running_loop().time() + self._options.submission_patience
        try:
            async with asyncio.timeout_at(min(turn_ends, ticket.deadline)):
                await self._sending.acquire()
        except TimeoutError:
            raise Overloaded("too many submissions are on their way; try again later", retry_after=1.0) from None
        self._observe(Queued(asyncio.get_running_loop().time() - arrived))
        task = asyncio.create_task(self._submitter.submit(ticket))
        self._submissions.add(task)
        task.add_done_callback(self._sent)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            ticket.abandoned = True
            task.add_done_callback(self._sent_for_nobody)
            raise
        return task.result()

    def _sent(self, task: asyncio.Task[Job]) -> None:
        self._submissions.discard(task)
        self._sending.release()

    def _sent_for_nobody(self, task: asyncio.Task[Job]) -> None:
        known = not task.cancelled() and task.exception() is None
        self._abandon(task.result().id if known else None)

    async def wait(self, job: Job, client: NarrativeClient, *, deadline: float) -> Job:
        """The ended job, whatever its end: completed, failed or cancelled.

        Raises:
            JobTimeout: the deadline passed; the job may still end, and can be waited for again.
            UpstreamError: `narrative_job_lost` when Narrative does not know the job any more; `narrative_unauthorized`.
            PermissionDenied: the job may no longer be read.
            Overloaded: the engine stops.
        """
        # One that is not followed yet was submitted a while ago, and may have ended.
        sent = asyncio.get_running_loop().time() - UNCLAIMED
        entry = self._ledger.open(job, client, deadline=deadline, sent=sent)
        entry.waiters += 1
        try:
            left = deadline - asyncio.get_running_loop().time()
            await asyncio.wait({entry.end}, timeout=max(left, 0.0))
            if entry.end.done():
                return entry.end.result()
        finally:
            self._leave(entry)
        raise JobTimeout(f"Job {job.id} did not end in time", job_id=job.id)

    async def run(self, request: RunRequest, client: NarrativeClient, *, deadline: float) -> Job:
        """Submit and wait. Raises what `submit` and `wait` raise."""
        return await self.wait(await self.submit(request, client, deadline=deadline), client, deadline=deadline)

    def _leave(self, entry: Entry) -> None:
        entry.waiters -= 1
        if entry.waiters:
            return
        if not entry.end.done():
            self._abandon(entry.job.id)
        self._ledger.close(entry)

    def _abandon(self, job_id: str | None) -> None:
        """The place for a call that cancels the job, once Narrative has one."""
        log.info("nobody waits for a job any more", extra={"job_id": job_id})
        self._observe(Abandoned(job_id))
