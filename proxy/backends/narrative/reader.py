"""Single reads of one account: what they ask, whom they tell, and what their faults mean."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from proxy.backends.narrative.budget import Budget
from proxy.backends.narrative.client import MAX_PER_PAGE, NarrativeClient, read_record
from proxy.backends.narrative.feed import FeedCursor, record_id
from proxy.backends.narrative.ledger import Entry, Ledger, says_all
from proxy.backends.narrative.types import JobPage, JsonObject
from proxy.errors import PermissionDenied, ProxyError, RateLimited, UpstreamError

_GLANCE_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How ends are noticed. Seconds."""

    reads_per_second: float = 10.0
    """Reads an account may cost while jobs are in flight. Reading a job that is known to have ended comes on top."""
    lost_after: float = 10.0
    """A job that Narrative does not know, or may not be shown, is given up this long after its submission."""
    lost_looks: int = 3
    """And not before this many such answers in a row."""
    longest_outlier_gap: float = 2.0
    """Between two looks at a job that takes unusually long, when few are in flight."""


class Reader:
    """Reads jobs and feeds, and reports to the ledger.

    Args:
        ledger: where news goes.
        client: lists the account's jobs, without repeats.
        budget: told how reads went.
        options: when a job is lost.
        on_hint: told of jobs that ended according to a list that does not say how.
    """

    def __init__(
        self,
        ledger: Ledger,
        client: NarrativeClient,
        budget: Budget,
        options: WatchOptions,
        on_hint: Callable[[Entry, str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ledger = ledger
        self._client = client
        self._budget = budget
        self._options = options
        self._on_hint = on_hint

    async def job(self, entry: Entry, source: str) -> None:
        """Read one job."""
        started = self._loop.time()
        try:
            job = await entry.client.get_job(entry.job.id)
        except ProxyError as error:
            self._trouble(error, started)
            self._refused(entry, error)
        else:
            self._budget.succeeded()
            entry.refusals = 0
            self._ledger.report(job, source)

    async def feed(self, feed: FeedCursor, data_plane_id: str | None, *, glance: bool) -> list[JsonObject] | None:
        """Read what is new in a feed; only its first page for a glance. Returns what it showed, None when it was not answered."""
        started = self._loop.time()
        asked = min(feed.begin(started), _GLANCE_PAGE if glance else MAX_PER_PAGE)
        offset = 0
        shown: list[JsonObject] = []
        try:
            while True:
                page = await self._list(feed.state, data_plane_id, asked, offset)
                self._budget.succeeded()
                self.take_in(page.records, feed)
                shown += page.records
                if not feed.absorb(page.records, asked) or glance:
                    break
                offset += asked
                asked = MAX_PER_PAGE
                self._budget.take(self._loop.time())
            feed.end(self._loop.time())
        except ProxyError as error:
            self._trouble(error, started)
            if not isinstance(error, RateLimited):
                feed.failed(self._loop.time())
            return None
        else:
            return shown
        finally:
            feed.running = False

    def take_in(self, records: Iterable[JsonObject], feed: FeedCursor) -> None:
        """Report what a read of the feed showed, here or elsewhere."""
        for record in records:
            job_id = record_id(record)
            if job_id is None:
                continue
            entry = self._ledger.get(job_id)
            if entry is None or entry.end.done():
                feed.trust.showed(job_id)
            elif entry.client.account == self._client.account:
                self._report(entry, record)

    async def _list(self, state: str, data_plane_id: str | None, per_page: int, offset: int) -> JobPage:
        return await self._client.list_jobs(
            type="model_inference",
            state=state,
            data_plane_id=data_plane_id,
            per_page=per_page,
            offset=offset or None,
            order_by="updated_at_desc",
        )

    def _report(self, entry: Entry, record: JsonObject) -> None:
        job = read_record(record)
        if job is None or (job.ended and not says_all(job)):
            self._on_hint(entry, "feed")
        else:
            self._ledger.report(job, "feed")

    def _trouble(self, error: ProxyError, started: float) -> None:
        """Give way when Narrative limits us or is away."""
        now = self._loop.time()
        if isinstance(error, RateLimited):
            self._budget.limited(started, now, error.retry_after or 1.0)
        elif isinstance(error, UpstreamError) and error.code == "narrative_unavailable":
            self._budget.failed(started, now)

    def _refused(self, entry: Entry, error: ProxyError) -> None:
        """Only Narrative's repeated word that there is no such job for us ends a wait; all other trouble may pass."""
        lasting = isinstance(error, PermissionDenied) or (
            isinstance(error, UpstreamError) and error.code in {"narrative_job_lost", "narrative_unauthorized"}
        )
        entry.refusals = entry.refusals + 1 if lasting else 0
        age = self._loop.time() - entry.started
        if entry.refusals >= self._options.lost_looks and age >= self._options.lost_after:
            self._ledger.fail(entry, error)
