"""Lists of jobs by state: where the last read of each ended, and whether lists and webhooks can be relied on. Pure: time comes in."""

import math
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

from proxy.backends.narrative.events import Observer, ReliabilityChanged
from proxy.backends.narrative.types import JobState

STATES: Final = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)
MOST_FAILURES: Final = 3
"""Reads of a list in a row that are not answered, after which it is not relied on."""


class ListCursor:
    """Where the last read of `GET /jobs?state=…&order_by=updated_at_desc` ended, and how much to ask for next.

    The cursor is the ids of the last read, so it needs no clock, and equal or missing times and other parties' jobs do no harm. Pages
    reach a little beyond it, which finds records that were listed late.
    """

    _FIRST_PAGE: Final = 100
    _SMALLEST_PAGE: Final = 20
    _LARGEST_PAGE: Final = 500
    _PAGE_BYTES: Final = 256 * 1024
    _MOST_PAGES: Final = 4
    _MOST_PAGES_AFTER_OUTAGE: Final = 20
    _OUTAGE: Final = 2.0
    """Seconds without a read after which there is much to catch up with."""
    _STALE: Final = 300.0
    """Seconds without a read after which the cursor means nothing any more."""
    _MOST_DOUBLINGS: Final = 5

    def __init__(self, state: str) -> None:
        self.state = state
        self.running = False
        self.reads = 0
        """Reads that were answered, other replicas' among them."""
        self.failures = 0
        """Reads in a row that were not answered."""
        self.failed_at = self._started = self._last_read = -math.inf
        self.known: frozenset[str] = frozenset()
        """The ids of the jobs that the last read showed."""
        self.record_bytes = 0.0
        """Size of a record, on average over the last pages."""
        self._seen: dict[str, None] = {}
        self._pages_left = 0
        self._expected = 0.0

    def due(self, gap: float) -> float:
        """Loop time of the next read when reads are `gap` seconds apart, more after failures."""
        return self._started + gap * (1 << min(self.failures, self._MOST_DOUBLINGS))

    def rested(self, now: float) -> bool:
        """Whether no read began in the last second."""
        return now - self._started >= 1.0

    def start(self, now: float, gap: float = 0.0) -> None:
        """A read starts. One that starts a little late does not delay the ones after it."""
        planned = self._started + gap
        self._started = planned if now - planned < gap else now
        self.running = True

    def begin(self, now: float) -> int:
        """Returns how many records to ask for."""
        if now - self._last_read > self._STALE:
            self.known = frozenset()
        self._seen = {}
        self._pages_left = self._MOST_PAGES if now - self._last_read < self._OUTAGE else self._MOST_PAGES_AFTER_OUTAGE
        return self._fitting(self._SMALLEST_PAGE + int(2 * self._expected) if self.known else self._FIRST_PAGE)

    def absorb(self, ids: Collection[str], records: int, asked: int, size: int = 0) -> int:
        """Take in one page; returns how many records to ask for next, 0 when no later page can hold ends not shown yet.

        Args:
            ids: of its jobs.
            records: how many it held, those without an id among them.
            asked: how many were asked for.
            size: bytes of the page.
        """
        if records:
            self.record_bytes += 0.3 * (size / records - self.record_bytes) if self.record_bytes else size / records
        reached = not self.known.isdisjoint(ids)
        self._seen.update(dict.fromkeys(ids))
        self._pages_left -= 1
        more = bool(self.known) and not reached and records >= asked and self._pages_left > 0
        return self._fitting(self._LARGEST_PAGE, 8 * self._PAGE_BYTES) if more else 0

    def end(self, now: float) -> None:
        """The read is over."""
        new = sum(job_id not in self.known for job_id in self._seen) if self.known else 0
        self._expected = max(new, 0.8 * self._expected)
        self._answered(frozenset(self._seen), now)

    def misses(self, ids: frozenset[str]) -> bool:
        """Whether another replica's read that showed these jobs leaves a gap after what is known here."""
        return bool(self.known and ids) and self.known.isdisjoint(ids)

    def read_elsewhere(self, ids: frozenset[str], now: float) -> None:
        """Another replica read it, which showed these jobs."""
        self._answered(ids or self.known, now)

    def failed(self, now: float) -> None:
        """A read was not answered."""
        self.failed_at = now
        self.failures += 1

    def _answered(self, known: frozenset[str], now: float) -> None:
        self.known = known
        self._last_read = now
        self.reads += 1
        self.failures = 0

    def _fitting(self, wanted: int, most_bytes: int = _PAGE_BYTES) -> int:
        fitting = int(most_bytes / self.record_bytes) if self.record_bytes else wanted
        return max(min(wanted, fitting, self._LARGEST_PAGE), 1)


