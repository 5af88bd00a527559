"""What replicas tell each other: who reads an account's feed and what it showed, and the ends that webhooks brought.

Jobs that a server like this one submitted are told with their results, so that whoever waits for one need not read it again. A message can
be lost: what the feed showed is told as long as it is shown, results only once.
"""

import asyncio
import json
from collections.abc import Collection, Iterable
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from proxy.narrative.feed import record_id
from proxy.narrative.submit import TAG_PREFIX
from proxy.state import BY_ITSELF, Store
from proxy.wire.narrative import JsonObject, tags_of

FEED_TOPIC: Final = "feed"
END_TOPIC: Final = "ended"
_TOLD: Final = ("result", "failures", "data_plane_id", "created_at", "updated_at", "ended_at")
_MOST_CHARS: Final = 8 * 1024 * 1024
"""In a longer message results are left out."""


class Shown(BaseModel):
    """What one read of a feed showed.

    Args:
        account: as `NarrativeClient.account`.
        state: which feed.
        records: of the jobs, as Narrative's; most hold id and state only.
    """

    model_config = ConfigDict(frozen=True)

    account: str
    state: str
    records: tuple[JsonObject, ...]

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(job_id for record in self.records if (job_id := record_id(record)))

    @classmethod
    def of(cls, words: str) -> "Shown | None":
        """What the words of another replica say; None when it is of another version."""
        try:
            return cls.model_validate(json.loads(words))
        except (ValueError, ValidationError):
            return None


class Part:
    """This replica's part in following an account."""

    def __init__(self, store: Store, account: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._account = account
        self._role = f"feed:{account}"
        self._taken = False
        self._told_at = float("-inf")
        self.standing = BY_ITSELF

    @property
    def serves(self) -> bool:
        """Whether others count on what it reads."""
        return self.standing.leads and self.standing.members > 1

    async def take(self) -> None:
        """Take part, or go on to: it is over a few seconds after the last time."""
        self._taken = True
        self.standing = await self._store.join(self._role)

    async def give_up(self) -> None:
        """Leave it to the others."""
        if self._taken:
            self._taken = False
            self.standing = BY_ITSELF
            await self._store.leave(self._role)

    async def tell(self, state: str, records: Iterable[JsonObject], known: Collection[str]) -> None:
        """Tell the others what a read showed, after earlier ones showed `known`."""
        await self._store.publish(FEED_TOPIC, words_of_read(self._account, state, records, known))

    def told(self) -> None:
        """The one who leads told what a read showed."""
        self._told_at = self._loop.time()

    def informed(self, within: float) -> bool:
        """Whether this replica reads the feed, or was told in the last `within` seconds what it showed."""
        return self.standing.leads or self._loop.time() - self._told_at <= within


def words_of_read(account: str, state: str, records: Iterable[JsonObject], known: Collection[str]) -> str:
    """How a read is told.

    Args:
        account: as `NarrativeClient.account`.
        state: which feed was read.
        records: what it showed.
        known: ids of the jobs that earlier reads showed.
    """
    named = [record for record in records if record_id(record)]
    text = _text(account, state, [_outline(record, state, known) for record in named])
    return text if len(text) <= _MOST_CHARS else _text(account, state, [_bare(record, state) for record in named])


def words_of_end(record: JsonObject) -> str:
    """How the end that a webhook brought is told."""
    return json.dumps(_outline(record, record.get("state"), ()))


def record_of(words: str) -> JsonObject | None:
    """The record in the words of an end; None when they are of another version."""
    try:
        record = json.loads(words)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record_id(record) else None


def _text(account: str, state: str, records: list[JsonObject]) -> str:
    # Not by pydantic: it would make null of a number that is too large, and refuse half a surrogate pair.
    return json.dumps({"account": account, "state": state, "records": records})


def _outline(record: JsonObject, state: Any, known: Collection[str]) -> JsonObject:
    ours = any(tag.startswith(TAG_PREFIX) for tag in tags_of(record.get("input")))
    told = _TOLD if ours and record_id(record) not in known else ()
    return _bare(record, state) | {field: record[field] for field in told if field in record}


def _bare(record: JsonObject, state: Any) -> JsonObject:
    return {"job_id": record_id(record), "state": state}
