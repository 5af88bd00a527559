"""The slots in which the submissions of one request are reserved and recorded, so that each is made once.

A request has a slot, `<choice>.<number>`, for each of its submissions. A slot holds one of

    nothing        nobody has submitted here, or Narrative refused it
    a reservation  a replica is about to submit; if it was killed, the job is looked up by its tag before anything is sent
    a job id       whoever comes later waits for that job

Preparing and reading are pure, so the ids of the jobs are all that is needed to resume a request: the prompt comes again with the
client's own retry, and neither it nor the result has to be stored.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from uuid import UUID, uuid4, uuid5

from proxy.storage import Store


@dataclass(frozen=True, slots=True)
class Slot:
    """What a slot holds.

    Args:
        form: how the request was put to the model; the result must be read the same way.
        job: the id of the job; None while it is only reserved.
        by: the replica that reserved; "" when even that replica does not know what became of the submission.
        nonce: tells reservations apart.
        at: the first reservation, in seconds since 1970: the job cannot be older.
    """

    form: str
    job: str | None = None
    by: str = ""
    nonce: str = ""
    at: float = 0.0


class SubmissionRecord:
    """The submissions of one request.

    Args:
        store: where the slots are, shared with whoever may work on the same request; None when nobody can repeat it.
        name: of the record in the store.
        seed: what the tags are made from, the same for everyone who works on the request.
        ttl_s: how long the record is kept.
        patience_s: how long another replica's reservation is waited for.
    """

    def __init__(
        self,
        store: Store | None = None,
        name: str = "",
        seed: str | None = None,
        *,
        ttl_s: float = 3600.0,
        patience_s: float = 10.0,
    ) -> None:
        self._store = store
        self._name = name
        self._seed = UUID(seed) if seed else uuid4()
        self._ttl_s = ttl_s
        self.patience_s = patience_s
        self._paid: set[str] = set()

    @property
    def job_may_exist(self) -> bool:
        """Whether a job of this request exists, or may: then a repeat pays again unless it takes up this record."""
        return bool(self._paid)

    def tag(self, slot: str) -> str:
        """The unique part of the tag of a slot's submission: the same whoever makes it."""
        return str(uuid5(self._seed, slot))

    async def find(self, slot: str) -> Slot | None:
        """What the slot holds if it is a job, or reserved by a replica that is alive; None when it can be reserved."""
        if self._store is None or (text := await self._store.get(self._name, slot)) is None:
            return None
        found = Slot(**json.loads(text))
        if found.job is not None:
            self._paid.add(slot)
            return found
        return found if await self._store.alive(found.by) else None

    async def reserve(self, slot: str, form: str) -> tuple[Slot, float | None] | None:
        """Reserve the slot. None when it is taken; else the reservation, and since when a job may exist (seconds since 1970)."""
        mine = Slot(form, by="" if self._store is None else self._store.replica, nonce=uuid4().hex, at=time.time())
        since = None
        if self._store is not None:
            text = await self._store.add(self._name, slot, json.dumps(asdict(mine)), ttl_s=self._ttl_s)
            found = Slot(**json.loads(text))
            if found.nonce != mine.nonce:
                if found.job is not None or await self._store.alive(found.by):
                    return None
                mine, since = replace(mine, form=found.form, at=found.at), found.at
                if not await self._store.compare_and_set(self._name, slot, text, json.dumps(asdict(mine))):
                    return None
        self._paid.add(slot)
        return mine, since

    async def settle(self, slot: str, reservation: Slot, job_id: str | None) -> None:
        """Record the job, or with None that the outcome is unknown."""
        if self._store is not None:
            settled = replace(reservation, job=job_id) if job_id else replace(reservation, by="", nonce="")
            await self._store.put(self._name, slot, json.dumps(asdict(settled)), ttl_s=self._ttl_s)

    async def release(self, slot: str) -> None:
        """Give the slot back: nothing was enqueued."""
        self._paid.discard(slot)
        if self._store is not None:
            await self._store.remove(self._name, slot)
