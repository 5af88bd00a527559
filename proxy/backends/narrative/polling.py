"""Which job or list to read next. Pure: time comes in.

| situation | single jobs | lists by state |
|---|---|---|
| reading each job fits into the budget | each, in turn | none |
| more jobs | those past the usual duration | often |
| more jobs, and the lists omit some | each, in turn | less often |
| webhooks show all ends | those past the usual duration | now and then |

Replicas that watch one account share one budget: the leader reads the lists for all of them, and each has its part of the single reads.
"""

import asyncio
import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.backends.narrative.types import ENDED, Job, JobState
from proxy.errors import ProxyError, RateLimited
from proxy.storage import Membership

Shares = Mapping[JobState, float]
"""Parts of the budget for each list. What is left of `_PLANNED` is for single reads."""
_OFTEN: Final[Shares] = dict(zip(ENDED, (0.66, 0.1, 0.05), strict=True))
_LESS_OFTEN: Final[Shares] = dict(zip(ENDED, (0.25, 0.05, 0.02), strict=True))
_NOW_AND_THEN: Final[Shares] = dict(zip(ENDED, (0.05, 0.03, 0.01), strict=True))
_PLANNED: Final = 0.95
_FEW: Final = 8
"""Jobs that may be read each, if the budget suffices."""
_MOST_READS: Final = 16
"""Reads of single jobs at one time."""
_PAGE_BYTES: Final = 256 * 1024


