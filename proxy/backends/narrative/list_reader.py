"""Reads one account's lists of ended jobs, page by page, within the read budget."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import Observer
from proxy.backends.narrative.lists import MOST_FAILURES, STATES, ListCursor, Sources
from proxy.backends.narrative.polling import Budget
from proxy.backends.narrative.types import Record
from proxy.errors import ProxyError, RateLimited, UpstreamError

_HOPELESS: Final = 10.0
"""Seconds for which a leader whose list reads fail lets another replica lead."""


class ListReader:
    """See the module.

    Args:
        client: lists the account's jobs, without retries.
        budget: the account's.
        observe: called when the lists or webhooks become unreliable, or reliable again.
    """

    def __init__(self, client: NarrativeClient, budget: Budget, observe: Observer) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._budget = budget
        self.cursors = {state.value: ListCursor(state.value) for state in STATES}
        self.sources = Sources(observe)

    @property
    def hopeless(self) -> bool:
        """Whether reads have failed so often, and so lately, that another replica should read instead."""
        now = self._loop.time()
        return any(
            cursor.failures >= MOST_FAILURES and now - cursor.failed_at < _HOPELESS for cursor in self.cursors.values()
        )

    def judge(self) -> None:
        """Report changes in the reliability of the sources."""
        self.sources.judge(self.cursors.values(), self._loop.time())

    async def pages(
        self, cursor: ListCursor, data_plane_id: str | None, *, glance: bool
    ) -> AsyncIterator[Sequence[Record]]:
        """What is new in a list, page by page; only the first page for a glance. A page that is not answered ends it."""
        started = self._loop.time()
        offset, asked = 0, cursor.begin(started)
        try:
            while asked:
                page = await self._client.list_jobs(
                    type="model_inference",
                    state=cursor.state,
                    data_plane_id=data_plane_id,
                    per_page=asked,
                    offset=offset or None,
                    order_by="updated_at_desc",
                )
                self._budget.succeeded()
                yield page.records
                ids = [record.name for record in page.records if record.name]
                offset += asked
                asked = cursor.absorb(ids, len(page.records), asked, page.size)
                if glance:
                    break
                if asked:
                    self._budget.take(self._loop.time())
            cursor.end(self._loop.time())
            self.sources.lists[cursor.state].settle(self._loop.time(), cursor.reads)
        except ProxyError as error:
            give_way(self._budget, error, started, self._loop.time())
            if not isinstance(error, RateLimited):
                cursor.failed(self._loop.time())
        finally:
            cursor.running = False
            self.judge()

    def missed(self, cursor: ListCursor, ids: frozenset[str]) -> bool:
        """Take note of another replica's read that showed these jobs. Returns whether messages were lost before it: then a read
        has to begin here, which is paid for and marked as running."""
        now = self._loop.time()
        if cursor.running:
            return False
        if not cursor.misses(ids):
            cursor.read_elsewhere(ids, now)
            self.sources.lists[cursor.state].settle(now, cursor.reads)
            return False
        if not cursor.rested(now):
            return False
        self._budget.take(now)
        cursor.start(now)
        return True


def give_way(budget: Budget, error: ProxyError, started: float, now: float) -> None:
    """Read less when Narrative limits us or is away."""
    if isinstance(error, RateLimited):
        budget.limited(started, now, error.retry_after or 1.0)
    elif isinstance(error, UpstreamError) and error.code == "narrative_unavailable":
        budget.failed(started, now)
