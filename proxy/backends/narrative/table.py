"""The table of jobs in flight, of all accounts: who waits for each, and which watcher follows it.

A row leaves with its last waiter, or soon when nobody ever came. Webhooks and other replicas hand in records here.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Final

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import Observer
from proxy.backends.narrative.polling import Durations
from proxy.backends.narrative.replicas import AccountRole, ListRead, Replicas
from proxy.backends.narrative.types import Job, Record
from proxy.backends.narrative.watcher import AccountWatcher, WatchedJob, WatchOptions
from proxy.errors import Overloaded
from proxy.storage import Membership, Store

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


class JobTable:
    """See the module."""

    def __init__(self, options: WatchOptions, observe: Observer, store: Store) -> None:
        self._options = options
        self._observe = observe
        self._store = store
        self.jobs: dict[str, WatchedJob] = {}
        self._accounts: OrderedDict[str, AccountWatcher] = OrderedDict()
        self._durations = Durations()
        self._replicas = Replicas(store, self._heard_read, self._take, self._renew_roles)
        self._webhook_accounts: set[str] = set()
        self._early: OrderedDict[str, None] = OrderedDict()

    def start(self) -> None:
        self._replicas.start()

    def fail_all(self) -> None:
        """End every wait with `Overloaded`: the jobs may still end, and can be waited for elsewhere."""
        for job in list(self.jobs.values()):
            self._watcher(job.client).fail(job, Overloaded("the server is stopping", job_id=job.id))

    async def aclose(self) -> None:
        await self._replicas.stop()
        await asyncio.gather(*(watcher.aclose() for watcher in self._accounts.values()))

    @property
    def memberships(self) -> Collection[Membership]:
        """This replica's role in following each of the accounts that it follows."""
        return [watcher.role.membership for watcher in self._accounts.values() if not watcher.idle]

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
        """The row of a job, made when there is none.

        Args:
            deadline: loop time after which nobody waits for it.
            sent: loop time of its submission; None for one that was submitted a while ago, and may have ended.
            on_left: called once, when the row leaves; at once when there is a row already.
        """
        watched = self.jobs.get(job.id)
        if watched is not None:
            watched.deadline = max(watched.deadline, deadline)
            if on_left is not None:
                on_left()
            return watched
        loop = asyncio.get_running_loop()
        started = _started(job, loop.time() - UNCLAIMED if sent is None else sent)
        watcher = self._watcher(client)
        usual = self._durations.usual(model)
        unknown = usual.quick is None and len(self.jobs) < _FEW and not self._store.shared
        at_once = (usual.quick or unknown) and not watcher.has_webhooks
        watched = self.jobs[job.id] = WatchedJob(
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

    def close(self, watched: WatchedJob) -> None:
        if self.jobs.get(watched.id) is not watched:
            return
        del self.jobs[watched.id]
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
            self.close(watched)
        elif loop.time() < watched.deadline:
            watched.expiry = loop.call_at(watched.deadline, self._expire, watched)

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
        watched = self.jobs.get(record.name or "")
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
                client.without_retries(), role, self._durations, self._options, self._observe
            )
            watcher.has_webhooks = client.account in self._webhook_accounts
        self._accounts.move_to_end(client.account)
        return watcher


def _started(job: Job, sent: float) -> float:
    """Loop time at which a job was created, as far as anybody says."""
    if job.created_at is None:
        return sent
    return asyncio.get_running_loop().time() - max(time.time() - job.created_at.timestamp(), 0.0)
