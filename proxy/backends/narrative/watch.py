"""Follows the jobs of one account: a single loop decides what to read next, reads run in tasks of their own."""

import asyncio
import logging
import math
from collections import Counter, deque
from collections.abc import Coroutine
from typing import Any, Final

from proxy.backends.narrative.agenda import Agenda
from proxy.backends.narrative.budget import Budget
from proxy.backends.narrative.cadence import Cadence
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import Observer, SourceTrusted
from proxy.backends.narrative.feed import STATES, FeedCursor
from proxy.backends.narrative.ledger import Entry, Ledger, Phase
from proxy.backends.narrative.pace import Load, Mode, pace
from proxy.backends.narrative.peers import Part, Shown
from proxy.backends.narrative.reader import Reader, WatchOptions
from proxy.backends.narrative.trust import Trust
from proxy.storage import ALONE, Membership

log = logging.getLogger(__name__)

_MOST_LOOKS: Final = 16
"""Looks at one time; as many again may follow hints."""
_MOST_HINTS_FOLLOWED: Final = 5
_LINGER: Final = 10.0
"""Seconds without a job until the one who leads leaves it to others."""
_DOUBT: Final = 2.5
"""Seconds without word of the one who leads until a replica looks at its jobs itself; there is one a second at least."""
_SELF_HELP: Final = 6.0
"""Seconds until it reads the feed itself, with its share of the budget."""
_PUSH_PATIENCE: Final = 3.0
_PUSH_START: Final = 0.8
_PUSH_SPACING: Final = 0.1
_RESTART: Final = 1.0
"""Seconds until a loop that failed is started again."""