@dataclass(slots=True, eq=False)
class WatchedJob:
    """A job that somebody waits for, or may wait for soon. All times are loop times.

    Args:
        started: its submission.
        account: whose job it is, as `NarrativeClient.account`.
        on_left: called once, when it is not watched any more.
        outcome: the ended job, or the error that ends the wait; None until then.
        waiting: one future for each who waits.
        expiry: ends the watch if nobody comes to wait.
        urgent_at: it is read then, outside the budget: it is said to have ended, or was just submitted.
        source: what said that it ended.
        relayed: another replica passed that on.
        request: id of the request that it was first watched for.
        refusals: reads in a row that Narrative answered with 401, 403 or 404.
    """

    id: str
    started: float
    account: str
    model: str = ""
    on_left: Callable[[], None] | None = field(default=None, repr=False)
    outcome: Job | ProxyError | None = None
    waiting: list[asyncio.Future[Job]] = field(default_factory=list, repr=False)
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)
    read_at: float = -math.inf
    reading: bool = False
    urgent_at: float | None = None
    source: str = "read"
    relayed: bool = False
    request: str = ""
    hints: int = 0
    refusals: int = 0
    unreadable_since: float | None = None
    incomplete_since: float | None = None

    def end(self, outcome: Job | ProxyError) -> None:
        """Let everyone who waits, or will wait, have the outcome."""
        self.outcome = outcome
        for future in self.waiting:
            if future.done():
                continue
            if isinstance(outcome, ProxyError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


class ReadBudget:
    """How many reads an account may cost: a token bucket that gives way to 429s and outages.

    `rate` is in reads a second. A fifth of it, at least one, may come at once after a rest.
    """

    def __init__(self, rate: float, now: float) -> None:
        self._full = rate
        self._part = self.share = 1.0  # after 429s, and of this replica
        self._burst = self._tokens = max(1.0, rate / 5)
        self._seen = self.paused_until = now
        self.failures = 0  # reads in a row that an outage failed; each answer sets it back

    @property
    def rate(self) -> float:
        """Reads a second at present."""
        return self._full * self._part * self.share

    def ready_at(self, now: float) -> float:
        """When the next read may start: `now` or later."""
        passed, self._seen = max(now - self._seen, 0.0), now
        self._tokens = min(self._tokens + passed * self.rate, self._burst)
        if now > self.paused_until:
            self._part = min(self._part + 0.05 * passed, 1.0)
        missing = 1.0 - self._tokens
        return max(now + missing / self.rate if missing > 1e-9 else now, self.paused_until)

    def take(self, now: float) -> None:
        """A read starts. It may start before its time; the next ones then start later."""
        self.ready_at(now)
        self._tokens = max(self._tokens - 1.0, -self._full)

    def failed(self, error: ProxyError, started: float, now: float) -> None:
        """A read that began at `started` failed. Go slower for a while after a 429; pause, longer each time, in an outage."""
        first = started >= self.paused_until  # of the reads that were under way together
        if isinstance(error, RateLimited):
            if first:
                self._part = max(self._part / 2, 0.05)
            self.paused_until = max(self.paused_until, now + (error.retry_after or 1.0))
        elif error.code == "narrative_unavailable" and first:
            self.paused_until = now + min(0.1 * 2**self.failures, 5.0)
            self.failures += 1


class ListCursor:
    """Where the last read of `GET /jobs?state=…&order_by=updated_at_desc` ended, and how much to ask for next.

    The cursor is the ids of the last read, so it needs no clock, and equal or missing times and other parties' jobs do no harm. Pages
    reach a little beyond it, which finds records that were listed late.
    """

    def __init__(self, state: str) -> None:
        self.state = state
        self.running = False
        self.reads = self.failures = 0  # answered ones, other replicas' among them; and failed ones in a row
        self.started = self._read_at = -math.inf
        self.known: Collection[str] = frozenset()  # ids of the jobs that the last read showed
        self._seen: set[str] = set()
        self._record_bytes = self._expected = 0.0
        self._pages_left = 0

    @property
    def hopeless(self) -> bool:
        """Whether so many reads in a row failed that it is not to be relied on."""
        return self.failures >= 3

    def due(self, gap: float) -> float:
        """Loop time of the next read when reads are `gap` seconds apart, more after failures."""
        return self.started + gap * (1 << min(self.failures, 5))

    def start(self, now: float, gap: float = 0.0) -> None:
        """A read starts. One that starts a little late does not delay the ones after it."""
        self.started = self.started + gap if now - self.started < 2 * gap else now
        self.running = True

    def first_page(self, now: float) -> int:
        """How many records to ask for. Further pages are few, but after an outage, which leaves much to catch up with."""
        if now - self._read_at > 300.0:  # a cursor that old means nothing any more
            self.known = frozenset()
        self._seen = set()
        self._pages_left = 4 if now - self._read_at < 2.0 else 20
        return self._fitting(20 + int(2 * self._expected) if self.known else 100, _PAGE_BYTES)

    def next_page(self, ids: Collection[str], records: int, asked: int, size: int = 0) -> int:
        """How many records to ask for next, 0 when no later page can hold ends not shown yet.

        Of the page just read: the `ids` of its jobs, how many `records` it held and was `asked` for, and its `size` in bytes.
        """
        if records:
            self._record_bytes += (0.3 if self._record_bytes else 1.0) * (size / records - self._record_bytes)
        self._seen.update(ids)
        self._pages_left -= 1
        more = bool(self.known) and self.misses(ids) and records >= asked and self._pages_left > 0
        return self._fitting(500, 8 * _PAGE_BYTES) if more else 0

    def end(self, now: float) -> None:
        """The read is over."""
        new = len(self._seen.difference(self.known)) if self.known else 0
        self._expected = max(new, 0.8 * self._expected)
        self.answered(self._seen, now)

    def misses(self, ids: Collection[str]) -> bool:
        """Whether a page, or another replica's read, that showed these jobs leaves a gap after what is known here."""
        return bool(self.known and ids) and not any(job_id in self.known for job_id in ids)

    def answered(self, ids: Collection[str], now: float) -> None:
        """A read, here or by another replica, showed these jobs."""
        self.known, self._read_at = ids, now
        self.reads += 1
        self.failures = 0

    def _fitting(self, wanted: int, most_bytes: int) -> int:
        fitting = int(most_bytes / self._record_bytes) if self._record_bytes else wanted
        return max(min(wanted, fitting, 500), 1)


class Reliability:
    """Whether a source shows the ends that other sources noticed first. Each end counts for a fifth of the score.

    An end may still be shown for `grace` seconds after another source noticed it.
    """

    def __init__(self, *, reliable: bool, grace: float) -> None:
        self.reliable = reliable
        self._score = float(reliable)
        self._grace = grace
        self._owed: dict[str, tuple[float, ListCursor | None, int]] = {}

    def count(self, *, shown: bool) -> None:
        """It showed an end, or missed one."""
        self._score += 0.2 * (shown - self._score)
        self.reliable = self._score > (0.6 if self.reliable else 0.9)

    def owe(self, job_id: str, now: float, cursor: ListCursor | None = None) -> None:
        """Another source noticed an end first. Two more reads of a list must pass before it counts as missed."""
        if len(self._owed) < 1_000:
            self._owed[job_id] = (now + self._grace, cursor, cursor.reads + 2 if cursor else 0)

    def shown(self, job_id: str) -> None:
        """It showed an end that may be known already."""
        if self._owed.pop(job_id, None) is not None:
            self.count(shown=True)

    def settle(self, now: float, *, followed: bool = True) -> None:
        """Count what was owed for too long as missed; forget it if the source was not followed closely."""
        if not followed:
            self._owed.clear()
        while self._owed:
            job_id, (until, cursor, reads) = next(iter(self._owed.items()))
            if now < until or (cursor is not None and cursor.reads < reads):
                return
            del self._owed[job_id]
            self.count(shown=False)


@dataclass(slots=True)
class Table:
    """One account's jobs in flight and its lists, in the orders in which they are read; and what decides between them.

    Args:
        jobs: by id; first those that were submitted or read longest ago.
        urgent: a heap by time. Entries that differ from their job's `urgent_at` are void.
        sources: judge whether lists and webhooks show the ends that others noticed first; `reliable` is their last judgement.
        members: replicas that watch the account.
        usual: seconds that the last jobs took on average; `shortest` about the least of them.
        newest: when the last job was submitted.
        often: the lists are read so often that they should show each end; `closely`: and what the leader reads is heard here.
        has_webhooks: a webhook showed an end once.
        reading: reads of single jobs under way.
        single_at: when the next read of a single job is due, beside lists.
    """

    jobs: OrderedDict[str, WatchedJob] = field(default_factory=OrderedDict)
    urgent: list[tuple[float, int, WatchedJob]] = field(default_factory=list)
    lists: dict[str, ListCursor] = field(default_factory=lambda: {state: ListCursor(state.value) for state in ENDED})
    sources: dict[str, Reliability] = field(
        default_factory=lambda: {
            "list": Reliability(reliable=True, grace=1.0),
            "webhook": Reliability(reliable=False, grace=0.5),
        }
    )
    reliable: dict[str, bool] = field(default_factory=lambda: {"list": True, "webhook": False})
    has_webhooks: bool = False
    members: int = 1
    leads: bool = True
    reads_lists: bool = True
    usual: float = 3.0
    shortest: float | None = None
    newest: float = -math.inf
    often: bool = False
    closely: bool = False
    reading: int = 0
    single_at: float = -math.inf
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def hurry(self, job: WatchedJob, at: float) -> None:
        """Have a job read at `at`, outside the budget."""
        job.urgent_at = at
        heapq.heappush(self.urgent, (at, next(self._numbers), job))

    def drop(self, job: WatchedJob) -> bool:
        """The job is not in flight any more: it ended, or nobody waits for it. Returns whether it was."""
        if self.jobs.get(job.id) is not job:
            return False
        job.urgent_at = None
        del self.jobs[job.id]
        if not self.jobs:
            self.urgent.clear()
        return True

    def ended(self, job_id: str, state: JobState, source: str, took: float, now: float) -> None:
        """An end was first noticed by `source`, of a job that took so many seconds."""
        self.usual += 0.3 * (max(took, 0.0) - self.usual)
        shortest = took if self.shortest is None else min(took, self.shortest + 0.05 * (took - self.shortest))
        self.shortest = max(shortest, 0.0)
        self.has_webhooks |= source == "webhook"
        if source in self.sources:
            self.sources[source].count(shown=True)
        if self.closely and source != "list":
            self.sources["list"].owe(job_id, now, self.lists[state])
        if self.has_webhooks and source != "webhook":
            self.sources["webhook"].owe(job_id, now)

    def update(self, membership: Membership, now: float, *, hears: bool) -> list[tuple[str, bool]]:
        """Take over what is known of the replicas, and judge the sources. Returns those that became reliable or unreliable.

        `hears` says whether the leader published something a moment ago.
        """
        self.members, self.leads = membership.members, membership.leads
        self.reads_lists = self.leads or not hears
        self.closely = (self.leads or hears) and self.often
        self.sources["list"].settle(now, followed=self.closely)
        self.sources["webhook"].settle(now)
        changed, hopeless = [], False
        for cursor in self.lists.values():
            hopeless = hopeless or cursor.hopeless
        for name, source in self.sources.items():
            reliable = source.reliable and not (name == "list" and hopeless)
            if reliable != self.reliable[name]:
                self.reliable[name] = reliable
                changed.append((name, reliable))
        return changed

    def first_read_at(self, job: WatchedJob, now: float, rate: float) -> float | None:
        """When a new job is first read, outside the budget; None where lists or webhooks will show its end.

        A lone job is read after half the time that the shortest of the last ones took, but soon, since it may fail however long others
        take. Of many, each is read as soon as it is submitted where they usually end within a tenth of a second.
        """
        if self.has_webhooks:
            return None
        if not self.shares(now, rate):
            return max(now, job.started + min((self.shortest or 0.0) / 2, 0.3))
        return now if self.usual <= 0.1 else None

    def shares(self, now: float, rate: float) -> Shares:
        """The part of the budget that each list gets; none where each job can be read often enough."""
        if self.reliable["webhook"]:
            return _NOW_AND_THEN
        few = self.members == 1 and len(self.jobs) <= _FEW
        if few and (len(self.jobs) <= 1 or sum(1 / gap_at(now - job.started) for job in self.jobs.values()) <= rate):
            return {}
        return _OFTEN if self.reliable["list"] else _LESS_OFTEN


@dataclass(slots=True)
class Polls:
    """What to read now, and the loop time to ask again, unless something happens before."""

    lists: list[ListCursor] = field(default_factory=list)
    jobs: list[WatchedJob] = field(default_factory=list)
    again_at: float = math.inf


def next_polls(table: Table, now: float, budget: ReadBudget) -> Polls:
    """What to read now. Notes in the table, and takes from the budget, what it returns. It never scans all jobs."""
    if budget.paused_until > now:
        return Polls(again_at=budget.paused_until)
    polls = Polls()
    while table.urgent and table.reading < _MOST_READS:
        at, _, job = table.urgent[0]
        if at > now:
            polls.again_at = at
            break
        heapq.heappop(table.urgent)
        if job.urgent_at == at and not job.reading:  # else it left, was hurried again, or will be when its read ends
            _start(table, job, now, polls)
    shares = table.shares(now, budget.rate)
    table.often = bool(shares) and shares is not _NOW_AND_THEN
    if shares and table.reads_lists and (table.jobs or (table.leads and table.members > 1)):
        # Lists are read less often when all jobs are old, unless for other replicas' jobs.
        longest = gap_at(now - table.newest) if table.members == 1 else 0.0
        stretch = max(1.0, longest * budget.rate * shares[JobState.COMPLETED])
        for state, share in shares.items():
            cursor, gap = table.lists[state], stretch / (budget.rate * share)
            at = math.inf if cursor.running else max(cursor.due(gap), budget.ready_at(now))
            if at <= now:
                cursor.start(now, gap)
                budget.take(now)
                polls.lists.append(cursor)
            else:
                polls.again_at = min(polls.again_at, at)
    if table.jobs:
        _poll_jobs(table, shares, now, budget, polls)
    return polls


def gap_at(age: float) -> float:
    """Seconds between two reads that show the end of a job of that age within 2 % of it, or 150 ms."""
    return min(max(0.11, 0.015 * age), 2.0)


def _poll_jobs(table: Table, shares: Shares, now: float, budget: ReadBudget, polls: Polls) -> None:
    """Add single jobs, as far as the lists leave something of the budget: those read longest ago first."""
    each = not shares or shares is _LESS_OFTEN
    part = _PLANNED - sum(shares.values())
    # What the lists or webhooks may have left out gets a fifth of the budget at most.
    rate = budget.rate * (part if each else min(part, 0.2)) / (table.members if table.leads else 1)
    for job in list(itertools.islice(table.jobs.values(), _FEW + _MOST_READS)):
        if job.reading or job.urgent_at is not None:
            continue
        if table.reading >= _MOST_READS:
            return
        gap = gap_at(now - job.started) if each else 1.5 * table.usual + 1.0
        at = max(job.read_at + gap, job.started + gap, budget.ready_at(now), table.single_at if shares else now)
        if at <= now:
            budget.take(now)
            table.single_at = max(table.single_at, now - 0.05) + 1 / rate
            _start(table, job, now, polls)
        else:
            polls.again_at = min(polls.again_at, at)
            if shares:
                return


def _start(table: Table, job: WatchedJob, now: float, polls: Polls) -> None:
    job.urgent_at, job.reading, job.read_at = None, True, now
    table.reading += 1
    table.jobs.move_to_end(job.id)
    polls.jobs.append(job)
