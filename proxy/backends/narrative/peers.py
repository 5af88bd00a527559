"""What replicas tell each other: who reads an account's feed and what it showed, and the ends that webhooks brought.

Jobs that a server like this one submitted are told with their results, so that whoever waits for one need not read it again. Words
can be lost. Each read also tells what earlier reads showed, as far as its page reaches; whoever sees no overlap with what it was told
last has missed something, and reads once itself.
"""

import asyncio
import json
from collections.abc import Collection, Iterable
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from proxy.backends.narrative.feed import record_id
from proxy.backends.narrative.submit import TAG_PREFIX
from proxy.backends.narrative.types import JsonObject, tags_of
from proxy.storage import ALONE, Store

FEED_TOPIC: Final = "feed"
END_TOPIC: Final = "ended"
_TOLD: Final = ("result", "failures", "data_plane_id", "created_at", "updated_at", "ended_at")
_MOST_CHARS: Final = 8 * 1024 * 1024
_MOST_CHARS_OF_END: Final = 256 * 1024
"""In longer messages results are left out."""


class Shown(BaseModel):
    """What one read of a feed showed.

    Args:
        account: as `NarrativeClient.account`.
        state: which feed; "" for a mere sign of life.
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
        self.taken = False
        self._told_at = self._loop.time()
        self.standing = ALONE

    async def take(self, *, may_lead: bool) -> None:
        """Take part, or go on to: it is over a few seconds after the last time."""
        self.taken = True
        led, self.standing = self.standing.leads, await self._store.join(self._role, may_lead=may_lead)
        if led and not self.standing.leads:
            self.told()  # the one who leads now has some time to say so
        if self.standing.leads_others:
            await self.tell("", (), ())  # a sign of life for those who wait for word

    async def give_up(self) -> None:
        """Leave it to the others."""
        if self.taken:
            self.taken = False
            self.standing = ALONE
            await self._store.leave(self._role)

    async def tell(self, state: str, records: Iterable[JsonObject], known: Collection[str]) -> None:
        """Tell the others what a read showed, after earlier ones showed `known`."""
        await self._store.publish(FEED_TOPIC, words_of_read(self._account, state, records, known))

    def told(self) -> None:
        """Word has come of the one who leads."""
        self._told_at = self._loop.time()

    @property
    def untold(self) -> float:
        """Seconds without word of the one who leads; 0 for that one."""
        return 0.0 if self.standing.leads else self._loop.time() - self._told_at


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
    state = record.get("state")
    text = json.dumps(_outline(record, state, ()))
    return text if len(text) <= _MOST_CHARS_OF_END else json.dumps(_bare(record, state))


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
