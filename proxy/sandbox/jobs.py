"""Jobs and their table: what a job shows at any moment, and the pages of `GET /jobs`.

Nothing happens to a job as time passes: its state follows from the clock. The table is bounded in age, number and bytes.
"""

import bisect
import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, Field, StringConstraints

from proxy.backends.narrative.types import ENDED, JobState
from proxy.sandbox.http import SandboxError, SandboxOptions, dumps

JOB_TYPE = "model_inference"
NEVER = math.inf


@dataclass(slots=True)
class SandboxJob:
    """Times are seconds since the epoch; NEVER in `running_at` or `ended_at` leaves the job as it is before.

    It is `pending`, then `meanwhile`, then `outcome`, which the record spells as `spelling` says. `result_json` is shown when
    it has completed, except to the first `withheld_reads` reads; `failures` are shown when it has failed. `id_name` is the
    record's field for the id; the store sets `number`, which counts its jobs from 1.
    """

    id: str
    data_plane_id: str
    input_json: bytes
    created_at: float
    running_at: float
    ended_at: float
    outcome: str = JobState.COMPLETED
    meanwhile: str = JobState.RUNNING
    spelling: str | None = None
    result_json: bytes | None = None
    failures: Sequence[Any] = ()
    withheld_reads: int = 0
    id_name: str = "job_id"
    number: int = 0
    _encoded: dict[tuple[str, float], tuple[bytes, bytes]] = field(default_factory=dict)

    @property
    def body(self) -> Any:
        """The submission as it was echoed: `data_plane_id`, `model`, `messages`, `inference_config`, `tags`."""
        return json.loads(self.input_json)

    @property
    def size(self) -> int:
        """Bytes of its input and result."""
        return len(self.input_json) + len(self.result_json or b"")

    def state_at(self, now: float) -> str:
        """The state by its documented name, or a scripted one in which the job stays."""
        if now >= self.ended_at:
            return self.outcome
        return self.meanwhile if now >= self.running_at else JobState.PENDING

    def updated_at(self, now: float) -> float:
        """The last change of state up to now."""
        if now >= self.ended_at:
            return self.ended_at
        return self.running_at if now >= self.running_at else self.created_at

    def next_change(self, now: float) -> float:
        """The next change of state after now; NEVER when there is none."""
        return next((at for at in (self.running_at, self.ended_at) if at > now), NEVER)

    def record(self, now: float, *, with_result: bool = True) -> bytes:
        """The record of `GET /jobs/{id}` as JSON."""
        return b"".join(self.record_parts(now, with_result=with_result))

    def record_parts(self, now: float, *, with_result: bool = True) -> tuple[bytes, ...]:
        """The record in pieces: the small ones are kept per state, input and result are the job's own bytes, so that a page
        of large jobs is copied once. A read that withholds the result is counted here.
        """
        state = self.state_at(now)
        result = self.result_json if state == JobState.COMPLETED and with_result else None
        if result is not None and self.withheld_reads > 0:
            self.withheld_reads -= 1
            result = None
        key = state, self.ended_at  # a job that was ended by hand ends at another time than was planned
        if key not in self._encoded:
            ended = now >= self.ended_at
            fields = {
                self.id_name: self.id,
                "type": JOB_TYPE,
                "state": (self.spelling or state) if ended else state,
                "data_plane_id": self.data_plane_id,
                "idempotency_key": None,
                "executor": "sandbox",
                "request_source": "api",
                # Narrative leaves the zone out of some times; they are UTC all the same.
                "created_at": _iso(self.created_at) + "Z",
                "updated_at": _iso(self.updated_at(now)),
                "ended_at": _iso(self.ended_at) if ended else None,
            }
            failures = dumps(list(self.failures) if state == JobState.FAILED else [])
            self._encoded[key] = orjson.dumps(fields)[:-1] + b',"input":', b',"failures":' + failures + b"}"
        head, tail = self._encoded[key]
        return head, self.input_json, b',"result":', result or b"null", tail


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


# ---------------------------------------------------------------- listing


class JobQuery(BaseModel, frozen=True):
    """What a listing asks for; None accepts all, and unknown parameters are ignored."""

    type: str | None = None
    state: JobState | None = None
    data_plane_id: Annotated[str, StringConstraints(to_lower=True)] | None = None
    per_page: int = Field(default=50, ge=1, le=500)
    offset: int = Field(default=0, ge=0, lt=10**12)
    order_by: Literal["created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"] = "created_at_desc"

    def page_of(self, jobs: Iterable[SandboxJob], now: float) -> tuple[list[SandboxJob], int]:
        """The jobs of the page as they are at a time, and how many there are on all pages."""
        if self.type is not None and self.type.replace("-", "_") != JOB_TYPE:
            return [], 0
        found = [job for job in jobs if job.created_at <= now and self.state in (None, job.state_at(now))]
        if self.data_plane_id is not None:
            found = [job for job in found if job.data_plane_id == self.data_plane_id]
        by_update = self.order_by.startswith("updated_at")
        found.sort(key=lambda job: (job.updated_at(now) if by_update else 0, job.number))
        if self.order_by.endswith("_desc"):
            found.reverse()
        return found[self.offset : self.offset + self.per_page], len(found)


