"""Notices the ends of one account's jobs: a single loop asks `polling.next_polls` what to read, reads run in tasks of their own.

The watcher owns the table of jobs that have not ended; callers hold futures. Webhooks and other replicas only hand in records: an ended job
that is complete resolves its future, any other hint has the job read at once.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import Ended, Observer, Unreadable
from proxy.backends.narrative.failures import UNREADABLE
from proxy.backends.narrative.list_reader import ListReader, give_way
from proxy.backends.narrative.lists import ListCursor
from proxy.backends.narrative.polling import (
    Budget,
    Durations,
    PolledJob,
    Polls,
    Situation,
    next_polls,
)
from proxy.backends.narrative.replicas import AccountRole, ListRead
from proxy.backends.narrative.types import Job, JobState, Record
from proxy.errors import PermissionDenied, ProxyError, UpstreamError

log = logging.getLogger(__name__)

_MOST_READS: Final = 16
"""Reads of single jobs at one time; as many again may follow hints."""
_MOST_HINTED_READS: Final = 5
_HINT_PAUSE: Final = 0.1
"""Before the second read of a job that is said to have ended; it doubles."""
_LINGER: Final = 10.0
"""Seconds without a job until a leader leaves the account to others."""
_DOUBT: Final = 2.5
"""Seconds without a message of the leader, which sends one a second, until a follower reads its jobs itself."""
_SILENCE: Final = 6.0
"""Seconds until it reads the lists itself, with its share of the budget."""
_RESTART: Final = 1.0


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How ends are noticed. Seconds."""

    reads_per_second: float = 10.0
    """Reads an account may cost while jobs are in flight. Reading a job that is said to have ended, and one read of each
    submitted job, come on top."""
    lost_after: float = 10.0
    """A job that Narrative does not know, or does not show us, is given up this long after its submission."""
    lost_reads: int = 3
    """And not before this many such answers in a row."""
    unreadable_after: float = 5.0
    """How long a record that cannot be read is read again before the wait ends with an error."""
    result_lag: float = 3.0
    """How long a completed job without a result is read again before it is taken as it is."""


@dataclass(slots=True, eq=False)
class WatchedJob(PolledJob):
    """A job that somebody waits for, or may wait for soon.

    Args:
        id: its id.
        client: reads it, with the key it was submitted with, and without retries.
        model: its model, "" when unknown.
        future: the ended job, or the error that ends the wait.
    """

    id: str
    client: NarrativeClient
    model: str
    data_plane_id: str | None
    future: asyncio.Future[Job]
    waiters: int = 0
    deadline: float = 0.0
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)
    on_left: Callable[[], None] | None = field(default=None, repr=False)
    source: str = ""
    """What said that it ended."""
    hinted_reads: int = 0
    refusals: int = 0
    """Reads in a row that Narrative answered with 401, 403 or 404."""
    unreadable_since: float | None = None
    incomplete_since: float | None = None


