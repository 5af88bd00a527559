"""The one table of jobs in flight, and who waits for them.

Sources of news report here; whoever reports an end first decides, later reports of the same end change nothing.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.types import Job
from proxy.errors import ProxyError

UNCLAIMED: Final = 5.0
"""Seconds that a job is followed before anybody waits for it."""


class Phase(Enum):
    """How far a job is, as its age suggests."""

    WAITING = auto()
    """Too young to be done."""
    ACTIVE = auto()
    LATE = auto()
    """Older than jobs of its model become."""
    GONE = auto()
    """Ended, or nobody waits for it any more."""


@dataclass(slots=True, eq=False)
class Entry:
    """A job in flight.

    Args:
        job: the job as last seen.
        client: reads it, with the key it was submitted with, and without repeats: whoever reads has a schedule.
        model: its model, "" when unknown.
        started: loop time of its submission.
        deadline: loop time after which nobody waits for it.
        end: the ended job, or the error that ends the wait.
        on_left: called once when the entry leaves.
    """

    job: Job
    client: NarrativeClient
    model: str
    started: float
    deadline: float
    end: asyncio.Future[Job]
    on_left: Callable[[], None] | None = None
    waiters: int = 0
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)
    # What follows belongs to the watch that reads it.
    phase: Phase = Phase.WAITING
    look_at: float = 0.0
    hinted_by: str | None = None
    """The source that said it ended, without saying how."""
    hints_followed: int = 0
    refusals: int = 0
    """Looks in a row that Narrative answered with 401, 403 or 404."""


class Listener(Protocol):
    """Who follows the ledger."""

    def added(self, entry: Entry) -> None:
        """A job is in flight."""

    def ended(self, entry: Entry, source: str) -> None:
        """Its end was noticed."""

    def left(self, entry: Entry) -> None:
        """It is forgotten, ended or not."""


class _Nobody:
    def added(self, entry: Entry) -> None: ...

    def ended(self, entry: Entry, source: str) -> None: ...

    def left(self, entry: Entry) -> None: ...


class Ledger:
    """Jobs in flight by id. An entry leaves when its last waiter leaves, or soon when nobody ever came: its client has left."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self.listener: Listener = _Nobody()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        """The ids of the jobs in flight."""
        return iter(self._entries)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._entries

    def get(self, job_id: str) -> Entry | None:
        return self._entries.get(job_id)

    def open(  # noqa: PLR0913
        self,
        job: Job,
        client: NarrativeClient,
        *,
        deadline: float,
        model: str = "",
        sent: float | None = None,
        on_left: Callable[[], None] | None = None,
    ) -> Entry:
        """The entry of a job, made when there is none.

        Args:
            job: its record, as far as it is known.
            client: reads it.
            deadline: loop time after which nobody waits for it.
            model: its model.
            sent: loop time of its submission, for a job that does not say itself when it was created; now when None.
            on_left: called once, when the entry leaves; at once when there is one already.
        """
        entry = self._entries.get(job.id)
        if entry is not None:
            entry.deadline = max(entry.deadline, deadline)
            if on_left is not None:
                on_left()
            return entry
        loop = asyncio.get_running_loop()
        entry = Entry(
            job=job,
            client=client.without_repeats(),
            model=model,
            started=_started(job, loop.time() if sent is None else sent),
            deadline=deadline,
            end=loop.create_future(),
            on_left=on_left,
        )
        self._entries[job.id] = entry
        entry.expiry = loop.call_at(min(deadline, loop.time() + UNCLAIMED), self._expire, entry)
        self.listener.added(entry)
        return entry

    def close(self, entry: Entry) -> None:
        """Forget a job."""
        if self._entries.get(entry.job.id) is not entry:
            return
        del self._entries[entry.job.id]
        if entry.expiry is not None:
            entry.expiry.cancel()
        entry.end.cancel()
        self.listener.left(entry)
        if entry.on_left is not None:
            entry.on_left()

    def report(self, job: Job, source: str) -> bool:
        """News of a job. Returns whether this was the first word of its end."""
        entry = self._entries.get(job.id)
        if entry is None or entry.end.done() or not job.ended:
            return False
        entry.job = job
        entry.end.set_result(job)
        self.listener.ended(entry, source)
        return True

    def fail(self, entry: Entry, error: ProxyError) -> None:
        """End the wait for a job with an error."""
        if not entry.end.done():
            entry.end.set_exception(error)
            entry.end.exception()  # marks it as retrieved: an entry without waiters is no fault to log
            self.listener.left(entry)

    def fail_all(self, error: Callable[[Entry], ProxyError]) -> None:
        """End every wait with an error."""
        for entry in list(self._entries.values()):
            self.fail(entry, error(entry))

    def _expire(self, entry: Entry) -> None:
        if not entry.waiters:
            self.close(entry)
        elif (loop := asyncio.get_running_loop()).time() < entry.deadline:
            entry.expiry = loop.call_at(entry.deadline, self._expire, entry)


def _started(job: Job, sent: float) -> float:
    """Loop time at which a job was created, as far as anybody says."""
    if job.created_at is None:
        return sent
    return asyncio.get_running_loop().time() - max(time.time() - job.created_at.timestamp(), 0.0)


def says_all(job: Job) -> bool:
    """Whether an ended job's record holds what a caller needs; listings and deliveries may leave it out."""
    if job.state == "completed":
        return job.result is not None and job.result.structured_output is not None
    return job.state == "cancelled" or bool(job.failures)