class Reliability:
    """Whether a source of ends shows those that other sources noticed first.

    Three ends missed within twenty seconds make it unreliable; ten ends shown without a miss make it reliable again.

    Args:
        reliable: at the start.
        patience: seconds after another source noticed an end in which it may still be shown.
    """

    _MISSES: Final = 3
    _WITHIN: Final = 20.0
    _HITS: Final = 10
    _MOST_OWED: Final = 1_000

    def __init__(self, *, reliable: bool, patience: float) -> None:
        self.reliable = reliable
        self._patience = patience
        self._hits = 0
        self._misses: deque[float] = deque(maxlen=self._MISSES)
        self._owed: dict[str, tuple[float, int]] = {}

    def hit(self) -> None:
        """It showed an end."""
        self._hits += 1
        self.reliable = self.reliable or self._hits >= self._HITS

    def owe(self, job_id: str, now: float, reads: int = 0) -> None:
        """Another source noticed an end first. `reads`: of a list, the reads so far: two more must have passed."""
        if len(self._owed) < self._MOST_OWED:
            self._owed[job_id] = (now + self._patience, reads + 2)

    def shown(self, job_id: str) -> None:
        """It showed an end that may be known already."""
        if self._owed.pop(job_id, None) is not None:
            self.hit()

    def settle(self, now: float, reads: int = 2) -> None:
        """Count what was owed for too long as missed."""
        while self._owed:
            job_id, (until, after) = next(iter(self._owed.items()))
            if now < until or reads < after:
                return
            del self._owed[job_id]
            self._hits = 0
            self._misses.append(now)
            if len(self._misses) == self._MISSES and now - self._misses[0] <= self._WITHIN:
                self.reliable = False

    def forgive(self) -> None:
        """The source is not followed closely for a while: what it owes does not count."""
        self._owed.clear()


class Sources:
    """The reliability of one account's lists and webhooks.

    Args:
        observe: called with `ReliabilityChanged`.
    """

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self.lists = {state.value: Reliability(reliable=True, patience=1.0) for state in STATES}
        self.webhooks = Reliability(reliable=False, patience=3.0)
        self.reliable = {"list": True, "webhook": False}

    def ended(  # noqa: PLR0913
        self, job_id: str, source: str, now: float, cursor: ListCursor, *, closely: bool, webhooks: bool
    ) -> None:
        """An end was noticed. `closely`: the list is read so often that it owes the end; `webhooks`: whether they owe it."""
        if source == "list":
            self.lists[cursor.state].hit()
        elif closely:
            self.lists[cursor.state].owe(job_id, now, cursor.reads)
        if source == "webhook":
            self.webhooks.hit()
        elif webhooks:
            self.webhooks.owe(job_id, now)

    def forgive(self) -> None:
        """The lists are not read closely for a while."""
        for shows in self.lists.values():
            shows.forgive()

    def judge(self, cursors: Iterable[ListCursor], now: float) -> None:
        """Report it when the lists or the webhooks became unreliable, or reliable again."""
        self.webhooks.settle(now)
        readable = all(cursor.failures < MOST_FAILURES for cursor in cursors)
        lists = readable and all(shows.reliable for shows in self.lists.values())
        for source, reliable in (("list", lists), ("webhook", self.webhooks.reliable)):
            if reliable != self.reliable[source]:
                self.reliable[source] = reliable
                self._observe(ReliabilityChanged(source, reliable))
