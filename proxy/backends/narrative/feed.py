"""Reading `GET /jobs?state=…&order_by=updated_at_desc` as a feed: where the last read ended, and how much to ask for.

Pure. The cursor is the ids of the last read, so it needs no clock, bears equal or missing times, and other parties' jobs. Pages
reach a little beyond it, which finds records that were listed late.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from proxy.backends.narrative.client import MAX_PER_PAGE
from proxy.backends.narrative.trust import Trust
from proxy.backends.narrative.types import JobState

STATES: Final = (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)
_FIRST_PAGE: Final = 100
_SMALLEST_PAGE: Final = 20
_MOST_PAGES: Final = 4
_MOST_PAGES_AFTER_A_GAP: Final = 20
"""Pages of one read; what lies beyond is left to the sweep."""
_GAP: Final = 2.0
"""Seconds without a read after which there is much to catch up with."""
_MOST_FAILURES: Final = 3
_MOST_DOUBLINGS: Final = 5
_HOPELESS: Final = 10.0
_STALE: Final = 300.0
"""Seconds without a read after which the cursor means nothing any more."""


class FeedCursor:
    """One feed: the jobs that reached one state."""

    def __init__(self, state: str, on_trust: Callable[[bool], None]) -> None:
        self.state = state
        self.trust = Trust(start=1.0, patience=3, spacing=1, on_change=lambda _: self._report())
        self._on_trust = on_trust
        self._reported = True
        self.running = False
        self.reads = 0
        """Reads that were answered, another replica's among them."""
        self._started = float("-inf")
        self._failures = 0
        self._failed_at = float("-inf")
        self._last_read = float("-inf")
        self._known: frozenset[str] = frozenset()
        self._seen: dict[str, None] = {}
        self._pages = 0
        self._most_pages = _MOST_PAGES
        self._expected = 0.0

    @property
    def shown(self) -> frozenset[str]:
        """The ids of the jobs that the last read showed."""
        return self._known

    @property
    def reliable(self) -> bool:
        """Whether it can be read, and shows every end."""
        return self._failures < _MOST_FAILURES and self.trust.reliable

    def hopeless(self, now: float) -> bool:
        """Whether the last reads were not answered, and it is too early to try again if somebody else can."""
        return self._failures >= _MOST_FAILURES and now - self._failed_at < _HOPELESS

    def due(self, gap: float) -> float:
        """Loop time of the next read when reads are `gap` seconds apart, more after failures."""
        return self._started + gap * (1 << min(self._failures, _MOST_DOUBLINGS))

    def rested(self, now: float) -> bool:
        """Whether no read began in the last second."""
        return now - self._started >= 1.0

    def start(self, now: float, gap: float) -> None:
        """A read starts. The beat is kept: one that starts a little late does not delay the ones after it."""
        beat = self._started + gap
        self._started = beat if now - beat < gap else now
        self.running = True

    def forget(self) -> None:
        """Nobody follows it for a while: what ends meanwhile is nobody's business."""
        self._known = frozenset()

    def begin(self, now: float) -> int:
        """Open a read; returns how many records to ask for."""
        if now - self._last_read > _STALE:
            self.forget()
        self._seen = {}
        self._pages = 0
        self._most_pages = _MOST_PAGES if now - self._last_read < _GAP else _MOST_PAGES_AFTER_A_GAP
        if not self._known:
            return _FIRST_PAGE
        return min(_SMALLEST_PAGE + int(2 * self._expected), MAX_PER_PAGE)

    def absorb(self, records: Sequence[dict[str, Any]], asked: int) -> bool:
        """Take in one page; returns whether the next page may hold ends that no read has shown yet."""
        ids = [job_id for record in records if (job_id := record_id(record))]
        reached = not self._known.isdisjoint(ids)
        self._seen.update(dict.fromkeys(ids))
        self._pages += 1
        return bool(self._known) and not reached and len(records) >= asked and self._pages < self._most_pages

    def end(self, now: float) -> None:
        """The read is over."""
        new = sum(job_id not in self._known for job_id in self._seen) if self._known else 0
        self._expected = max(new, 0.8 * self._expected)
        self._known = frozenset(self._seen)
        self._answered(now)

    def misses(self, ids: frozenset[str]) -> bool:
        """Whether a read elsewhere that showed these jobs leaves a gap after what is known here."""
        return bool(self._known and ids) and self._known.isdisjoint(ids)

    def read_elsewhere(self, ids: frozenset[str], now: float) -> None:
        """Another replica read it, which showed these jobs."""
        self._known = ids or self._known
        self._answered(now)

    def failed(self, now: float) -> None:
        """A read was not answered."""
        self._failed_at = now
        self._failures += 1
        self._report()

    def _answered(self, now: float) -> None:
        self._last_read = now
        self.reads += 1
        self._failures = 0
        self.trust.settle(self.reads)
        self.trust.soften()
        self._report()

    def _report(self) -> None:
        if self.reliable != self._reported:
            self._reported = self.reliable
            self._on_trust(self._reported)


def record_id(record: dict[str, Any]) -> str | None:
    job_id = record.get("job_id") or record.get("id")
    return job_id if isinstance(job_id, str) else None
