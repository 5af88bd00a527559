"""Runs jobs from submission to end: queue, submit once, wait.

    job = await jobs.submit(request, client, deadline=deadline)            # for callers that nobody can repeat
    submission = await jobs.submit_once(PendingSubmission(make_request, form, client, record, "0.first", deadline))
    job = await jobs.wait(job, client, deadline=deadline)

All deadlines are absolute, in the running loop's `time()`. A caller that is cancelled stops waiting at once, and the job is left to end
by itself: Narrative cannot cancel it.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Collection
from typing import Final, Self

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import JobsOptions, Observer, Queued, Refused, ignore
from proxy.backends.narrative.submit import PendingSubmission, Submission, SubmissionRecord, Submitter
from proxy.backends.narrative.types import Job, RunRequest
from proxy.backends.narrative.watcher import Watcher
from proxy.errors import IdempotencyConflict, Overloaded
from proxy.storage import Membership, MemoryStore, Store

_CHECK_AGAIN_S: Final = 0.05
_LONGEST_RETRY_AFTER: Final = 60.0
_SMOOTHING: Final = 0.2


class FairQueue:
    """Places that are granted in turn, one caller after the other, and to each caller in the order of arrival.

    At most `max_waiting` wait, each for `timeout` seconds; who is refused is asked to wait `retry_after` or longer. `what` is under way.
    """

    def __init__(self, what: str, size: int, max_waiting: int, timeout: float, retry_after: float) -> None:
        self._what = what
        self._free = size
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._retry_after = retry_after
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.waiting = 0
        self._draining = False
        self._granted_at = -math.inf
        self._interval = 0.0

    async def acquire(self, caller: str, deadline: float) -> None:
        """Take a place, waiting for one at most until `deadline` (loop time).

        Raises:
            Overloaded: none became free in time, too many wait already, or the server is shutting down. Nothing was begun.
        """
        if self._free:
            self._free -= 1
            return
        if self._draining:
            raise _shutting_down()
        if self.waiting >= self._max_waiting:
            raise self._full()
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        self._queues.setdefault(caller, deque()).append(granted)
        self.waiting += 1
        try:
            await asyncio.wait({granted}, timeout=max(min(self._timeout, deadline - loop.time()), 0.0))
            if not granted.done():
                raise self._full()
        except asyncio.CancelledError:
            if granted.done() and granted.exception() is None:
                self.release()
            raise
        finally:
            self.waiting -= 1
            if not granted.done():
                queue = self._queues[caller]
                queue.remove(granted)
                if not queue:
                    del self._queues[caller]
        granted.result()

    def release(self) -> None:
        """Give a place back, or pass it on."""
        if not self._queues:
            self._free += 1
            return
        caller, queue = self._queues.popitem(last=False)
        queue.popleft().set_result(None)
        if queue:
            self._queues[caller] = queue
        now = asyncio.get_running_loop().time()
        if math.isfinite(self._granted_at):
            self._interval += _SMOOTHING * (now - self._granted_at - self._interval)
        self._granted_at = now

    def drain(self) -> None:
        """Refuse all who wait, and from now on all who would have to."""
        self._draining = True
        for queue in self._queues.values():
            for granted in queue:
                granted.set_exception(_shutting_down())
        self._queues.clear()

    def _full(self) -> Overloaded:
        needed = min(self.waiting * self._interval, _LONGEST_RETRY_AFTER)
        return Overloaded(f"too many {self._what}; try again later", retry_after=max(self._retry_after, needed))


def _shutting_down() -> Overloaded:
    return Overloaded("The server is shutting down.", retry_after=2.0)


class Jobs:
    """See the module. An async context manager that owns the tasks which submit and watch jobs.

    Args:
        observe: called with events, for metrics and logs; it must be quick and must not raise.
        store: shared with other processes that run jobs of the same accounts, so that one of them reads for all.
    """

    def __init__(
        self, options: JobsOptions | None = None, *, observe: Observer = ignore, store: Store | None = None
    ) -> None:
        self._options = options = options or JobsOptions()
        self._observe = observe
        self._watcher = Watcher(options, observe, MemoryStore() if store is None else store)
        self.deliver, self.wait = self._watcher.deliver, self._watcher.wait
        places, queued = options.max_in_flight, options.max_queued
        self._places = FairQueue("jobs are in flight", places, queued, options.queue_timeout, options.queue_retry_after)
        self._sending = FairQueue("submissions are being sent", options.max_submissions, places, math.inf, 1.0)
        self._submitter = Submitter(options, self._watcher.jobs.keys(), observe)
        self._tasks: set[asyncio.Task[Submission | None]] = set()

    async def __aenter__(self) -> Self:
        self._watcher.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """End all waits with `Overloaded`: the jobs may still end, and can be waited for elsewhere."""
        self.drain()
        self._submitter.stopped = True
        self._watcher.fail_all()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self._options.closing_grace)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._watcher.aclose()

    @property
    def in_flight(self) -> int:
        """Jobs that are watched."""
        return len(self._watcher.jobs)

    @property
    def queued(self) -> int:
        """Submissions that wait for their turn."""
        return self._places.waiting + self._sending.waiting

    @property
    def submitting(self) -> int:
        """Submissions on their way, those of callers who left among them."""
        return len(self._tasks)

    @property
    def memberships(self) -> Collection[Membership]:
        """This replica's role in following each of the accounts that it follows."""
        return self._watcher.memberships

    def drain(self) -> None:
        """The server shuts down: refuse the submissions that are queued, and all that would have to queue."""
        self._places.drain()
        self._sending.drain()

    async def submit(self, request: RunRequest, client: NarrativeClient, *, deadline: float) -> Job:
        """Enqueue a job that nobody else can take up, and start to watch it. Raises what `submit_once` raises.

        The request's tags hold one that is unique, `rid:<uuid>`, by which the job is found if the answer is lost.
        """

        async def _make_request(_: str) -> RunRequest:
            return request

        pending = PendingSubmission(_make_request, "", client, SubmissionRecord(), "0", deadline)
        return (await self.submit_once(pending)).job

    async def submit_once(self, pending: PendingSubmission) -> Submission:
        """The job of a slot, enqueued and watched if there is none yet. Waits for its turn until the deadline.

        Raises:
            Overloaded: too much is in flight, or the server is shutting down; nothing was enqueued.
            IdempotencyConflict: another replica has been submitting in this slot for too long.
            ProxyError: as `NarrativeClient.run_model_inference`.
        """
        record, release = pending.record, self._places.release
        loop, until = asyncio.get_running_loop(), None
        while True:
            if (found := await record.find(pending.slot)) is not None:
                if found.job is not None:
                    return Submission(Job(found.job), found.form, new=False, span=found.span)
                until = until or loop.time() + record.wait_s
                if loop.time() >= until:
                    raise IdempotencyConflict("The same request is being submitted elsewhere.", retry_after=1.0)
                await asyncio.sleep(_CHECK_AGAIN_S)
                continue
            await self._take_turn(pending)
            task = asyncio.create_task(self._submitter.carry(pending))
            self._tasks.add(task)
            task.add_done_callback(self._sent)
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                pending.client_left = True
                task.add_done_callback(self._sent_for_nobody)
                raise
            if task.cancelled() or task.exception() is not None or task.result() is None:
                release()
            if task.cancelled():
                raise Overloaded("the server is stopping", job_may_exist=True)
            if (submission := task.result()) is not None:
                model, sent, deadline = submission.model, submission.sent, pending.deadline
                self._watcher.open(
                    submission.job, pending.client, deadline=deadline, sent=sent, model=model, on_left=release
                )
                return submission

    async def _take_turn(self, pending: PendingSubmission) -> None:
        loop, caller = asyncio.get_running_loop(), pending.caller or pending.client.account
        arrived = loop.time()
        try:
            await self._places.acquire(caller, pending.deadline)
            try:
                await self._sending.acquire(caller, pending.deadline)
            except BaseException:
                self._places.release()
                raise
        except Overloaded:
            self._observe(Refused())
            raise
        pending.queued = loop.time() - arrived
        self._observe(Queued(pending.queued))

    def _sent(self, task: "asyncio.Task[Submission | None]") -> None:
        self._tasks.discard(task)
        self._sending.release()

    def _sent_for_nobody(self, task: "asyncio.Task[Submission | None]") -> None:
        self._places.release()
        submission = None if task.cancelled() or task.exception() else task.result()
        self._watcher.abandon(submission.job.id if submission else None)

    async def run(self, request: RunRequest, client: NarrativeClient, *, deadline: float) -> Job:
        """Submit and wait. Raises what `submit` and `wait` raise."""
        return await self.wait(await self.submit(request, client, deadline=deadline), client, deadline=deadline)
