"""Submitting a job exactly once, although `POST /model-inference/run` takes no idempotency key.

| the submission | what follows |
|---|---|
| was answered with an id | done |
| was surely not taken (no connection, 429, 503) | repeated by the client, within the deadline |
| was refused | the error, named |
| has an unknown outcome, and its tag is found | that job is adopted |
| has an unknown outcome, and the job is surely not there | submitted again |
| has an unknown outcome, and nothing is sure | `narrative_submit_unknown`, or submitted again if so set |
"""

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from proxy.backends.narrative.answers import DEFAULT_RETRY_AFTER
from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import Observer, Resubmitted, Submitted
from proxy.backends.narrative.finder import Finder
from proxy.backends.narrative.types import Job, RunRequest
from proxy.errors import ProxyError, UpstreamError

log = logging.getLogger(__name__)

TAG_PREFIX: Final = "rid:"
_MOST_FINDERS: Final = 256


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """How lost answers are dealt with. Seconds."""

    looks: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    """Pauses before each look at the list of jobs. Their sum is how far the list may lag, and how late a submission may still
    take effect, before its job counts as not there."""
    attempts: int = 3
    """Submissions of one request at most."""
    in_doubt: Literal["error", "resubmit"] = "error"
    """What to do when nobody can tell whether the job exists: say so, or submit again and perhaps pay twice."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One submission on its way. `since`: it may have been made by another process, at that time (seconds since 1970) or later.
    `abandoned`: nobody waits for it any more, so nothing is sent again. `sent`: loop time of the last attempt."""

    request: RunRequest
    client: NarrativeClient
    deadline: float
    since: float | None = None
    abandoned: bool = False
    sent: float | None = None
    tag: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.tag = next((tag for tag in self.request.tags if tag.startswith(TAG_PREFIX)), None)


class Submitter:
    """Submits jobs.

    Args:
        options: how lost answers are dealt with.
        known: ids of jobs in flight: each is another submission's.
        observe: told of submissions.
    """

    def __init__(self, options: SubmitOptions, known: Collection[str], observe: Observer) -> None:
        self._options = options
        self._known = known
        self._observe = observe
        self._finders: dict[tuple[str, str], Finder] = {}

    async def submit(self, ticket: Ticket) -> Job:
        """The submitted job; it may have ended already when it was found by its tag.

        Raises:
            ProxyError: as `NarrativeClient.run_model_inference`.
        """
        started = asyncio.get_running_loop().time()
        if ticket.since is not None:
            found = await self._find(ticket, datetime.fromtimestamp(ticket.since, UTC))
            if isinstance(found, Job):
                return self._submitted(ticket, found, started, adopted=True)
            if not found and self._options.in_doubt == "error":
                raise UpstreamError("Whether the job was started already is unknown", code="narrative_submit_unknown")
        for attempt in range(1, self._options.attempts + 1):
            begun = datetime.fromtimestamp(time.time(), UTC)
            ticket.sent = asyncio.get_running_loop().time()
            try:
                job = await ticket.client.run_model_inference(ticket.request, deadline=ticket.deadline)
                return self._submitted(ticket, job, started, adopted=False)
            except UpstreamError as error:
                if error.code != "narrative_submit_unknown":
                    raise
                log.warning("the answer to a submission was lost", extra={"tag": ticket.tag, "attempt": attempt})
                found = await self._find(ticket, begun)
                if isinstance(found, Job):
                    return self._submitted(ticket, found, started, adopted=True)
                sure = found is True
                last = ticket.abandoned or attempt == self._options.attempts
                if sure and last:
                    raise _not_taken() from error
                if last or (not sure and self._options.in_doubt == "error"):
                    raise
                self._observe(Resubmitted(ticket.request.model, sure))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _submitted(self, ticket: Ticket, job: Job, started: float, *, adopted: bool) -> Job:
        seconds = asyncio.get_running_loop().time() - started
        self._observe(Submitted(job.id, ticket.request.model, seconds, adopted))
        return job

    async def _find(self, ticket: Ticket, begun: datetime) -> Job | bool:
        """The job; True when it is surely not there; False when nobody can tell."""
        if ticket.tag is None:
            return False
        finder = self._finder(ticket)
        sure = False
        loop = asyncio.get_running_loop()
        for pause in self._options.looks:
            if loop.time() + pause >= ticket.deadline:
                return False
            await asyncio.sleep(pause)
            try:
                scan = await finder.scan(begun, ticket.deadline)
            except ProxyError:
                sure = False
                continue
            if job := scan.find(ticket.tag):
                return job
            sure = scan.covered and not scan.opaque
        return sure

    def _finder(self, ticket: Ticket) -> Finder:
        key = (ticket.client.account, ticket.request.data_plane_id)
        finder = self._finders.get(key)
        if finder is None:
            if len(self._finders) >= _MOST_FINDERS:
                del self._finders[next(iter(self._finders))]
            finder = self._finders[key] = Finder(ticket.client, ticket.request.data_plane_id, self._known)
        return finder


def _not_taken() -> UpstreamError:
    message = "Narrative did not take the submission"
    return UpstreamError(message, code="narrative_unavailable", retry_after=DEFAULT_RETRY_AFTER)
