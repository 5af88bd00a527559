"""Replicas that share a store: one of them reads an account's lists for all, and they pass on the ends they read.

The leader of an account, elected by a lease in the store, publishes what each list read showed, and that it is alive. Webhooks reach one
replica, which publishes the ends they bring. Jobs that a server like this one submitted are published with their results, so that the
replica that waits for one need not read it again. Messages can be lost: each also names what earlier reads showed, and a replica that
sees no overlap with what it heard last has missed something and reads once itself.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, Final

import msgspec

from proxy.backends.narrative.types import TAG_PREFIX, JobRecord, parse_json, record_of
from proxy.storage import ALONE, Membership, Store

log = logging.getLogger(__name__)

TOPIC: Final = "feed"
_MOST_BYTES: Final = 8 * 1024 * 1024
"""In longer messages results are left out."""
_MOST_UNSENT: Final = 1_000
"""Ends that wait to be published; other replicas notice the rest by themselves."""
_EVERY: Final = 1.0
_RESTART: Final = 1.0
"""Seconds until work that failed is begun again."""


class ListRead(msgspec.Struct):
    """Records that one replica read.

    Args:
        account: whose list it read, as `NarrativeClient.account`; "" for the end that a webhook brought.
        state: which list; "" for a mere sign of life.
        records: most of them with id and state only.
    """

    account: str
    state: str
    records: list[JobRecord]

    @property
    def ids(self) -> frozenset[str]:
        """The ids of the jobs."""
        return frozenset(name for record in self.records if (name := record.name))


_LIST_READ: Final = msgspec.json.Decoder(ListRead)


def encode_read(account: str, state: str, records: Iterable[JobRecord], known: Collection[str]) -> str:
    """A message about a read, after earlier ones showed the ids in `known`. Inputs are left out; of other applications' jobs, and of
    those shown before, all but id and state."""
    named = [record for record in records if record.name]
    body = msgspec.json.encode(ListRead(account, state, [_outline(record, known) for record in named]))
    if len(body) > _MOST_BYTES:
        bare = [JobRecord(job_id=record.name, state=record.state) for record in named]
        body = msgspec.json.encode(ListRead(account, state, bare))
    return body.decode("utf-8", "replace")


def _outline(record: JobRecord, known: Collection[str]) -> JobRecord:
    if record.name in known or not any(tag.startswith(TAG_PREFIX) for tag in record.tags):
        return JobRecord(job_id=record.name, state=record.state)
    return msgspec.structs.replace(record, job_id=record.name, id=None, input=msgspec.Raw(b"null"))


def decode_read(message: str) -> ListRead | None:
    """What `encode_read` encoded; None for messages of another version."""
    try:
        return _LIST_READ.decode(message)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        pass
    try:
        fields = parse_json(message.encode("utf-8", "replace"))
        records = [record_of(record) for record in fields["records"] if isinstance(record, Mapping)]
        account, state = fields["account"], fields["state"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return ListRead(account, state, records) if isinstance(account, str) and isinstance(state, str) else None


class AccountRole:
    """This replica's role in reading an account's lists: leader or follower."""

    def __init__(self, store: Store, account: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._account = account
        self._name = f"feed:{account}"
        self.taken = False
        self._heard_at = self._loop.time()
        self.membership: Membership = ALONE

    async def renew(self, *, may_lead: bool) -> None:
        """Take part, or renew the lease: it ends a few seconds after the last call."""
        self.taken = True
        led, self.membership = self.membership.leads, await self._store.join(self._name, may_lead=may_lead)
        if led and not self.membership.leads:
            self.heard()  # the new leader has some time to publish
        if self.membership.leads_others:
            await self.publish("", (), ())

    async def resign(self) -> None:
        """Leave it to other replicas."""
        if self.taken:
            self.taken = False
            self.membership = ALONE
            await self._store.leave(self._name)

    async def publish(self, state: str, records: Iterable[JobRecord], known: Collection[str]) -> None:
        """Publish what a read of a list showed, after earlier ones showed `known`."""
        await self._store.publish(TOPIC, encode_read(self._account, state, records, known))

    def heard(self) -> None:
        """The leader has published something."""
        self._heard_at = self._loop.time()

    @property
    def silence(self) -> float:
        """Seconds without a message of the leader; 0 for the leader itself."""
        return 0.0 if self.membership.leads else self._loop.time() - self._heard_at


class Replicas:
    """Exchanges messages with other replicas while it runs.

    Args:
        on_read: called with what other replicas publish.
        renew: renews this replica's roles; called every second.
    """

    def __init__(
        self, store: Store, on_read: Callable[[ListRead], None], renew: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        self._store = store
        self._on_read = on_read
        self._renew = renew
        self._unsent: asyncio.Queue[str] = asyncio.Queue(_MOST_UNSENT)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Does nothing where the store is not shared."""
        if self._store.shared:
            self._store.subscribe(TOPIC, self._heard)
            self._tasks = [asyncio.create_task(_restarting(work)) for work in (self._renew_roles, self._publish_ends)]

    async def stop(self) -> None:
        """Publish nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish_end(self, record: JobRecord) -> None:
        """Publish an end that a webhook brought, soon."""
        if self._store.shared and not self._unsent.full():
            self._unsent.put_nowait(encode_read("", "", [record], ()))

    async def _renew_roles(self) -> None:
        while True:
            await self._renew()
            await asyncio.sleep(_EVERY)

    async def _publish_ends(self) -> None:
        while True:
            await self._store.publish(TOPIC, await self._unsent.get())

    def _heard(self, message: str) -> None:
        if read := decode_read(message):
            self._on_read(read)


async def _restarting(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        results = await asyncio.gather(work(), return_exceptions=True)
        log.error("the exchange with other replicas failed; starting again", exc_info=results[0])
        await asyncio.sleep(_RESTART)