class AccountWatcher:
    """One account's jobs in flight.

    Args:
        client: lists the account's jobs, without retries.
        role: this replica's role in reading the lists.
        durations: what is known of how long jobs take; shared by all accounts.
        observe: called when an end is noticed, and when the lists or webhooks become unreliable or reliable again.
    """

    def __init__(
        self, client: NarrativeClient, role: AccountRole, durations: Durations, options: WatchOptions, observe: Observer
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.role = role
        self._durations = durations
        self._options = options
        self._observe = observe
        now = self._loop.time()
        self._budget = Budget(options.reads_per_second, max(1.0, options.reads_per_second / 5), now)
        self._lists = ListReader(client, self._budget, observe)
        self.has_webhooks = False
        self._jobs: dict[str, WatchedJob] = {}
        self._polls = Polls()
        self._reading = self._urgent = 0
        self._last_left = now
        self._wake = asyncio.Event()
        self._reads: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """There is nothing to read: neither for jobs here nor for other replicas."""
        return not self._jobs and not self.role.membership.leads_others

    # ------------------------------------------------------------ the table

    def add(self, job: WatchedJob) -> None:
        self._jobs[job.id] = job
        if job.own_read and job.ready_at <= self._loop.time() and self._reading < _MOST_READS:
            self._start_read(job)
        elif job.ready_at < self._polls.again_at:
            self._wake.set()
        self._begin()

    def drop(self, job: WatchedJob) -> None:
        """Nobody waits for it any more."""
        if self._jobs.pop(job.id, None) is not None:
            self._last_left = self._loop.time()
            if not self._jobs:
                self._wake.set()

    def take(self, job: WatchedJob, found: Job | None, source: str) -> None:
        """A record of a job came in; None when it cannot be read."""
        if found is not None and not found.ended:
            return
        if found is None or not found.complete:
            self.hint(job, source)
        else:
            self._end(job, found, source)

    def hint(self, job: WatchedJob, source: str) -> None:
        """Something says that a job ended, without saying how: read it now."""
        if job.urgent_at is None and job.id in self._jobs:
            job.source = source
            job.urgent_at = now = self._loop.time()
            if not job.reading and self._urgent < _MOST_READS and self._budget.paused_until(now) <= now:
                self._start_read(job)
            else:
                self._wake.set()

    def webhook_for_another(self, job_id: str) -> None:
        """A webhook showed the end of a job that is not waited for (any more)."""
        self._lists.sources.webhooks.shown(job_id)

    def fail(self, job: WatchedJob, error: ProxyError) -> None:
        """End the wait for a job with an error."""
        if not job.future.done():
            job.future.set_exception(error)
            job.future.exception()  # marks it as retrieved: a job without waiters is no error to log
        self.drop(job)

    def _end(self, job: WatchedJob, found: Job, source: str) -> None:
        if job.future.done():
            return
        job.future.set_result(found)
        now = self._loop.time()
        self._durations.learn(job.model, _duration(found, now - job.started))
        closely = self._polls.closely and self.role.silence < _DOUBT
        cursor = self._lists.cursors[found.state]
        self._lists.sources.ended(job.id, source, now, cursor, closely=closely, webhooks=self.has_webhooks)
        self.drop(job)
        self._observe(Ended(job.id, job.model, found.state, source, now - job.started, _delay(found)))

    # ------------------------------------------------------------ replicas

    async def renew_role(self) -> None:
        """To be called every second. A leader lingers after its last job, so that the role does not change with every job, and lets
        another replica lead when its own list reads fail."""
        now = self._loop.time()
        lingers = self.role.membership.leads and now - self._last_left < _LINGER
        if lingers or not self.idle:
            await self.role.renew(may_lead=self.role.membership.members == 1 or not self._lists.hopeless)
        else:
            await self.role.resign()
        self._begin()
        self._wake.set()

    def heard(self, read: ListRead) -> None:
        """Another replica read a list, or just lives."""
        if not self.role.membership.leads:
            self.role.heard()
        if cursor := self._lists.cursors.get(read.state):
            self._take_all(read.records, cursor.state)
            if not self.role.membership.leads and self._lists.missed(cursor, read.ids):
                self._spawn(self._read_list(cursor))

    async def aclose(self) -> None:
        """Stop reading."""
        tasks = [*self._reads, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.role.resign()

    # ------------------------------------------------------------ the loop

    async def _run(self) -> None:
        while not self.idle:
            self._wake.clear()
            polls = self._polls = next_polls(
                self._jobs.values(), self._lists.cursors, self._situation(), self._budget, self._loop.time()
            )
            for state in polls.lists:
                self._spawn(self._read_list(self._lists.cursors[state]))
            for job in polls.jobs:
                if isinstance(job, WatchedJob):
                    self._start_read(job)
            try:
                async with asyncio.timeout_at(None if math.isinf(polls.again_at) else polls.again_at):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._polls = Polls()

    def _begin(self) -> None:
        if not self.idle and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(self._stopped)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.error("watching jobs failed; starting again", exc_info=error)
            self._loop.call_later(_RESTART, self._begin)

    def _situation(self) -> Situation:
        membership = self.role.membership
        alone = membership.leads and membership.members == 1
        self._budget.share = 1.0 if membership.leads else 1 / membership.members
        self._lists.judge()
        if alone and not (self._polls.closely or self._polls.glance):
            self._lists.sources.forgive()
        return Situation(
            leads=membership.leads or self.role.silence >= _SILENCE,
            members=membership.members,
            lists_reliable=self._lists.sources.reliable["list"] and self.role.silence < _DOUBT,
            webhooks_reliable=self._lists.sources.reliable["webhook"],
            free_reads=_MOST_READS - self._reading,
        )

    # ------------------------------------------------------------ reads

    def _spawn(self, read: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(read)
        self._reads.add(task)
        task.add_done_callback(self._ended_read)

    def _ended_read(self, task: asyncio.Task[None]) -> None:
        self._reads.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("reading jobs failed", exc_info=error)

    async def _read_list(self, cursor: ListCursor) -> None:
        """Read what is new in a list. With other replicas, whose jobs may be in other data planes, that of all of them."""
        membership, known = self.role.membership, cursor.known
        planes = {job.data_plane_id for job in self._jobs.values()} if membership.members == 1 else set()
        plane = planes.pop() if len(planes) == 1 else None
        shown: list[Record] = []
        async for records in self._lists.pages(cursor, plane, glance=self._polls.glance):
            self._take_all(records, cursor.state)
            shown += records
        if membership.leads_others and not cursor.failures:
            await self.role.publish(cursor.state, shown, known)

    def _take_all(self, records: Iterable[Record], state: str) -> None:
        """Take in the records of a list."""
        for record in records:
            if (job := self._jobs.get(record.name or "")) is not None:
                self.take(job, record.job(), "list")
            elif record.name:
                self._lists.sources.lists[state].shown(record.name)

    def _start_read(self, job: WatchedJob) -> None:
        job.own_read = False
        job.reading = True
        job.read_at = self._loop.time()
        hinted = job.urgent_at is not None
        if hinted:
            self._urgent += 1
        else:
            self._reading += 1
        self._spawn(self._read_job(job, hinted=hinted))

    async def _read_job(self, job: WatchedJob, *, hinted: bool) -> None:
        """Read a job. One that is said to have ended is read a few times: the list can be ahead of the job."""
        try:
            await self._read(job, job.source if hinted else "read")
        finally:
            job.reading = False
            if not hinted:
                self._reading -= 1
            else:
                self._urgent -= 1
                job.hinted_reads = (job.hinted_reads + 1) % _MOST_HINTED_READS
                again = self._loop.time() + _HINT_PAUSE * 2**job.hinted_reads
                job.urgent_at = again if job.hinted_reads else None

    async def _read(self, job: WatchedJob, source: str) -> None:
        started = self._loop.time()
        try:
            found = await job.client.get_job(job.id)
        except ProxyError as error:
            now = self._loop.time()
            give_way(self._budget, error, started, now)
            if error.code == UNREADABLE:
                self._observe(Unreadable(job.id))
            if final := _verdict(job, error, self._options, now):
                self.fail(job, final)
            return
        self._budget.succeeded()
        job.refusals, job.unreadable_since = 0, None
        if found.state == JobState.COMPLETED and not found.complete and _may_lag(job, self._options, self._loop.time()):
            if job.urgent_at is None:
                job.source, job.urgent_at = source, self._loop.time() + _HINT_PAUSE
        elif found.ended:
            self._end(job, found, source)


def _may_lag(job: WatchedJob, options: WatchOptions, now: float) -> bool:
    """Whether the result of a completed job may still come."""
    job.incomplete_since = job.incomplete_since or now
    return now - job.incomplete_since < options.result_lag


def _verdict(job: WatchedJob, error: ProxyError, options: WatchOptions, now: float) -> ProxyError | None:
    """The error that ends the wait for a job whose read failed. Only repeated answers that there is no such job for us, or that it
    cannot be read, do; all else may pass."""
    if error.code == UNREADABLE:
        if job.unreadable_since is None:
            job.unreadable_since = now
            log.warning("the record of a job could not be read", extra={"job_id": job.id})
        final = now - job.unreadable_since >= options.unreadable_after
        return UpstreamError(error.message, code=UNREADABLE, job_id=job.id) if final else None
    lasting = isinstance(error, PermissionDenied) or error.code in {"narrative_job_lost", "narrative_unauthorized"}
    job.refusals = job.refusals + 1 if lasting else 0
    lost = job.refusals >= options.lost_reads and now - job.started >= options.lost_after
    return error if lost else None


def _duration(job: Job, seconds: float) -> float:
    """How long Narrative says it took, else how long it took us to notice."""
    if job.created_at is None or job.ended_at is None:
        return seconds
    stated = (job.ended_at - job.created_at).total_seconds()
    return stated if stated >= 0 else seconds


def _delay(job: Job) -> float | None:
    ended = job.ended_at or job.updated_at
    return None if ended is None else max(time.time() - ended.timestamp(), 0.0)
