"""Which list page or job to read next, decided from the table of jobs, the time and the read budget. Pure: time comes in.

| situation | single jobs | lists by state |
|---|---|---|
| no job can have ended yet | none | none |
| a few jobs | each, in turn | none |
| many jobs | those past the usual duration of their model | often |
| many jobs, lists found unreliable | each, in turn | less often |
| webhooks found reliable | those past the usual duration of their model | now and then |

Replicas that follow one account share one budget: the leader reads the lists for all of them, even for a few jobs, and each has its
share of the single reads.
"""

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.backends.narrative.lists import STATES, ListCursor
from proxy.backends.narrative.types import JobState

_FEW: Final = 2
"""Jobs up to which reading each costs no more than the lists."""
_SHORTEST_GAP: Final = 0.1
_LONGEST_GAP: Final = 2.0
_GAP_PER_AGE: Final = 0.015
"""An end is to be noticed within 2 % of the job's age; the rest is for the read itself."""
_PLANNED: Final = 0.9
"""Part of the budget that is planned with; the rest is for second pages and retries."""

_CATCH_UP: Final = 0.05
"""Seconds by which single reads that are late may come closer together."""

# Parts of the rate for the lists of completed, failed and cancelled jobs. What is left over is for single reads.
_OFTEN: Final = dict(zip(STATES, (0.55, 0.15, 0.03), strict=True))
_LESS_OFTEN: Final = dict(zip(STATES, (0.25, 0.05, 0.02), strict=True))
_NOW_AND_THEN: Final = dict(zip(STATES, (0.05, 0.03, 0.01), strict=True))


@dataclass(slots=True, eq=False)
class PolledJob:
    """What polling knows of a job; all times are loop times.

    Args:
        started: its submission.
        ready_at: when it can have ended at the earliest, going by its model's usual duration.
        late_at: when it is past that duration.
    """

    started: float
    ready_at: float
    late_at: float
    own_read: bool = field(default=False, kw_only=True)
    """It may be read once outside the budget, as soon as it can have ended."""
    read_at: float = field(default=-math.inf, kw_only=True)
    """Start of the last read."""
    reading: bool = field(default=False, kw_only=True)
    urgent_at: float | None = field(default=None, kw_only=True)
    """It is said to have ended, and is read from then on outside the budget."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What beside the jobs decides.

    Args:
        leads: whether this replica reads the lists.
        members: replicas that follow the account, this one included.
        lists_reliable, webhooks_reliable: whether they showed the ends that other sources noticed first.
        free_reads: single reads that may start now, by how many are under way.
    """

    leads: bool = True
    members: int = 1
    lists_reliable: bool = True
    webhooks_reliable: bool = False
    free_reads: int = 16

    @property
    def serves(self) -> bool:
        return self.leads and self.members > 1


@dataclass(frozen=True, slots=True)
class Polls:
    """What to read now, and when to ask again unless something happens before.

    `glance`: one page of each list is enough. `closely`: the lists are read often enough that they can be judged by what they miss.
    """

    lists: tuple[str, ...] = ()
    jobs: tuple[PolledJob, ...] = ()
    again_at: float = math.inf
    glance: bool = False
    closely: bool = False


def next_polls(
    jobs: Iterable[PolledJob], lists: Mapping[str, ListCursor], situation: Situation, budget: "Budget", now: float
) -> Polls:
    """What to read now. Takes from the budget what it returns, jobs with a read of their own and urgent ones apart."""
    ready, late, free, again_at = _sort(jobs, now)
    if budget.paused_until(now) > now:
        free = []
        again_at = min(again_at, budget.paused_until(now))
    free = free[: max(situation.free_reads, 0)]
    if not ready and not situation.serves:
        return Polls(jobs=tuple(free), again_at=again_at)
    rate = budget.rate
    parts = _list_parts(ready, situation, rate * _PLANNED)
    gap = 0.0 if situation.serves or not ready else gap_at(now - max(job.started for job in ready))
    polled, again_at = _due_lists(lists, parts if situation.leads else {}, rate, gap, budget, (now, again_at))
    each = ready if not parts or parts is _LESS_OFTEN else late
    left = rate * (_PLANNED - sum(parts.values())) / situation.members
    due, again_at = _due_jobs(each, left, budget, (now, again_at), situation.free_reads - len(free))
    return Polls(tuple(polled), (*free, *due), again_at, parts is _NOW_AND_THEN, parts in (_OFTEN, _LESS_OFTEN))


def gap_at(age: float) -> float:
    """Seconds between two reads that show the end of a job of that age soon enough."""
    return min(max(_SHORTEST_GAP, _GAP_PER_AGE * age), _LONGEST_GAP)


def _sort(jobs: Iterable[PolledJob], now: float) -> tuple[list[PolledJob], list[PolledJob], list[PolledJob], float]:
    """Jobs that can have ended, those of them that are late, those that may be read outside the budget; when to ask again."""
    ready: list[PolledJob] = []
    late: list[PolledJob] = []
    free: list[PolledJob] = []
    again_at = math.inf
    for job in jobs:
        if job.urgent_at is not None:
            if job.reading:
                continue
            if job.urgent_at <= now:
                free.append(job)
            else:
                again_at = min(again_at, job.urgent_at)
        elif job.ready_at > now:
            again_at = min(again_at, job.ready_at)
        elif job.own_read:
            free.append(job)
        else:
            ready.append(job)
            if job.late_at <= now:
                late.append(job)
            else:
                again_at = min(again_at, job.late_at)
    return ready, late, free, again_at


def _list_parts(ready: Collection[PolledJob], situation: Situation, rate: float) -> dict[JobState, float]:
    """The part of the rate that each list gets; none where reading each job costs no more."""
    if situation.webhooks_reliable:
        return _NOW_AND_THEN
    if situation.members == 1 and len(ready) <= _FEW:
        return {}
    return _OFTEN if situation.lists_reliable else _LESS_OFTEN


