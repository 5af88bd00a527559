"""Jobs and their table: what a job shows at any moment, and the pages of `GET /jobs`.

Nothing happens to a job as time passes: its state follows from the clock. The table is bounded in age, number and bytes.
"""

import bisect
import json
import math
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.backends.narrative.types import ENDED, JobState
from proxy.sandbox.http import SandboxError, SandboxOptions, dumps, first_error

JOB_TYPE = "model_inference"
NEVER = math.inf


def ended_state(state: str) -> str | None:
    """The documented state that a spelling of an ended state stands for (`COMPLETED`, `canceled`), None for others."""
    plain = "cancelled" if state.lower() == "canceled" else state.lower()
    return plain if plain in ENDED else None


@dataclass(slots=True)
class SandboxJob:
    """Times are seconds since the epoch; NEVER in `running_at` or `ended_at` leaves the job as it is before.

    It is `pending`, then `meanwhile`, then `outcome`, which the record spells as `spelling` says. `result_json` is shown when
    it has completed, except to the first `withheld_reads` reads; `failures` are shown when it has failed. `number` counts the
    sandbox's jobs from 1, and `id_name` is the record's field for the id.
    """

    id: str
    number: int
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
    _encoded: dict[tuple[str, float], tuple[bytes, bytes]] = field(default_factory=dict)

    @property
    def body(self) -> Any:
        """The submission as it was echoed: `data_plane_id`, `model`, `messages`, `inference_config`, `tags`."""
        return json.loads(self.input_json)

    @property
    def tags(self) -> list[str]:
        """The `tags` of the submission; none where it had no such field."""
        return list(self.body.get("tags", []))

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
        # A job that was ended by hand ends at another time than was planned.
        head, tail = self._encoded.get((state, self.ended_at)) or self._encode(state, now)
        return head, self.input_json, b',"result":', result or b"null", tail

    def _encode(self, state: str, now: float) -> tuple[bytes, bytes]:
        ended = now >= self.ended_at
        head = {
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
        parts = orjson.dumps(head)[:-1] + b',"input":', b',"failures":' + failures + b"}"
        self._encoded[state, self.ended_at] = parts
        return parts


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


# ---------------------------------------------------------------- listing


class JobQuery(BaseModel):
    """What a listing asks for; None accepts all, and unknown parameters are ignored."""

    model_config = ConfigDict(frozen=True)

    type: str | None = None
    state: JobState | None = None
    data_plane_id: str | None = None
    per_page: int = Field(default=50, ge=1, le=500)
    offset: int = Field(default=0, ge=0, lt=10**12)
    order_by: Literal["created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"] = "created_at_desc"

    @classmethod
    def parse(cls, params: Mapping[str, str]) -> "JobQuery":
        """The query from URL parameters. Raises SandboxError: 400 that names the parameter."""
        try:
            return cls.model_validate(dict(params))
        except ValidationError as fault:
            raise SandboxError(400, first_error(fault)) from fault

    def page_of(self, jobs: list[SandboxJob]) -> "ListedJobs":
        """The page of all jobs that pass the filters, given in ascending order."""
        if self.order_by.endswith("_desc"):
            jobs.reverse()
        return ListedJobs(jobs[self.offset : self.offset + self.per_page], len(jobs))

    def scan(self, jobs: Iterable[SandboxJob], now: float) -> "ListedJobs":
        """The page of jobs as they are at a time; `jobs` come in the order of their creation."""
        found = [
            job
            for job in jobs
            if job.created_at <= now and self.state in (None, job.state_at(now)) and self.is_of_plane(job)
        ]
        if self.order_by.startswith("updated_at"):
            found.sort(key=lambda job: (job.updated_at(now), job.number))
        return self.page_of(found)

    def is_of_plane(self, job: SandboxJob) -> bool:
        """Whether a job runs in the data plane that is asked for."""
        return self.data_plane_id is None or job.data_plane_id == self.data_plane_id.lower()


class ListedJobs(NamedTuple):
    """The jobs of one page, and how many there are on all pages."""

    jobs: list[SandboxJob]
    total: int

    def encoded(self, query: JobQuery, now: float) -> bytes:
        """The page as JSON: `records`, `current_page` (from 1), `total_pages`, `total_records`."""
        parts = [b'{"records":[']
        for at, job in enumerate(self.jobs):
            parts += [b",", *job.record_parts(now)] if at else job.record_parts(now)
        page, pages = query.offset // query.per_page + 1, -(-self.total // query.per_page)
        counts = f'],"current_page":{page},"total_pages":{pages},"total_records":{self.total}}}'
        return b"".join([*parts, counts.encode()])


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
    """

    def __init__(self, options: SandboxOptions, clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._jobs: dict[str, SandboxJob] = {}
        # By outcome, in the order of their ends: (time, number, job).
        self._ends: defaultdict[str, list[tuple[float, int, SandboxJob]]] = defaultdict(list)
        self._bytes = 0
        self._watchers: list[Callable[[SandboxJob], None]] = []
        self.clock = clock
        self.enqueued = 0
        self.refused: deque[RejectedCall] = deque(maxlen=1_000)
        self.calls: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._jobs)

    def watch(self, watcher: Callable[[SandboxJob], None]) -> None:
        """Calls `watcher` with every job that is added, and again when its times were changed."""
        self._watchers.append(watcher)

    def jobs(self) -> list[SandboxJob]:
        """All jobs held, in the order of their creation."""
        return list(self._jobs.values())

    def count_by_state(self) -> dict[str, int]:
        """How many jobs are in each state now."""
        now = self.clock()
        return dict(Counter(str(job.state_at(now)) for job in self.jobs()))

    def new_id(self) -> tuple[str, int]:
        """The id and number of the next job."""
        self.enqueued += 1
        return str(uuid.uuid4()), self.enqueued

    def add(self, job: SandboxJob) -> None:
        """Enqueues a job. While a bound is exceeded, the job that ended first is forgotten, or else the oldest."""
        self._jobs[job.id] = job
        self._bytes += job.size
        self._changed(job)
        self._expire()
        options, now = self._options, self.clock()
        while len(self._jobs) > 1 and (len(self._jobs) > options.max_jobs or self._bytes > options.max_bytes):
            ended = min((ends[0] for ends in self._ends.values() if ends and ends[0][0] <= now), default=None)
            oldest = next(iter(self._jobs.values()))
            self._forget(oldest if ended is None or ended[2] is job else ended[2])

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

    def page(self, query: JobQuery, *, lag: float = 0.0) -> ListedJobs:
        """The jobs that a query asks for, as everything was `lag` seconds ago."""
        self._expire()
        now = self.clock() - lag
        if query.type is not None and query.type.replace("-", "_") != JOB_TYPE:
            return ListedJobs([], 0)
        if query.state not in ENDED or not query.order_by.startswith("updated_at"):
            return query.scan(self._jobs.values(), now)
        # The feed of ended jobs, without reading those that run.
        ends = self._ends[query.state]
        upto = bisect.bisect_right(ends, now, key=lambda end: end[0])
        return query.page_of([job for _, _, job in ends[:upto] if query.is_of_plane(job)])

    def _expire(self) -> None:
        before = self.clock() - self._options.retention_s
        for ends in self._ends.values():
            for _, _, job in ends[: bisect.bisect_right(ends, before, key=lambda end: end[0])]:
                self._forget(job)

    def _changed(self, job: SandboxJob) -> None:
        if job.ended_at < NEVER:
            bisect.insort(self._ends[job.outcome], (job.ended_at, job.number, job))
        for watcher in self._watchers:
            watcher(job)

    def _forget(self, job: SandboxJob) -> None:
        del self._jobs[job.id]
        self._bytes -= job.size
        self._unindex(job)

    def _unindex(self, job: SandboxJob) -> None:
        ends = self._ends[job.outcome]
        at = bisect.bisect_left(ends, (job.ended_at, job.number), key=lambda end: end[:2])
        if at < len(ends) and ends[at][2] is job:
            del ends[at]