class Watch:
    """One account's jobs in flight.

    Args:
        ledger: where news goes.
        client: lists the account's jobs, without repeats.
        part: this replica's part in reading the feed.
        cadence: what is known of durations; shared by all watches.
        observe: told when the feed or webhooks are demoted or promoted.

    `push` is the trust in the account's webhooks.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        ledger: Ledger,
        client: NarrativeClient,
        part: Part,
        cadence: Cadence,
        options: WatchOptions,
        observe: Observer,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._part = part
        self._cadence = cadence
        self._options = options
        self.push = Trust(
            _PUSH_START,
            _PUSH_PATIENCE,
            _PUSH_SPACING,
            on_change=lambda reliable: observe(SourceTrusted("webhook", reliable)),
        )
        now = self._loop.time()
        self._budget = Budget(options.reads_per_second, max(1.0, options.reads_per_second / 5), now)
        self._reader = Reader(ledger, client, self._budget, options, self.hint)
        self._feeds = {
            str(state): FeedCursor(state, lambda reliable: observe(SourceTrusted("feed", reliable))) for state in STATES
        }
        self._entries: dict[str, Entry] = {}
        self._planes: Counter[str | None] = Counter()
        self._phases: Counter[Phase] = Counter()
        self._agenda = Agenda()
        self._looks: deque[Entry] = deque()
        self._hinted: deque[Entry] = deque()
        self._looking = self._following = 0
        self._sweep_at = 0.0
        self._last_news = self._last_left = now
        self._pace = pace(Load(0, 0, 0.0, feed_reliable=True, push_reliable=False), options.reads_per_second)
        self._wake = asyncio.Event()
        self._reads: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """There is nothing to read: neither for jobs here nor for other replicas."""
        return not self._entries and not self.standing.leads_others

    @property
    def forgettable(self) -> bool:
        """It is idle, and has no part among replicas."""
        return self.idle and not self._part.taken

    @property
    def standing(self) -> Membership:
        return self._part.standing

    # ------------------------------------------------------------ told by the ledger

    def add(self, entry: Entry) -> None:
        if not self._entries:
            self._last_news = self._loop.time()
        self._entries[entry.job.id] = entry
        self._planes[entry.job.data_plane_id] += 1
        self._phases[entry.phase] += 1
        if self._ripens(entry, self._loop.time()):
            self._looks.append(entry)  # the feed may have shown its end before it was known here
            self._wake.set()
        self._begin()

    def drop(self, entry: Entry) -> None:
        if self._entries.pop(entry.job.id, None) is None:
            return
        self._planes[entry.job.data_plane_id] -= 1
        if not self._planes[entry.job.data_plane_id]:
            del self._planes[entry.job.data_plane_id]
        self._enter(entry, Phase.GONE)
        self._last_left = self._loop.time()
        if not self._entries:
            self._agenda.clear()
            self._looks.clear()
            self._hinted.clear()
            self._wake.set()

    def ended(self, entry: Entry, source: str, now: float) -> None:
        """The end of one of its jobs was noticed; keep the records of its feeds."""
        self._last_news = now
        feed = self._feeds.get(entry.job.state)
        if feed is None:
            return
        if source == "feed":
            feed.trust.kept(feed.reads)
        elif self._pace.mode in {Mode.FEED, Mode.LOOKS_AND_FEED}:
            feed.trust.owe(entry.job.id, feed.reads)

    def hint(self, entry: Entry, source: str) -> None:
        """Some source says that a job ended, without saying how: read it now."""
        if entry.hinted_by is None and entry.phase is not Phase.GONE:
            entry.hinted_by = source
            entry.look_at = math.inf
            self._hinted.append(entry)
            self._wake.set()

    # ------------------------------------------------------------ among replicas

    async def keep_part(self) -> None:
        """To be called every second: take part in reading the feed while jobs are followed here, and for a while longer as the one who
        leads, so that this does not change with every job. Who cannot read lets another lead."""
        now = self._loop.time()
        lingers = self.standing.leads and now - self._last_left < _LINGER
        if lingers or not self.idle:
            hopeless = any(feed.hopeless(now) for feed in self._feeds.values())
            await self._part.take(may_lead=self.standing.members == 1 or not hopeless)
        else:
            await self._part.give_up()
        self._begin()
        self._wake.set()

    def told(self, shown: Shown) -> None:
        """Another replica read a feed, or just lives."""
        if not self.standing.leads:
            self._part.told()
        feed = self._feeds.get(shown.state)
        if feed is None:
            return
        self._reader.take_in(shown.records, feed)
        if self.standing.leads or feed.running:
            return
        now = self._loop.time()
        if not feed.misses(shown.ids):
            feed.read_elsewhere(shown.ids, now)
        elif feed.rested(now):
            self._begin_feed(feed)  # ahead of all looks, which it may make needless

    async def aclose(self) -> None:
        """Stop reading."""
        tasks = [*self._reads, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._part.give_up()

    # ------------------------------------------------------------ the loop

    async def _run(self) -> None:
        while not self.idle:
            next_at = self._step(self._loop.time())
            self._wake.clear()
            wait = None if math.isinf(next_at) else max(next_at - self._loop.time(), 0.0)
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _begin(self) -> None:
        if not self.idle and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(self._stopped)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.error("watching jobs failed; starting again", exc_info=error)
            self._loop.call_later(_RESTART, self._begin)

    def _step(self, now: float) -> float:
        """Start every read that is due; returns when to come again, infinity for not before something happens."""
        due = self._agenda.due(now)
        ripe = [entry for entry in due if entry.hinted_by is not None or self._ripens(entry, now)]
        self._set_pace(now)
        for entry in ripe:
            self._enqueue(entry, now)
        return min(self._follow_hints(now), self._read_feeds(now), self._take_looks(now), self._agenda.next_at)

    def _ripens(self, entry: Entry, now: float) -> bool:
        """Bring the phase of an entry up to date; returns whether it can be done by now."""
        expected = self._cadence.expect(entry.model)
        age = now - entry.started
        if age < expected.earliest:
            self._plan(entry, entry.started + expected.earliest)
            return False
        self._enter(entry, Phase.LATE if age >= expected.late else Phase.ACTIVE)
        return True

    def _set_pace(self, now: float) -> None:
        self.push.settle(now)
        late = self._phases[Phase.LATE]
        self._budget.share = 1.0 if self.standing.leads else 1 / self.standing.members
        informed = self._part.untold < _DOUBT
        helps_itself = self._part.untold >= _SELF_HELP
        load = Load(
            active=self._phases[Phase.ACTIVE] + late,
            late=late,
            silence=now - self._last_news,
            feed_reliable=informed and all(feed.reliable for feed in self._feeds.values()),
            push_reliable=self.push.reliable,
            standing=ALONE if helps_itself else self.standing,
        )
        before, self._pace = self._pace, pace(load, self._budget.rate if helps_itself else self._budget.whole)
        if self._pace.looks_at_all and not before.looks_at_all:
            self._look_at_all(now)
        for feed in self._feeds.values():
            if self._pace.mode in {Mode.PUSH, Mode.REST, Mode.LOOKS} or not informed:
                feed.trust.forgive()
            if self._pace.mode in {Mode.REST, Mode.LOOKS} and self.standing.leads:
                feed.forget()

    def _look_at_all(self, now: float) -> None:
        """Spread the looks at all jobs that can be done over one gap."""
        self._looks.clear()
        entries = [
            entry
            for entry in self._entries.values()
            if entry.phase in {Phase.ACTIVE, Phase.LATE} and entry.hinted_by is None
        ]
        for place, entry in enumerate(entries):
            self._plan(entry, now + self._pace.look_gap * place / len(entries))

    def _enqueue(self, entry: Entry, now: float) -> None:
        if entry.hinted_by is not None:
            self._hinted.append(entry)
        elif self._pace.looks_at_all or entry.phase is Phase.LATE:
            self._looks.append(entry)
        else:
            self._plan_next(entry, now)

    def _follow_hints(self, now: float) -> float:
        ready = self._budget.paused_until(now)
        while self._hinted and ready <= now and self._following < _MOST_LOOKS:
            entry = self._hinted.popleft()
            if entry.phase is not Phase.GONE:
                self._following += 1
                self._start(self._follow(entry))
        return ready if self._hinted and ready > now else math.inf

    def _read_feeds(self, now: float) -> float:
        times = [math.inf]
        for feed in self._feeds.values():
            gap = self._pace.feed_gaps.get(feed.state)
            if gap is None or feed.running:
                continue
            at = max(feed.due(gap), self._budget.ready_at(now))
            if at > now:
                times.append(at)
            else:
                self._begin_feed(feed, gap)
        return min(times)

    def _begin_feed(self, feed: FeedCursor, gap: float = 0.0) -> None:
        now = self._loop.time()
        self._budget.take(now)
        feed.start(now, gap)
        self._start(self._read_feed(feed))

    def _take_looks(self, now: float) -> float:
        while self._looks and self._looking < _MOST_LOOKS:
            entry = self._looks.popleft()
            if entry.phase is Phase.GONE:
                continue
            at = self._budget.ready_at(now)
            if not self._pace.looks_at_all:
                at = max(at, self._sweep_at)
            if at > now:
                self._looks.appendleft(entry)
                return at
            self._budget.take(now)
            self._sweep_at = now + 1 / self._pace.sweep_rate
            self._looking += 1
            self._start(self._look(entry))
        return math.inf

    # ------------------------------------------------------------ reads

    def _start(self, read: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(read)
        self._reads.add(task)
        task.add_done_callback(self._ended_read)

    def _ended_read(self, task: asyncio.Task[None]) -> None:
        self._reads.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("reading jobs failed", exc_info=error)

    async def _read_feed(self, feed: FeedCursor) -> None:
        """Read a feed; with other replicas, whose jobs may be in other data planes, that of all of them."""
        serves = self.standing.leads_others
        plane = next(iter(self._planes)) if len(self._planes) == 1 and self.standing == ALONE else None
        known = feed.shown
        records = await self._reader.feed(feed, plane, glance=self._pace.mode is Mode.PUSH)
        if serves and records is not None:
            await self._part.tell(feed.state, records, known)

    async def _look(self, entry: Entry) -> None:
        source = "look" if self._pace.looks_at_all else "sweep"
        try:
            await self._reader.job(entry, source)
        finally:
            self._looking -= 1
            if entry.phase is not Phase.GONE and entry.hinted_by is None:
                self._plan_next(entry, self._loop.time())

    async def _follow(self, entry: Entry) -> None:
        """Read a job that is said to have ended. The listing can be ahead of the job, so it is asked a few times."""
        try:
            await self._reader.job(entry, entry.hinted_by or "look")
        finally:
            self._following -= 1
            if entry.phase is not Phase.GONE:
                entry.hints_followed += 1
                if entry.hints_followed >= _MOST_HINTS_FOLLOWED:
                    entry.hinted_by, entry.hints_followed = None, 0
                self._plan(entry, self._loop.time() + 0.1 * 2**entry.hints_followed)

    # ------------------------------------------------------------ times

    def _plan_next(self, entry: Entry, now: float) -> None:
        age = now - entry.started
        if self._pace.looks_at_all:
            beyond = age - self._cadence.expect(entry.model).late
            gap = max(self._pace.look_gap, min(0.05 * beyond, self._options.longest_outlier_gap))
            self._plan(entry, now + gap)
        elif entry.phase is Phase.LATE:
            self._plan(entry, now + min(max(0.5 * age, 2.0), 30.0))
        else:
            self._plan(entry, max(entry.started + self._cadence.expect(entry.model).late, now))

    def _plan(self, entry: Entry, at: float) -> None:
        if at < self._agenda.next_at:
            self._wake.set()
        self._agenda.plan(entry, at)
        self._agenda.tidy(len(self._entries))

    def _enter(self, entry: Entry, phase: Phase) -> None:
        self._phases[entry.phase] -= 1
        entry.phase = phase
        if phase is not Phase.GONE:
            self._phases[phase] += 1
