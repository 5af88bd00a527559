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

Source: shared contract `narrative.md`, sections `POST /model-inference/run` and `GET /jobs`.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final
from uuid import uuid4, uuid5
from weakref import WeakValueDictionary

import msgspec

from proxy.backends.narrative.client import NarrativeClient
from proxy.backends.narrative.events import JobsOptions, Observer, Resubmitted, Submitted
from proxy.backends.narrative.failures import DEFAULT_RETRY_AFTER, UNKNOWN_OUTCOME
from proxy.backends.narrative.types import TAG_PREFIX, Job, JobRecord, RunRequest, read_time
from proxy.errors import Overloaded, ProxyError, UpstreamError
from proxy.inference.backend import Record
from proxy.storage import Ledger, MemoryStore

log = logging.getLogger(__name__)

_PER_PAGE: Final = 100
_MOST_PAGES: Final = 100
"""A batch submits hundreds of jobs a second, and that a job is not there is known some ten seconds after its submission."""
_SLACK: Final = 5.0
"""Seconds that Narrative's clock may differ from what its `Date` header showed."""
_SLACK_WITHOUT_DATE: Final = 120.0


class Slot(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a slot holds.

    Args:
        form: how the request was put to the model; the result must be read the same way.
        job: the id of the job; None while it is only reserved.
        by: the replica that reserved; "" when even that replica does not know what became of the submission.
        nonce: tells reservations apart.
        at: the first reservation, in seconds since 1970: the job cannot be older.
        span: ids of the job's span (`proxy.tracing.JobSpan`); "" without one.
    """

    form: str
    job: str | None = None
    by: str = ""
    nonce: str = ""
    at: float = 0.0
    span: str = ""


class SubmissionRecord:
    """The slots of one request, in each of which one submission is reserved and recorded.

    A slot holds nothing (nobody has submitted here, or Narrative refused it), a reservation (a replica is about to submit; if it was
    killed, the job is looked up by its tag before anything is sent), or a job id, and later requests wait for that job.
    Preparing and reading are pure, so the ids are all that is needed to resume a request: the prompt comes again with its retry.
    Without a record nobody can repeat the request. Another replica's reservation delays this one by `wait_s` seconds at most.
    """

    def __init__(self, store: Ledger | None = None, record: Record | None = None, *, wait_s: float = 10.0) -> None:
        self._store = MemoryStore() if store is None or record is None else store
        self._record = record or Record("run", uuid4(), ttl_s=math.inf)
        self._prefix = self._record.prefix
        self.wait_s = wait_s

    def tag(self, slot: str) -> str:
        """The unique part of the tag of a slot's submission: the same in every replica."""
        return str(uuid5(self._record.seed, self._prefix + slot))

    async def find(self, slot: str) -> Slot | None:
        """What the slot holds if it is a job, or reserved by a replica that is alive; None when it can be reserved."""
        text = await self._store.get(self._record.name, self._prefix + slot)
        found = msgspec.json.decode(text, type=Slot) if text is not None else None
        return found if found and (found.job is not None or await self._store.alive(found.by)) else None

    async def reserve(self, slot: str, form: str, span: str = "") -> tuple[Slot, float | None] | None:
        """Reserve the slot. None when it is taken; else the reservation, and since when a job may exist (seconds since 1970)."""
        name, field = self._record.name, self._prefix + slot
        mine = Slot(form, by=self._store.replica, nonce=uuid4().hex, at=time.time(), span=span)
        text = await self._store.add(name, field, _text(mine), ttl_s=self._record.ttl_s)
        found = msgspec.json.decode(text, type=Slot)
        if found.nonce == mine.nonce:
            return mine, None
        if found.job is not None or await self._store.alive(found.by):
            return None
        mine = msgspec.structs.replace(mine, form=found.form, at=found.at, span=found.span or span)
        return (mine, found.at) if await self._store.compare_and_set(name, field, text, _text(mine)) else None

    async def settle(self, slot: str, reservation: Slot, job_id: str | None) -> None:
        """Record the job, or with None that the outcome is unknown."""
        changes = {"job": job_id} if job_id else {"by": "", "nonce": ""}
        settled = _text(msgspec.structs.replace(reservation, **changes))
        await self._store.put(self._record.name, self._prefix + slot, settled, ttl_s=self._record.ttl_s)

    async def release(self, slot: str) -> None:
        """Give the slot back: nothing was enqueued."""
        await self._store.remove(self._record.name, self._prefix + slot)


def _text(slot: Slot) -> str:
    return msgspec.json.encode(slot).decode()


class TagLookup:
    """Reads one account's list of jobs in one data plane, once for all who wait for it. `known` jobs are other submissions'."""

    def __init__(self, client: NarrativeClient, data_plane_id: str, known: Collection[str]) -> None:
        self._client = client
        self._data_plane_id = data_plane_id
        self._known = known
        self._since, self._deadline = math.inf, -math.inf
        self._reading = asyncio.Lock()
        self._next: asyncio.Task[tuple[dict[str, str], bool]] | None = None

    async def scan(self, since: float, deadline: float) -> tuple[dict[str, str], bool]:
        """What a reading shows that starts after this call and reaches back to `since` (our clock, seconds since 1970).

        Returns ids of jobs by their tags (the oldest, should Narrative have taken a submission twice), and whether a job that is not among
        them is surely not there. Raises ProxyError: the list could not be read until `deadline` (loop time).
        """
        self._since, self._deadline = min(self._since, since), max(self._deadline, deadline)
        if self._next is None:
            self._next = asyncio.create_task(self._read())
        return await asyncio.shield(self._next)

    async def _read(self) -> tuple[dict[str, str], bool]:
        tagged: dict[str, str] = {}
        opaque: set[str] = set()  # jobs of the time in question whose tags the list does not show
        async with self._reading:
            since, deadline, ahead = self._since, self._deadline, self._client.clock_ahead
            self._since, self._deadline, self._next = math.inf, -math.inf, None
            oldest = since - _SLACK_WITHOUT_DATE if ahead is None else since + ahead - _SLACK
            for number in range(_MOST_PAGES):
                page = await self._client.list_jobs(
                    type="model_inference",
                    data_plane_id=self._data_plane_id,
                    per_page=_PER_PAGE,
                    offset=number * _PER_PAGE or None,
                    order_by="created_at_desc",
                    deadline=deadline,
                )
                for record in page.records:
                    if record.name is None:
                        return tagged, False  # a record that cannot be read could be the one
                    if tags := record.tags:
                        tagged.update(dict.fromkeys(tags, record.name))
                    elif record.name not in self._known and not _older(record, oldest):
                        opaque.add(record.name)
                if covered := len(page.records) < _PER_PAGE or _older(page.records[-1], oldest):
                    break
            for job_id in list(opaque)[:10]:  # lists may leave out what the job itself shows
                job = await self._client.get_job(job_id, deadline=deadline)
                if job.tags:
                    opaque.discard(job_id)
                    tagged.update(dict.fromkeys(job.tags, job_id))
        return tagged, covered and not opaque


def _older(record: JobRecord, than: float) -> bool:
    created = read_time(record.created_at)
    return created is not None and created.timestamp() < than


@dataclass(frozen=True, slots=True)
class Submission:
    """A slot's job, as far as it is known, and how its request was put to the model.

    Args:
        new: it was submitted, or found by its tag, for this caller; else before, perhaps elsewhere, and only its id is known.
        sent: loop time; None for one that was submitted a while ago.
        model: of the body, as far as it is known.
        span: as of the slot.
    """

    job: Job
    form: str
    new: bool
    sent: float | None = None
    model: str = ""
    span: str = ""


@dataclass(slots=True, eq=False)
class PendingSubmission:
    """A submission on its way.

    Args:
        make_request: form → the body, with the tag `rid:<record.tag(slot)>`.
        form: how the request is put to the model; another replica's reservation may say another one.
        deadline: loop time.
        retry_until: loop time after which a submission that was surely not taken is not sent again.
        caller: whose submission it is, by default the client's account: the queue is fair between callers.
        span: ids of the job's span, kept in the slot.
        queued: seconds that it waited for its turn.
        client_left: nobody waits for it any more, so nothing is sent again.
    """

    make_request: Callable[[str], Awaitable[RunRequest]]
    form: str
    client: NarrativeClient
    record: SubmissionRecord
    slot: str
    deadline: float
    retry_until: float = math.inf
    caller: str = ""
    span: str = ""
    queued: float = 0.0
    client_left: bool = False


class Submitter:
    """Carries submissions from the reservation to the recorded job id; `known` are the ids of the jobs in flight."""

    def __init__(self, options: JobsOptions, known: Collection[str], observe: Observer) -> None:
        self._options = options
        self._known = known
        self._observe = observe
        self._lookups: WeakValueDictionary[tuple[str, str], TagLookup] = WeakValueDictionary()
        self.stopped = False
        """Set when nothing may be sent any more."""

    async def carry(self, pending: PendingSubmission) -> Submission | None:
        """Reserve the slot, send, and record the job's id. None when another replica took the slot meanwhile.

        It is run by a task of its own, which is not to be cancelled with its client: set `pending.client_left` instead. Raises what
        `NarrativeClient.run_model_inference` raises.
        """
        record, slot = pending.record, pending.slot
        reserved = await record.reserve(slot, pending.form, pending.span)
        if reserved is None:
            return None
        reservation, since = reserved
        try:
            request = await pending.make_request(reservation.form)
            job, sent = await self._send(pending, request, since)
        except BaseException as error:
            if isinstance(error, ProxyError) and not error.job_may_exist:
                await record.release(slot)
            else:
                await record.settle(slot, reservation, None)
            raise
        self._observe(Submitted(request.model, adopted=sent is None))
        await record.settle(slot, reservation, job.id)
        return Submission(job, reservation.form, new=True, sent=sent, model=request.model, span=reservation.span)

    async def _send(
        self, pending: PendingSubmission, request: RunRequest, since: float | None
    ) -> tuple[Job, float | None]:
        """The job, and the loop time at which it was sent; None if it was found by its tag: then it may have ended already.

        `since` is when a submission was made whose outcome is unknown, in seconds since 1970; None when there was none.
        """
        options, loop = self._options, asyncio.get_running_loop()
        unknown: UpstreamError | None = None
        number = 0
        while True:
            if since is not None:
                found = await self._look_up(pending, request, since)
                if isinstance(found, str):
                    return Job(found), None
                last = pending.client_left or self.stopped or number == options.attempts
                if found and last:
                    message = "Narrative did not take the submission"
                    raise UpstreamError(message, code="narrative_unavailable", retry_after=DEFAULT_RETRY_AFTER)
                if last or (not found and options.in_doubt == "error"):
                    message = "Whether the job was started already is unknown"
                    raise unknown or UpstreamError(message, code=UNKNOWN_OUTCOME, job_may_exist=True)
                if number:
                    self._observe(Resubmitted(request.model, found))
            if self.stopped:
                raise Overloaded("The server is shutting down.", retry_after=DEFAULT_RETRY_AFTER)
            number += 1
            since, sent = time.time(), loop.time()
            try:
                job = await pending.client.enqueue(
                    request,
                    deadline=pending.deadline,
                    abandoned=lambda: pending.client_left or self.stopped or loop.time() >= pending.retry_until,
                )
                return job, sent
            except UpstreamError as error:
                if error.code != UNKNOWN_OUTCOME:
                    raise
                unknown = error
                log.warning("the answer to a submission was lost", extra={"slot": pending.slot, "attempt": number})

    async def _look_up(self, pending: PendingSubmission, request: RunRequest, since: float) -> str | bool:
        """The job's id; True when it is surely not there; False when nobody can tell."""
        tag = next((tag for tag in request.tags if tag.startswith(TAG_PREFIX)), None)
        if tag is None:
            return False
        client, plane = pending.client, request.data_plane_id
        lookup = self._lookups.setdefault((client.account, plane), TagLookup(client, plane, self._known))
        absent, loop = False, asyncio.get_running_loop()
        for pause in self._options.lookups:
            if loop.time() + pause >= pending.deadline:
                return False
            await asyncio.sleep(pause)
            try:
                tagged, absent = await lookup.scan(since, pending.deadline)
            except ProxyError:
                absent = False
                continue
            if tag in tagged:
                return tagged[tag]
        return absent
