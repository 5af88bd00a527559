"""How the end of a job is noticed: several sources, one ledger, one outcome.

| source | what it costs | its weakness |
|---|---|---|
| looks (`GET /jobs/{id}`) | a read for each look at each job | dear for many jobs |
| feed (`GET /jobs?state=…`) | a read for some ends | can lag, leave out, lack results |
| hints (webhooks) | nothing | can be lost, late, twice, forged |
| sweep (looks at late jobs) | a little | slow |

Of the replicas that share a store one reads the feed of an account, and tells the others (`peers.py`).
`pace.py` says who is used when, `watch.py` does it, `trust.py` notices who cannot be relied on.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from proxy.backends.narrative.cadence import Cadence
from proxy.backends.narrative.client import read_record
from proxy.backends.narrative.events import Ended, Observer
from proxy.backends.narrative.feed import record_id
from proxy.backends.narrative.ledger import Entry, Ledger, says_all
from proxy.backends.narrative.peers import END_TOPIC, FEED_TOPIC, Part, Shown, record_of, words_of_end
from proxy.backends.narrative.reader import WatchOptions
from proxy.backends.narrative.types import Job, JsonObject
from proxy.backends.narrative.watch import Watch
from proxy.storage import Membership, Store

log = logging.getLogger(__name__)

_MOST_IDLE_WATCHES: Final = 256
_MOST_EARLY: Final = 2_000
_MOST_UNTOLD: Final = 1_000
"""Ends that wait to be told to other replicas; these notice the others by their own means."""
_PARTS_EVERY: Final = 1.0
_RESTART: Final = 1.0
"""Seconds until work that failed is begun again."""


class News:
    """Brings news of the ledger's jobs. An async context manager, and the ledger's listener.

    Args:
        store: where replicas agree on who reads, and tell each other what they read.
    """

    def __init__(self, ledger: Ledger, options: WatchOptions, observe: Observer, store: Store) -> None:
        self._ledger = ledger
        self._store = store
        self._options = options
        self._observe = observe
        self._cadence = Cadence()
        self._pushed: set[str] = set()
        self._watches: OrderedDict[str, Watch] = OrderedDict()
        self._outbox: asyncio.Queue[str] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._early: OrderedDict[str, None] = OrderedDict()

    async def __aenter__(self) -> Self:
        if self._store.shared:
            self._outbox = asyncio.Queue(_MOST_UNTOLD)
            self._store.subscribe(FEED_TOPIC, self._told_feed)
            self._store.subscribe(END_TOPIC, self._told_end)
            self._keep_up(self._keep_parts)
            self._keep_up(partial(self._tell_ends, self._outbox))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(watch.aclose() for watch in self._watches.values()))

    @property
    def standings(self) -> list[Membership]:
        """This replica's part in following each of the accounts that it follows."""
        return [watch.standing for watch in self._watches.values() if not watch.idle]

    # ------------------------------------------------------------ the ledger's listener

    def added(self, entry: Entry) -> None:
        watch = self._watch(entry)
        watch.add(entry)
        if entry.job.ended:
            self._bring(entry, entry.job, "submit")
        elif entry.job.id in self._early:
            del self._early[entry.job.id]
            watch.hint(entry, "webhook")

    def ended(self, entry: Entry, source: str) -> None:
        now = asyncio.get_running_loop().time()
        job = entry.job
        seconds = now - entry.started
        self._cadence.learn(entry.model, _duration(job, seconds))
        watch = self._watch(entry)
        if source == "webhook":
            watch.push.kept(now)
        elif entry.client.account in self._pushed:
            watch.push.owe(job.id, now)
        watch.ended(entry, source, now)
        watch.drop(entry)
        self._observe(Ended(job.id, entry.model, job.state, source, seconds, _delay(job)))

    def left(self, entry: Entry) -> None:
        if watch := self._watches.get(entry.client.account):
            watch.drop(entry)

    # ------------------------------------------------------------ pushed news

    def expect_push(self, account: str) -> None:
        """Webhooks of an account are subscribed to: from now on they owe word of every end."""
        self._pushed.add(account)

    def deliver(self, record: JsonObject) -> None:
        """A webhook says that a job ended, which is followed here, by other replicas, or both."""
        self._take(record)
        if self._outbox is not None and not self._outbox.full():
            self._outbox.put_nowait(words_of_end(record))

    def _take(self, record: JsonObject) -> None:
        """Take in what a webhook brought."""
        job_id = str(record_id(record))
        entry = self._ledger.get(job_id)
        if entry is not None and not entry.end.done():
            self._bring(entry, read_record(record), "webhook")
            return
        for account in self._pushed & self._watches.keys():
            self._watches[account].push.showed(job_id)
        if entry is None:
            self._remember(job_id)

    def _bring(self, entry: Entry, job: Job | None, source: str) -> None:
        """Report an end, or have the job read when its record lacks what a caller needs."""
        if job is not None and job.ended and says_all(job):
            self._ledger.report(job, source)
        else:
            self._watch(entry).hint(entry, source)

    def _remember(self, job_id: str) -> None:
        """A delivery can overtake the answer to the submission."""
        self._early[job_id] = None
        if len(self._early) > _MOST_EARLY:
            self._early.popitem(last=False)

    # ------------------------------------------------------------ among replicas

    async def _keep_parts(self) -> None:
        while True:
            await asyncio.gather(*(watch.keep_part() for watch in self._watches.values()))
            await asyncio.sleep(_PARTS_EVERY)

    def _keep_up(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have some work done for good: should it fail, it is begun again."""
        task = asyncio.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(partial(self._stopped, work))

    def _stopped(self, work: Callable[[], Coroutine[Any, Any, None]], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("agreeing with other replicas failed; starting again", exc_info=error)
            asyncio.get_running_loop().call_later(_RESTART, self._keep_up, work)

    async def _tell_ends(self, outbox: asyncio.Queue[str]) -> None:
        while True:
            await self._store.publish(END_TOPIC, await outbox.get())

    def _told_feed(self, words: str) -> None:
        shown = Shown.of(words)
        if shown and (watch := self._watches.get(shown.account)):
            watch.told(shown)

    def _told_end(self, words: str) -> None:
        if record := record_of(words):
            self._take(record)

    # ------------------------------------------------------------ watches

    def _watch(self, entry: Entry) -> Watch:
        """The watch of the entry's account. Those without jobs are kept for a while: they know their sources."""
        account = entry.client.account
        watch = self._watches.get(account)
        if watch is None:
            self._make_room()
            watch = self._watches[account] = Watch(
                self._ledger,
                entry.client,
                Part(self._store, account),
                self._cadence,
                self._options,
                self._observe,
            )
        self._watches.move_to_end(account)
        return watch

    def _make_room(self) -> None:
        if len(self._watches) >= _MOST_IDLE_WATCHES:
            account = next((account for account, watch in self._watches.items() if watch.forgettable), None)
            if account is not None:
                del self._watches[account]


def _duration(job: Job, seconds: float) -> float:
    """How long Narrative says it took, else how long it took us to notice."""
    if job.created_at is None or job.ended_at is None:
        return seconds
    told = (job.ended_at - job.created_at).total_seconds()
    return told if told >= 0 else seconds


def _delay(job: Job) -> float | None:
    ended = job.ended_at or job.updated_at
    return None if ended is None else max(time.time() - ended.timestamp(), 0.0)