def _due_lists(  # noqa: PLR0913, PLR0917
    lists: Mapping[str, ListCursor],
    parts: Mapping[JobState, float],
    rate: float,
    gap: float,
    budget: "Budget",
    times: tuple[float, float],
) -> tuple[list[str], float]:
    now, again_at = times
    due = []
    stretch = max(1.0, gap * rate * parts.get(JobState.COMPLETED, 0.0))
    for state, part in parts.items():
        cursor = lists[state]
        if cursor.running:
            continue
        at = max(cursor.due(stretch / (rate * part)), budget.ready_at(now))
        if at <= now:
            cursor.start(now, stretch / (rate * part))
            budget.take(now)
            due.append(state.value)
        else:
            again_at = min(again_at, at)
    return due, again_at


def _due_jobs(
    jobs: Collection[PolledJob], rate: float, budget: "Budget", times: tuple[float, float], free_reads: int
) -> tuple[list[PolledJob], float]:
    """The jobs whose turn it is when all of them are read at `rate`, the one read longest ago first."""
    now, again_at = times
    gap = len(jobs) / rate
    waiting = [
        (job.read_at + max(gap, gap_at(now - job.started)), number, job)
        for number, job in enumerate(jobs)
        if not job.reading
    ]
    due: list[PolledJob] = []
    for turn, _, job in heapq.nsmallest(max(free_reads, 0) + 1, waiting):
        at = max(turn, budget.ready_at(now), budget.single_from)
        if at > now or len(due) >= free_reads:
            if at > now:
                again_at = min(again_at, at)
            break
        budget.take(now)
        budget.single_from = max(budget.single_from, now - _CATCH_UP) + 1 / rate
        due.append(job)
    return due, again_at


# ---------------------------------------------------------------- the read budget


class Budget:
    """How many reads a second an account may cost: a token bucket that gives way to 429s and outages.

    Args:
        rate: reads a second.
        burst: reads that may come at once after a rest.
        now: loop time.
    """

    _SHORTEST_PAUSE: Final = 0.1
    _LONGEST_PAUSE: Final = 5.0
    _SLOWEST: Final = 0.05
    _RECOVERY: Final = 0.05

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._full = rate
        self._part = 1.0
        self.share = 1.0
        """Part of the rate that is this replica's."""
        self.single_from = now
        """When the next read of a single job is due, where they are read at a rate of their own."""
        self._burst = burst
        self._tokens = burst
        self._seen = now
        self._paused_until = now
        self._failures = 0

    @property
    def rate(self) -> float:
        """Reads a second at present, of all replicas."""
        return self._full * self._part

    def ready_at(self, now: float) -> float:
        """When the next read may start: `now` or later."""
        self._refill(now)
        missing = 1.0 - self._tokens
        return max(now, self._paused_until, now + missing / (self.rate * self.share) if missing > 1e-9 else now)

    def paused_until(self, now: float) -> float:
        """When a read outside the budget may start: `now`, or later after a 429 or in an outage."""
        return max(now, self._paused_until)

    def take(self, now: float) -> None:
        """A read starts. It may start before its time; the next ones then start later."""
        self._refill(now)
        self._tokens = max(self._tokens - 1.0, -self._full)

    def limited(self, started: float, now: float, retry_after: float) -> None:
        """A read that started at `started` was answered 429: pause, then go slower for a while."""
        if started >= self._paused_until:
            self._part = max(self._part / 2, self._SLOWEST)
        self._paused_until = max(self._paused_until, now + retry_after)

    def failed(self, started: float, now: float) -> None:
        """A read failed for a reason that is not the job's: pause, longer each time."""
        if started < self._paused_until:
            return
        pause = min(self._SHORTEST_PAUSE * 2**self._failures, self._LONGEST_PAUSE)
        self._failures += 1
        self._paused_until = now + pause

    def succeeded(self) -> None:
        """A read was answered."""
        self._failures = 0

    def _refill(self, now: float) -> None:
        passed = max(now - self._seen, 0.0)
        self._seen = now
        self._tokens = min(self._tokens + passed * self.rate * self.share, self._burst)
        if now > self._paused_until:
            self._part = min(self._part + passed * self._RECOVERY, 1.0)


# ---------------------------------------------------------------- usual durations


@dataclass(frozen=True, slots=True)
class Usual:
    """When, in seconds after its submission, a job can have ended at the earliest, and when it is late.

    `quick`: jobs of the model end about when their submission is answered. None: nothing is known yet.
    """

    earliest: float = 0.0
    late: float = 15.0
    quick: bool | None = None


class Durations:
    """How long the last jobs of each model took."""

    WINDOW: Final = 64
    ENOUGH: Final = 8
    """Durations after which the guess gives way to what was learned."""
    MODELS: Final = 256
    _QUICK: Final = 0.05

    def __init__(self) -> None:
        self._models: OrderedDict[str, tuple[deque[float], Usual]] = OrderedDict()

    def usual(self, model: str) -> Usual:
        return self._models[model][1] if model in self._models else Usual()

    def learn(self, model: str, seconds: float) -> None:
        """A job of `model` took `seconds`."""
        window, usual = self._models.pop(model, (deque(maxlen=self.WINDOW), Usual()))
        window.append(seconds)
        if len(window) >= self.ENOUGH:
            ordered = sorted(window)
            quick = ordered[len(ordered) // 2] <= self._QUICK
            usual = Usual(0.7 * ordered[0], 1.5 * ordered[-1] + 1.0, quick)
        self._models[model] = (window, usual)
        if len(self._models) > self.MODELS:
            self._models.popitem(last=False)
