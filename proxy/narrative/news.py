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
from types import TracebackType
from typing import Final, Self

from proxy.narrative.cadence import Cadence
from proxy.narrative.events import Ended, Observer, SourceTrusted
from proxy.narrative.ledger import Entry, Ledger, says_all
from proxy.narrative.peers import TOPIC, Part, Shown
from proxy.narrative.reader import WatchOptions
from proxy.narrative.trust import Trust
from proxy.narrative.watch import Watch
from proxy.state import Standing, Store
from proxy.wire.narrative import Job

log = logging.getLogger(__name__)

_MOST_IDLE_WATCHES: Final = 256
_MOST_EARLY: Final = 2_000
_PARTS_EVERY: Final = 1.0
_PUSH_PATIENCE: Final = 3.0
_PUSH_START: Final = 0.8
_PUSH_SPACING: Final = 0.1


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
        self._push_expected = False
        self._push = Trust(
            _PUSH_START,
            _PUSH_PATIENCE,
            _PUSH_SPACING,
            on_change=lambda reliable: observe(SourceTrusted("webhook", reliable)),
        )
        self._watches: dict[str, Watch] = {}
        self._parts: asyncio.Task[None] | None = None
        self._early: OrderedDict[str, None] = OrderedDict()

    async def __aenter__(self) -> Self:
        if self._store.shared:
            self._store.listen(TOPIC, self._told)
            self._parts = asyncio.create_task(self._keep_parts())
            self._parts.add_done_callback(_log_failure)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parts is not None:
            self._parts.cancel()
            await asyncio.wait({self._parts})
        await asyncio.gather(*(watch.aclose() for watch in self._watches.values()))

    @property
    def standings(self) -> list[Standing]:
        """This replica's part in following each of the accounts that it follows."""
        return [watch.standing for watch in self._watches.values() if not watch.idle]

    # ------------------------------------------------------------ the ledger's listener

    def added(self, entry: Entry) -> None:
        watch = self._watch(entry)
        watch.add(entry)
        if entry.job.ended:
            self.tell(entry.job, "submit")
        elif self._early.pop(entry.job.id, "") is None:
            watch.hint(entry, "webhook")

    def ended(self, entry: Entry, source: str) -> None:
        now = asyncio.get_running_loop().time()
        job = entry.job
        seconds = now - entry.started
        self._cadence.learn(entry.model, _duration(job, seconds))
        if source == "webhook":
            self._push.kept(now)
        elif self._push_expected:
            self._push.owe(job.id, now)
        watch = self._watch(entry)
        watch.ended(entry, source, now)
        watch.drop(entry)
        self._observe(Ended(job.id, entry.model, job.state, source, seconds, _delay(job)))

    def left(self, entry: Entry) -> None:
        self._watch(entry).drop(entry)

    # ------------------------------------------------------------ pushed news

    def expect_push(self) -> None:
        """Webhooks are subscribed to: from now on they owe word of every end."""
        self._push_expected = True

    def tell(self, news: Job | str, source: str) -> None:
        """Word, from a source outside, that a job ended or may have ended.

        Args:
            news: the job's record, or its id. It is read when the record lacks what a caller needs.
            source: webhook or submit.
        """
        job_id = news if isinstance(news, str) else news.id
        entry = self._ledger.get(job_id)
        if entry is None or entry.end.done():
            self._push.showed(job_id)
            if entry is None:
                self._remember(job_id)
        elif isinstance(news, Job) and news.ended and says_all(news):
            self._ledger.report(news, source)
        elif isinstance(news, str) or news.ended:
            self._watch(entry).hint(entry, source)

    def _remember(self, job_id: str) -> None:
        """A delivery can overtake the answer to the submission."""
        self._early[job_id] = None
        if len(self._early) > _MOST_EARLY:
            self._early.popitem(last=False)

    # ------------------------------------------------------------ among replicas

    async def _keep_parts(self) -> None:
        while True:
            for watch in list(self._watches.values()):
                await watch.keep_part()
            await asyncio.sleep(_PARTS_EVERY)

    def _told(self, message: str) -> None:
        shown = Shown.of(message)
        if shown and (watch := self._watches.get(shown.account)):
            watch.told(shown)

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
                self._push,
                self._observe,
            )
        return watch

    def _make_room(self) -> None:
        if len(self._watches) >= _MOST_IDLE_WATCHES:
            idle = next((account for account, watch in self._watches.items() if watch.idle), None)
            if idle is not None:
                del self._watches[idle]


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("agreeing with other replicas failed", exc_info=error)


def _duration(job: Job, seconds: float) -> float:
    """How long Narrative says it took, else how long it took us to notice."""
    if job.created_at is None or job.ended_at is None:
        return seconds
    told = (job.ended_at - job.created_at).total_seconds()
    return told if told >= 0 else seconds


def _delay(job: Job) -> float | None:
    ended = job.ended_at or job.updated_at
    return None if ended is None else max(time.time() - ended.timestamp(), 0.0)
