"""Submitting a job exactly once, although `POST /model-inference/run` takes no idempotency key.

Exactly one task carries a submission from the reservation in the store to the recorded job id, whatever becomes of its client.

| the submission | what follows |
|---|---|
| was answered with an id | done |
| was surely not taken (no connection, 429, 503) | retried by the client, within the deadline |
| was refused | the error |
| has an unknown outcome, and its tag is found | that job is adopted |
| has an unknown outcome, and the job is surely not there | submitted again, unless its client has left |
| has an unknown outcome, and nothing is sure | `narrative_submit_unknown`, or submitted again if so set |
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from proxy.backends.narrative.answers import DEFAULT_RETRY_AFTER, UNKNOWN_OUTCOME
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import Observer, Resubmitted, Submitted
from proxy.backends.narrative.lookup import TagLookup
from proxy.backends.narrative.reservations import SubmissionRecord
from proxy.backends.narrative.types import TAG_PREFIX, Job, RunRequest
from proxy.errors import IdempotencyConflict, Overloaded, ProxyError, UpstreamError

log = logging.getLogger(__name__)

_MOST_LOOKUPS: Final = 256
_CHECK_AGAIN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How lost answers are dealt with. Seconds."""

    lookups: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Pauses before each reading of the list of jobs. Their sum is how far the list may lag, and how late a submission may still
    take effect, before its job counts as not there."""
    attempts: int = 3
    """Submissions of one request at most."""
    in_doubt: Literal["error", "resubmit"] = "error"
    """What to do when nobody can tell whether the job exists: say so, or submit again and perhaps pay twice."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A slot's job.

    Args:
        job: as far as it is known: from this submission a pending one, or one that was found by its tag; from an earlier one only the id.
        form: how its request was put to the model.
        new: whether it was submitted, or found by its tag, for this caller; else it was submitted before, perhaps elsewhere.
    """

    job: Job
    form: str
    new: bool


@dataclass(slots=True, eq=False)
class Attempt:
    """A submission on its way. `client_left`: nobody waits for it any more, so nothing is sent again."""

    request: Callable[[str], Awaitable[RunRequest]]
    form: str
    client: NarrativeClient
    deadline: float
    record: SubmissionRecord
    slot: str
    client_left: bool = False
    sent: float = 0.0
    model: str = ""


class Submitter:
    """Submits jobs, each once.

    Args:
        options: how lost answers are dealt with.
        known: ids of jobs in flight: each is another submission's.
        observe: called with submissions.
    """

    def __init__(self, options: SubmitOptions, known: Collection[str], observe: Observer) -> None:
        self._options = options
        self._known = known
        self._observe = observe
        self._lookups: dict[tuple[str, str], TagLookup] = {}
        self.tasks: set[asyncio.Task[Submission | None]] = set()
        """Submissions on their way, those of clients that left among them."""
        self.stopped = False
        """Set when nothing may be sent any more."""

    async def taken(self, record: SubmissionRecord, slot: str) -> Submission | None:
        """The slot's job if there is one; None when the slot is free. Waits for a replica that is submitting there.

        Raises:
            IdempotencyConflict: that takes too long.
        """
        until = asyncio.get_running_loop().time() + record.patience_s
        while (found := await record.find(slot)) is not None:
            if found.job is not None:
                return Submission(Job(id=found.job, type="model_inference"), found.form, new=False)
            if asyncio.get_running_loop().time() >= until:
                raise IdempotencyConflict("The same request is being submitted elsewhere.", retry_after=1.0)
            await asyncio.sleep(_CHECK_AGAIN_S)
        return None

    def start(self, attempt: Attempt) -> "asyncio.Task[Submission | None]":
        """The task that carries a submission to its end. Its result is None when another replica took the slot meanwhile. It is not
        to be cancelled with its client: set `attempt.client_left` instead."""
        task = asyncio.create_task(self._carry(attempt))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def _carry(self, attempt: Attempt) -> Submission | None:
        reserved = await attempt.record.reserve(attempt.slot, attempt.form)
        if reserved is None:
            return None
        reservation, since = reserved
        try:
            request = await attempt.request(reservation.form)
            attempt.model = request.model
            job = await self._submit(attempt, request, since)
        except BaseException as error:
            if isinstance(error, ProxyError) and not error.job_may_exist:
                await attempt.record.release(attempt.slot)
            else:
                await attempt.record.settle(attempt.slot, reservation, None)
            raise
        await attempt.record.settle(attempt.slot, reservation, job.id)
        return Submission(job, reservation.form, new=True)

    async def _submit(self, attempt: Attempt, request: RunRequest, since: float | None) -> Job:
        """The submitted job; it may have ended already when it was found by its tag."""
        started = asyncio.get_running_loop().time()
        attempt.sent = started
        if since is not None:
            found = await self._look_up(attempt, request, datetime.fromtimestamp(since, UTC))
            if isinstance(found, Job):
                return self._submitted(request, found, started, adopted=True)
            if not found and self._options.in_doubt == "error":
                raise _unknown("Whether the job was started already is unknown")
        for number in range(1, self._options.attempts + 1):
            if self.stopped:
                raise Overloaded("The server is shutting down.", retry_after=DEFAULT_RETRY_AFTER)
            begun = datetime.fromtimestamp(time.time(), UTC)
            attempt.sent = asyncio.get_running_loop().time()
            try:
                job = await attempt.client.enqueue(
                    request, deadline=attempt.deadline, abandoned=lambda: attempt.client_left or self.stopped
                )
                return self._submitted(request, job, started, adopted=False)
            except UpstreamError as error:
                if error.code != UNKNOWN_OUTCOME:
                    raise
                log.warning("the answer to a submission was lost", extra={"slot": attempt.slot, "attempt": number})
                found = await self._look_up(attempt, request, begun)
                if isinstance(found, Job):
                    return self._submitted(request, found, started, adopted=True)
                last = attempt.client_left or self.stopped or number == self._options.attempts
                if found and last:
                    raise _not_taken() from error
                if last or (not found and self._options.in_doubt == "error"):
                    raise
                self._observe(Resubmitted(request.model, found))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _submitted(self, request: RunRequest, job: Job, started: float, *, adopted: bool) -> Job:
        seconds = asyncio.get_running_loop().time() - started
        self._observe(Submitted(job.id, request.model, seconds, adopted))
        return job

    async def _look_up(self, attempt: Attempt, request: RunRequest, begun: datetime) -> Job | bool:
        """The job; True when it is surely not there; False when nobody can tell."""
        tag = next((tag for tag in request.tags if tag.startswith(TAG_PREFIX)), None)
        if tag is None:
            return False
        lookup = self._lookup(attempt.client, request.data_plane_id)
        absent = False
        loop = asyncio.get_running_loop()
        for pause in self._options.lookups:
            if loop.time() + pause >= attempt.deadline:
                return False
            await asyncio.sleep(pause)
            try:
                scan = await lookup.scan(begun, attempt.deadline)
            except ProxyError:
                absent = False
                continue
            if job := scan.find(tag):
                return job
            absent = scan.conclusive
        return absent

    def _lookup(self, client: NarrativeClient, data_plane_id: str) -> TagLookup:
        key = (client.account, data_plane_id)
        lookup = self._lookups.get(key)
        if lookup is None:
            if len(self._lookups) >= _MOST_LOOKUPS:
                del self._lookups[next(iter(self._lookups))]
            lookup = self._lookups[key] = TagLookup(client, data_plane_id, self._known)
        return lookup


def _unknown(message: str) -> UpstreamError:
    return UpstreamError(message, code=UNKNOWN_OUTCOME, job_may_exist=True)


def _not_taken() -> UpstreamError:
    message = "Narrative did not take the submission"
    return UpstreamError(message, code="narrative_unavailable", retry_after=DEFAULT_RETRY_AFTER)
