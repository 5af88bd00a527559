"""Messages between replicas that share a store: one of them reads an account's lists for all, and they pass on the ends they read.

The leader of an account, elected by a lease in the store, publishes what each list read showed, and that it is alive. Webhooks reach one
replica, which publishes the ends they bring. Jobs that a server like this one submitted are published with their results, so that the
replica that waits for one need not read it again. Messages can be lost: each also names what earlier reads showed, and a replica that
sees no overlap with what it heard last has missed something and reads once itself.
"""

from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from proxy.backends.narrative.types import TAG_PREFIX, JobRecord, decoded

TOPIC: Final = "feed"
_MOST_BYTES: Final = 8 * 1024 * 1024
"""In longer messages results are left out."""


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


def encode_read(account: str, state: str, records: Iterable[JobRecord], known: Collection[str]) -> str:
    """A message about a read, after earlier ones showed the ids in `known`. Inputs are left out; of other applications' jobs, and of
    those shown before, all but id and state."""
    named = [
        msgspec.structs.replace(record, job_id=record.name, id=None, input=msgspec.Raw(b"null"))
        if record.name not in known and any(tag.startswith(TAG_PREFIX) for tag in record.tags)
        else JobRecord(job_id=record.name, state=record.state)
        for record in records
        if record.name
    ]
    body = msgspec.json.encode(ListRead(account, state, named))
    if len(body) > _MOST_BYTES:
        bare = [JobRecord(job_id=record.name, state=record.state) for record in named]
        body = msgspec.json.encode(ListRead(account, state, bare))
    return body.decode("utf-8", "replace")


def decode_read(message: str) -> ListRead | None:
    """What `encode_read` encoded; None for messages of another version."""
    try:
        return decoded(ListRead, message)
    except (ValueError, RecursionError):
        return None
