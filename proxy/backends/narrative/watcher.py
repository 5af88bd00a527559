"""Notices the ends of jobs: one loop per account reads what `polling.next_polls` decides; callers hold futures.

Webhooks and other replicas only hand in records: a complete one ends the wait, any other makes its job be read at once.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextvars import Context
from dataclasses import replace
from typing import Any, Final

from structlog.contextvars import get_contextvars

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import (
    Abandoned,
    EndedElsewhere,
    JobEnded,
    JobsOptions,
    Observer,
    ReliabilityChanged,
    Unreadable,
)
from proxy.backends.narrative.failures import UNREADABLE
from proxy.backends.narrative.polling import ListCursor, ReadBudget, Table, WatchedJob, next_polls
from proxy.backends.narrative.replicas import TOPIC, ListRead, decode_read, encode_read
from proxy.backends.narrative.types import Job, JobRecord, JobState
from proxy.errors import JobTimeout, Overloaded, PermissionDenied, ProxyError, RateLimited, UpstreamError
from proxy.storage import ALONE, Membership, Store

log = logging.getLogger(__name__)

_HOPELESS: Final = 10.0
"""Seconds for which a leader whose list reads fail lets another replica lead."""
_SILENCE: Final = 3.0
"""Seconds without a message of the leader, which sends one a second, until a follower reads the lists itself."""
_LOST_CODES: Final = frozenset({"narrative_job_lost", "narrative_unauthorized"})
_LOST_READS: Final = 3
"""Answers in a row that there is no such job for us, before it is given up."""
_HINT_PAUSE: Final = 0.1
"""Before the second read of a job that is said to have ended; it doubles, five times."""
_UNCLAIMED: Final = 5.0
"""Seconds that a job is watched before anybody waits for it."""
_RESTART: Final = 1.0
"""Seconds until work that failed is begun again."""
_RENEW_EVERY: Final = 1.0
_MOST_IDLE_ACCOUNTS: Final = 256
_MOST_EARLY: Final = 2_000
_MOST_UNPUBLISHED: Final = 1_000
"""Ends brought by webhooks that wait to be published; other replicas notice the rest by themselves."""


class AccountWatcher:
    """One account's jobs in flight. Its `store` elects the replica that reads the lists, and carries what that one publishes; `observe` is
    called when an end is noticed, and when the lists or webhooks become unreliable or reliable again.
    """

    def __init__(self, client: NarrativeClient, store: Store, options: JobsOptions, observe: Observer) -> None:
        self._loop = asyncio.get_running_loop()
        self._client, self._store = client, store
        self._group = f"feed:{client.account}"
        self.membership, self.joined = ALONE, False  # this replica's role in reading the lists, and whether it has one
        self._heard_at = self._loop.time()
        self._options, self._observe = options, observe
        self.table = Table()
        self._budget = ReadBudget(options.reads_per_second, self._loop.time())
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._inline = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to read, neither for jobs here nor for other replicas."""
        return not self.table.jobs and not (self.membership.leads and self.membership.members > 1)

    def add(self, job: WatchedJob, *, may_have_ended: bool) -> None:
        """Watch a job. It is read at once if it may have ended, or if that read may well show its end."""
        now = self._loop.time()
        self.table.jobs[job.id] = job
        self.table.newest = max(self.table.newest, job.started)
        if may_have_ended:
            self.table.hurry(job, now)
        elif (at := self.table.first_read_at(job, now, self._budget.rate)) is not None:
            self.table.hurry(job, at)
        self._notify()

    def take(self, job: WatchedJob, found: Job | None, source: str, *, relayed: bool = False) -> None:
        """A record of a job came in; None when it cannot be read. One that does not say how the job ended makes it be read.

        Args:
            relayed: another replica passed it on.
        """
        if found is None or found.ended:
            job.relayed = relayed
        if found is None or (found.ended and not found.complete):
            self._hint(job, source)
        elif found.ended:
            self._end(job, found, source)

    def fail(self, job: WatchedJob, error: ProxyError) -> None:
        """End the wait for a job with an error."""
        if self.table.drop(job):
            job.end(error)

    def _hint(self, job: WatchedJob, source: str) -> None:
        """Something says that a job ended, but not how: read it now; a second time after a pause."""
        if (job.urgent_at is None or job.source == "read") and job.id in self.table.jobs:
            pause = _HINT_PAUSE * 2**job.hints if job.hints else 0.0
            job.source, job.hints = source, min(job.hints + 1, 5)
            self.table.hurry(job, max(self._loop.time(), job.read_at + pause))
            self._notify()

    def _end(self, job: WatchedJob, found: Job, source: str) -> None:
        if not self.table.drop(job):
            return
        how = "poll" if source == "read" else "replica" if job.relayed else source
        job.end(replace(found, noticed_by=how))
        now, ended = self._loop.time(), found.ended_at or found.updated_at
        seconds = now - job.started
        took = (found.ended_at - found.created_at).total_seconds() if found.ended_at and found.created_at else seconds
        self.table.ended(job.id, JobState(found.state), source, took, now)
        delay = None if ended is None else max(time.time() - ended.timestamp(), 0.0)
        self._observe(JobEnded(job.id, job.model, found.state, source, seconds, delay))

    # ------------------------------------------------------------ the loop

    def _notify(self) -> None:
        """Something may be due. A loop that waits for the read of what was the only job is replaced, and ends with that read."""
        if self._task is not None and not self._task.done() and not self._inline:
            self._wake.set()
        elif not self.idle:
            self._inline = False
            self._task = self._spawn(self._run())

    async def _run(self) -> None:
        task = asyncio.current_task()
        while not self.idle:
            self._wake.clear()
            now, role = self._loop.time(), self.membership
            self._budget.share = 1.0 if role.leads else 1 / role.members
            for source, reliable in self.table.update(role, now, hears=now - self._heard_at < _SILENCE):
                self._observe(ReliabilityChanged(source, reliable))
            polls = next_polls(self.table, now, self._budget)
            for cursor in polls.lists:
                self._spawn(self._read_list(cursor))
            if len(polls.jobs) == len(self.table.jobs) == 1 and not polls.lists and math.isinf(polls.again_at):
                self._inline = True
                await self._read_job(polls.jobs[0])
                if self._task is not task:
                    return
                self._inline = False
                continue
            for job in polls.jobs:
                self._spawn(self._read_job(job))
            timer = None if math.isinf(polls.again_at) else self._loop.call_at(polls.again_at, self._wake.set)
            await self._wake.wait()
            if timer is not None:
                timer.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # In a context of its own: it goes on for others than the request that happens to start it.
        task = self._loop.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._stopped)
        return task

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("watching jobs failed; starting again", exc_info=error)
            self._loop.call_later(_RESTART, self._notify)

    async def aclose(self) -> None:
        """Stop reading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._resign()

    # ------------------------------------------------------------ reads

    async def _read_list(self, cursor: ListCursor) -> None:
        """Read what is new in a list, page by page, and publish it to the replicas that rely on it."""
        started, offset, known = self._loop.time(), 0, cursor.known
        shown: list[JobRecord] = []
        asked = cursor.first_page(started)
        try:
            while asked:
                page = await self._client.list_jobs(
                    type="model_inference",
                    state=cursor.state,
                    per_page=asked,
                    offset=offset or None,
                    order_by="updated_at_desc",
                )
                self._budget.failures = 0
                self._take_all(page.records)
                shown += page.records
                offset += asked
                ids = {record.name for record in page.records if record.name}
                asked = cursor.next_page(ids, len(page.records), asked, page.size)
                if not self.table.often:  # webhooks showed most of it: more pages would only cost both sides time
                    break
                if asked:
                    self._budget.take(self._loop.time())
            cursor.end(self._loop.time())
        except ProxyError as error:
            self._budget.failed(error, started, self._loop.time())
            if not isinstance(error, RateLimited):
                cursor.failures += 1
            return
        finally:
            cursor.running = False
        await self._publish(cursor.state, shown, known)

    def _take_all(self, records: Iterable[JobRecord], *, relayed: bool = False) -> None:
        for record in records:
            if (job := self.table.jobs.get(record.name or "")) is not None:
                self.take(job, record.job(), "list", relayed=relayed)
            elif record.name:
                self.table.sources["list"].shown(record.name)

    async def _read_job(self, job: WatchedJob) -> None:
        started = self._loop.time()
        source, job.source = job.source, "read"
        try:
            found = await self._client.get_job(job.id)
        except ProxyError as error:
            now = self._loop.time()
            self._budget.failed(error, started, now)
            if error.code == UNREADABLE:
                self._observe(Unreadable(job.id))
                if job.unreadable_since is None:
                    job.unreadable_since = now
                    log.warning(
                        "the record of a job could not be read", extra={"job_id": job.id, "request": job.request}
                    )
                if now - job.unreadable_since >= self._options.unreadable_after:
                    self.fail(job, UpstreamError(error.message, code=UNREADABLE, job_id=job.id))
            else:  # that there is no such job for us lasts when it is repeated; all else may pass
                lost = isinstance(error, PermissionDenied) or error.code in _LOST_CODES
                job.refusals = job.refusals + 1 if lost else 0
                if job.refusals >= _LOST_READS and now - job.started >= self._options.lost_after:
                    self.fail(job, error)
        else:
            now = self._loop.time()
            self._budget.failures = 0
            job.refusals, job.unreadable_since = 0, None
            if found.state == JobState.COMPLETED and not found.complete:
                job.incomplete_since = job.incomplete_since or now
                if now - job.incomplete_since < self._options.result_lag:
                    self._hint(job, source)
                    return
            if found.ended:
                self._end(job, found, source)
        finally:
            job.reading = False
            self.table.reading -= 1
            if job.urgent_at is not None:  # a hint came meanwhile
                self.table.hurry(job, max(job.urgent_at, self._loop.time()))

    # ------------------------------------------------------------ replicas

    async def renew_role(self) -> None:
        """Take part in reading the lists, to be called every second. A leader whose list reads fail lets another replica lead."""
        if self.idle:
            await self._resign()
            return
        since = self._loop.time() - _HOPELESS
        hopeless = any(cursor.hopeless and cursor.started > since for cursor in self.table.lists.values())
        self.joined, led = True, self.membership.leads
        self.membership = await self._store.join(self._group, may_lead=self.membership.members == 1 or not hopeless)
        if led and not self.membership.leads:
            self._heard_at = self._loop.time()  # the new leader has some time to publish
        await self._publish("", (), ())
        self._notify()

    async def _resign(self) -> None:
        if self.joined:
            self.joined, self.membership = False, ALONE
            await self._store.leave(self._group)

    async def _publish(self, state: str, records: Iterable[JobRecord], known: Collection[str]) -> None:
        """Tell the other replicas what was read, if they rely on it."""
        if self.membership.leads and self.membership.members > 1:
            await self._store.publish(TOPIC, encode_read(self._client.account, state, records, known))

    def heard(self, read: ListRead) -> None:
        """Another replica read a list, or just lives. After lost messages this replica reads the list once itself."""
        self._heard_at = self._loop.time()
        self._take_all(read.records, relayed=True)
        cursor, now = self.table.lists.get(read.state), self._loop.time()
        if self.membership.leads or cursor is None or cursor.running:
            return
        if not cursor.misses(read.ids):
            cursor.answered(read.ids or cursor.known, now)
        elif now - cursor.started >= 1.0:
            cursor.start(now)
            self._budget.take(now)
            self._spawn(self._read_list(cursor))


class Watcher:
    """The jobs in flight of all accounts. A job leaves with its last waiter, or soon when nobody ever came."""

    def __init__(self, options: JobsOptions, observe: Observer, store: Store) -> None:
        self._options = options
        self._observe = observe
        self._store = store
        self.jobs: dict[str, WatchedJob] = {}
        self._accounts: OrderedDict[str, AccountWatcher] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self._unpublished: asyncio.Queue[str] = asyncio.Queue(_MOST_UNPUBLISHED)
        self._early: OrderedDict[str, None] = OrderedDict()
        """Ends that webhooks brought of jobs not watched yet."""

    def start(self) -> None:
        """Begin to exchange messages with other replicas, if the store is shared."""
        if self._store.shared:
            self._store.subscribe(TOPIC, self._heard)
            self._tasks = [asyncio.create_task(_restarting(work)) for work in (self._renew_roles, self._publish_ends)]

    def fail_all(self) -> None:
        """End every wait with `Overloaded`: the jobs may still end, and can be waited for elsewhere."""
        for job in [job for job in self.jobs.values() if job.outcome is None]:
            self._accounts[job.account].fail(job, Overloaded("the server is stopping", job_id=job.id))

    async def aclose(self) -> None:
        """Stop reading, and leave the accounts to other replicas."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(watcher.aclose() for watcher in self._accounts.values()))

    @property
    def memberships(self) -> Collection[Membership]:
        """This replica's role in watching each of the accounts that it watches."""
        return [watcher.membership for watcher in self._accounts.values() if not watcher.idle]

    def open(  # noqa: PLR0913
        self,
        job: Job,
        client: NarrativeClient,
        *,
        deadline: float,
        sent: float | None = None,
        model: str = "",
        on_left: Callable[[], None] | None = None,
    ) -> WatchedJob:
        """Watch a job, if it is not watched yet.

        Args:
            deadline: loop time after which nobody will begin to wait for it.
            sent: loop time of its submission; None for one that was submitted a while ago, and may have ended.
            on_left: called once, when the job leaves; at once when it was watched already.
        """
        watched = self.jobs.get(job.id)
        if watched is not None:
            if on_left is not None:
                on_left()
            return watched
        loop = asyncio.get_running_loop()
        now = loop.time()
        started = now - _UNCLAIMED if sent is None else sent
        watcher = self._watcher(client)
        watched = WatchedJob(job.id, started, client.account, model, on_left)
        watched.request = str(get_contextvars().get("request", ""))
        self.jobs[job.id] = watched
        watched.expiry = loop.call_at(min(deadline, now + _UNCLAIMED), self._close, watched)
        watcher.add(watched, may_have_ended=sent is None)
        if job.id in self._early:
            del self._early[job.id]
            watcher.take(watched, None, "webhook")
        return watched

    async def wait(self, job: Job, client: NarrativeClient, *, deadline: float) -> Job:
        """The ended job, whatever its end: completed, failed or cancelled.

        Raises:
            JobTimeout: the deadline passed; the job may still end, and can be waited for again.
            UpstreamError, PermissionDenied: the job can no longer be read: it is lost, its record unreadable, or the key not accepted.
            Overloaded: the engine stops.
        """
        watched = self.open(job, client, deadline=deadline)
        if watched.expiry is not None:
            watched.expiry.cancel()
            watched.expiry = None
        loop = asyncio.get_running_loop()
        # Thousands wait here: one future and one timer each.
        future: asyncio.Future[Job] = loop.create_future()
        watched.waiting.append(future)
        if watched.outcome is not None:
            watched.end(watched.outcome)
        timer = loop.call_at(deadline, _time_out, future, job.id)
        try:
            return await future
        finally:
            timer.cancel()
            watched.waiting.remove(future)
            if not watched.waiting:
                self._close(watched)

    def _close(self, watched: WatchedJob) -> None:
        """Watch a job no more."""
        if self.jobs.get(watched.id) is watched:
            del self.jobs[watched.id]
            if watched.outcome is None:  # else it left the account's table with its end
                self._accounts[watched.account].table.drop(watched)
                self.abandon(watched.id)
            if watched.on_left is not None:
                watched.on_left()

    def abandon(self, job_id: str | None) -> None:
        """Nobody waits for a job any more, None if it never became known. Narrative has no call that cancels it."""
        log.info("nobody waits for a job any more", extra={"job_id": job_id})
        self._observe(Abandoned(job_id))

    def deliver(self, record: JobRecord) -> None:
        """A webhook says that a job ended, which is watched here, by other replicas that share the store, or by both. Its record may
        hold no more than `job_id` and `state`."""
        if not self._take(record):
            self._observe(EndedElsewhere(record.name or ""))
        if self._store.shared and not self._unpublished.full():
            self._unpublished.put_nowait(encode_read("", "", [record], ()))

    def _take(self, record: JobRecord, *, relayed: bool = False) -> bool:
        """Whether the job is watched here."""
        watched = self.jobs.get(record.name or "")
        if watched is not None and watched.outcome is None:
            self._accounts[watched.account].take(watched, record.job(), "webhook", relayed=relayed)
        elif record.name:
            for account in self._accounts.values():
                account.table.sources["webhook"].shown(record.name)
            if watched is None:
                self._early[record.name] = None  # a webhook can overtake the answer to the submission
                if len(self._early) > _MOST_EARLY:
                    self._early.popitem(last=False)
        return watched is not None

    def _heard(self, message: str) -> None:
        read = decode_read(message)
        if read is not None and not read.account:
            for record in read.records:
                self._take(record, relayed=True)
        elif read is not None and (watcher := self._accounts.get(read.account)):
            watcher.heard(read)

    async def _renew_roles(self) -> None:
        while True:
            await asyncio.gather(*(watcher.renew_role() for watcher in self._accounts.values()))
            await asyncio.sleep(_RENEW_EVERY)

    async def _publish_ends(self) -> None:
        while True:
            await self._store.publish(TOPIC, await self._unpublished.get())

    def _watcher(self, client: NarrativeClient) -> AccountWatcher:
        """The watcher of the client's account. Those without jobs are kept for a while: they know what can be relied on."""
        watcher = self._accounts.get(client.account)
        if watcher is None:
            if len(self._accounts) >= _MOST_IDLE_ACCOUNTS:
                idle = [account for account, each in self._accounts.items() if each.idle and not each.joined]
                for account in idle[:1]:
                    del self._accounts[account]
            watcher = AccountWatcher(client.without_retries(), self._store, self._options, self._observe)
            self._accounts[client.account] = watcher
        self._accounts.move_to_end(client.account)
        return watcher


def _time_out(future: asyncio.Future[Job], job_id: str) -> None:
    if not future.done():
        future.set_exception(JobTimeout(f"Job {job_id} did not end in time", job_id=job_id))


async def _restarting(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        results = await asyncio.gather(work(), return_exceptions=True)
        log.error("the exchange with other replicas failed; starting again", exc_info=results[0])
        await asyncio.sleep(_RESTART)