# ---------------------------------------------------------------- the table


class RejectedCall(NamedTuple):
    """A call that validation answered with an error."""

    call: str
    status: int
    error: str
    description: str


class JobStore:
    """All jobs of one sandbox; tests in the same process may read everything here.

    `enqueued` counts the jobs there ever were, `calls` the calls by operation (`run`, `get_job`, `list_jobs`, `webhooks`);
    `refused` has the latest 1,000 calls that validation refused, oldest first. `clock` gives seconds since the epoch.
    `on_change` is called with every job that is added, and again when its times were changed.
    """

    def __init__(self, options: SandboxOptions, clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._jobs: dict[str, SandboxJob] = {}
        # In the order of their ends: (time, number, job). Jobs that never end are left out.
        self._ends: list[tuple[float, int, SandboxJob]] = []
        self._bytes = 0
        self.on_change: Callable[[SandboxJob], None] = lambda job: None
        self.clock = clock
        self.enqueued = 0
        self.refused: deque[RejectedCall] = deque(maxlen=1_000)
        self.calls: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._jobs)

    def jobs(self) -> list[SandboxJob]:
        """All jobs held, in the order of their creation."""
        return list(self._jobs.values())

    def add(self, job: SandboxJob) -> None:
        """Enqueues a job. While a bound is exceeded, the job that ended first is forgotten, or else the oldest."""
        self.enqueued += 1
        job.number = self.enqueued
        self._jobs[job.id] = job
        self._bytes += job.size
        self._changed(job)
        self._expire()
        options = self._options
        while len(self._jobs) > 1 and (len(self._jobs) > options.max_jobs or self._bytes > options.max_bytes):
            ended_at, _, first = self._ends[0] if self._ends else (NEVER, 0, job)
            has_ended = first is not job and ended_at <= self.clock()
            self._forget(first if has_ended else next(iter(self._jobs.values())))

    def get(self, job_id: str) -> SandboxJob:
        """The job of that id. Raises SandboxError: 404, there is none, or it ended longer ago than `retention_s`."""
        job = self._jobs.get(job_id)
        if job is None or job.ended_at + self._options.retention_s <= self.clock():
            raise SandboxError(404, f"Job {job_id} was not found")
        return job

    def finish(self, job_id: str, outcome: str | None = None) -> None:
        """Ends a job now, in the state `outcome` or in the one that was planned."""
        job = self.get(job_id)
        self._unindex(job)
        if outcome is not None:
            job.outcome, job.spelling = outcome, None
        job.ended_at = self.clock()
        job.running_at = min(job.running_at, job.ended_at)
        self._changed(job)

    def page(self, query: JobQuery, *, lag: float = 0.0) -> bytes:
        """The page that a query asks for, as everything was `lag` seconds ago, as JSON."""
        self._expire()
        now = self.clock() - lag
        # A list of ended jobs, the usual one, does not read those that run.
        jobs, total = query.page_of(self._ended(now) if query.state in ENDED else self._jobs.values(), now)
        parts = [b'{"records":[']
        for at, job in enumerate(jobs):
            parts += [b",", *job.record_parts(now)] if at else job.record_parts(now)
        page, pages = query.offset // query.per_page + 1, -(-total // query.per_page)
        counts = f'],"current_page":{page},"total_pages":{pages},"total_records":{total}}}'
        return b"".join([*parts, counts.encode()])

    def _ended(self, now: float) -> list[SandboxJob]:
        """The jobs that have ended by a time, the first first."""
        return [job for _, _, job in self._ends[: bisect.bisect_right(self._ends, now, key=lambda end: end[0])]]

    def _expire(self) -> None:
        for job in self._ended(self.clock() - self._options.retention_s):
            self._forget(job)

    def _changed(self, job: SandboxJob) -> None:
        if job.ended_at < NEVER:
            bisect.insort(self._ends, (job.ended_at, job.number, job))
        self.on_change(job)

    def _forget(self, job: SandboxJob) -> None:
        del self._jobs[job.id]
        self._bytes -= job.size
        self._unindex(job)

    def _unindex(self, job: SandboxJob) -> None:
        if job.ended_at < NEVER:
            del self._ends[bisect.bisect_left(self._ends, (job.ended_at, job.number), key=lambda end: end[:2])]
