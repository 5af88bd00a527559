"""The table of jobs, bounded in age, number and bytes, with an index that makes the feed of ended jobs cheap."""

import bisect
import math
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import merge as merge_sorted
from itertools import islice

from proxy.backends.narrative.types import ENDED
from proxy.sandbox.jobs import Job
from proxy.sandbox.listing import EMPTY_PAGE, JobPage, JobQuery, slow_page
from proxy.sandbox.options import SandboxOptions
from proxy.sandbox.refusal import Refusal

_REFUSED_KEPT = 1_000

_Ending = tuple[float, int, Job]


@dataclass(frozen=True)
class Refused:
    """A call that was refused: which, and with what."""

    call: str
    status: int
    error: str
    description: str


class JobStore:
    """All jobs of one sandbox. Tests in the same process may look at everything here.

    Args:
        options: the bounds.
        clock: seconds since the epoch.

    Attributes:
        enqueued: how many jobs there ever were.
        refused: the latest calls that were refused by validation, oldest first.
        calls: how many calls were answered, by operation (`run`, `get_job`, `list_jobs`, `webhooks`).
    """

    def __init__(self, options: SandboxOptions, clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._jobs: dict[str, Job] = {}
        self._endings: dict[tuple[str, str], list[_Ending]] = {}
        self._bytes = 0
        self._watchers: list[Callable[[Job], None]] = []
        self.clock = clock
        self.enqueued = 0
        self.refused: deque[Refused] = deque(maxlen=_REFUSED_KEPT)
        self.calls: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._jobs)

    def watch(self, watcher: Callable[[Job], None]) -> None:
        """Calls `watcher` with every job that is added, and again when its times were changed."""
        self._watchers.append(watcher)

    def jobs(self) -> list[Job]:
        """All jobs held, in the order of their creation."""
        return list(self._jobs.values())

    def count_by_state(self) -> dict[str, int]:
        now = self.clock()
        return dict(Counter(str(job.state_at(now)) for job in self._jobs.values()))

    def new_id(self) -> tuple[str, int]:
        """The id and number of the next job."""
        self.enqueued += 1
        return str(uuid.uuid4()), self.enqueued

    def add(self, job: Job) -> None:
        """Enqueues a job, forgetting others where there would be too many."""
        self._jobs[job.id] = job
        self._bytes += job.size
        if job.ended_at < math.inf:
            bisect.insort(self._endings.setdefault((job.data_plane_id, job.outcome), []), _ending(job))
        self._make_room()
        for watcher in self._watchers:
            watcher(job)

    def get(self, job_id: str) -> Job:
        """The job of that id.

        Raises:
            Refusal: 404, there is none, or it ended too long ago.
        """
        job = self._jobs.get(job_id)
        if job is None or job.ended_at + self._options.retention_s <= self.clock():
            raise Refusal(404, f"Job {job_id} was not found")
        return job

    def finish(self, job_id: str, outcome: str | None = None) -> None:
        """Ends a job now, whatever was planned for it.

        Args:
            job_id: which.
            outcome: the state it ends in; by default the one that was planned.
        """
        job = self.get(job_id)
        self._forget_ending(job)
        now = self.clock()
        job.outcome = outcome or job.outcome
        job.running_at = min(job.running_at, now)
        job.ended_at = now
        bisect.insort(self._endings.setdefault((job.data_plane_id, job.outcome), []), _ending(job))
        for watcher in self._watchers:
            watcher(job)

    def page(self, query: JobQuery, *, lag: float = 0.0) -> JobPage:
        """The jobs that a query asks for.

        Args:
            query: filters, order and page.
            lag: shows everything as it was so many seconds ago.
        """
        self._expire()
        now = self.clock() - lag
        if not query.of_our_type:
            return EMPTY_PAGE
        if query.by_update and query.state in ENDED:
            return self._feed(query, now)
        if not lag and not query.by_update and query.state is None and query.data_plane_id is None:
            inward = reversed(self._jobs.values()) if query.newest_first else iter(self._jobs.values())
            return JobPage(list(islice(inward, query.offset, query.offset + query.per_page)), len(self._jobs))
        return slow_page((job for job in self._jobs.values() if job.created_at <= now), query, now)

    def _feed(self, query: JobQuery, now: float) -> JobPage:
        """Ended jobs of one state, newest or oldest end first, without looking at the others."""
        ended: list[Iterator[_Ending]] = []
        total = 0
        for (plane, outcome), endings in self._endings.items():
            if outcome == query.state and query.data_plane_id in (None, plane):
                upto = bisect.bisect_right(endings, now, key=lambda ending: ending[0])
                total += upto
                order = range(upto - 1, -1, -1) if query.newest_first else range(upto)
                ended.append(map(endings.__getitem__, order))
        merged = merge_sorted(*ended, key=_by_time, reverse=query.newest_first)
        page = islice(merged, query.offset, query.offset + query.per_page)
        return JobPage([job for _, _, job in page], total)

    def _expire(self) -> None:
        before = self.clock() - self._options.retention_s
        for endings in list(self._endings.values()):
            for _, _, job in endings[: bisect.bisect_right(endings, before, key=lambda ending: ending[0])]:
                self._forget(job)

    def _make_room(self) -> None:
        self._expire()
        while len(self._jobs) > self._options.max_jobs or (
            self._bytes > self._options.max_bytes and len(self._jobs) > 1
        ):
            self._forget(next(iter(self._jobs.values())))

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        self._bytes -= job.size
        self._forget_ending(job)

    def _forget_ending(self, job: Job) -> None:
        place = (job.data_plane_id, job.outcome)
        endings = self._endings.get(place, [])
        at = bisect.bisect_left(endings, _by_time(_ending(job)), key=_by_time)
        if at < len(endings) and endings[at][2] is job:
            del endings[at]
            if not endings:
                del self._endings[place]


def _ending(job: Job) -> _Ending:
    return (job.ended_at, job.number, job)


def _by_time(ending: _Ending) -> tuple[float, int]:
    return ending[:2]
