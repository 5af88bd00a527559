"""What is stored of batches beside their files.

    batches:<owner>      one field for each batch of an owner: its `Batch`, sealed, replaced by compare-and-set
    batches-open         one field for each batch that has not ended: the replica that owns it, and sealed whose it is
    batch-rows:<id>      the rows of its result files, sealed, by the number of the line
    batch-done:<id>      which lines have a row: whether it is an answer, and the tokens used
    batch-key:<digest>   the batch that a request with that idempotency key, or an equal one, made

A batch has one owner at a time. If that replica was killed, another takes the batch over: it replaces the owner by compare-and-set.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, Literal

import orjson
from pydantic import TypeAdapter

from proxy.access.authentication import Caller
from proxy.batches.files import Vault, computed, known_fields
from proxy.errors import FileNotFound, RateLimited
from proxy.settings import BatchSettings
from proxy.storage import Ledger

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "cancelling", "cancelled", "expired"]
ENDED: Final = ("failed", "completed", "cancelled", "expired")
MOST_BATCHES: Final = 1_000
"""Batches of one key, ended ones too."""
_OF_A_TURN: Final = 100
"""Batches that are read before others get their turn; with its errors, one has up to 20 KB."""
_OPEN: Final = "batches-open"
_MARGIN_S: Final = 3600.0
_CALLER: Final = TypeAdapter(Caller)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. Times are seconds since 1970; None is not yet.

    Attributes:
        total, completed, failed: of its lines; those that have a row yet are completed or failed.
        input_tokens, output_tokens: used so far.
        output_ttl_s: seconds that its result files are kept.
        input_pieces: of its file, which may expire before it.
        errors: what is wrong with its file: code, line, message and param each.
    """

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    status: Status
    created_at: float
    expires_at: int
    output_ttl_s: int
    input_pieces: int = 0
    metadata: Mapping[str, str] | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    errors: tuple[Mapping[str, Any], ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Done:
    """That a line has a row: an answer or an error, and the tokens its jobs used."""

    ok: bool
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch that has not ended: its id, whose it is, with whose credentials it runs, and the replica that owns it, "" for none.

    `sealed` holds the first three, as they are stored.
    """

    id: str
    owner: str
    caller: Caller
    replica: str
    sealed: str


class BatchRecords:
    """The records. Every call raises StoreUnavailable when they cannot be reached."""

    def __init__(
        self, store: Ledger, vault: Vault, settings: BatchSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._vault, self._clock, self._settings = store, vault, clock, settings
        self._ttl_s = settings.window_s + settings.file_ttl_s + _MARGIN_S

    @property
    def healthy(self) -> bool:
        """Whether the store is reached, as far as is known."""
        return self._store.healthy

    # ------------------------------------------------------------ batches

    async def add(self, batch: Batch, caller: Caller) -> Batch:
        """Store a new batch, owned by this replica. Returns what is stored under its id. Raises RateLimited: its owner has too many."""
        name = self._vault.name("batches", batch.owner)
        batches = await self.all(batch.owner)
        most = self._settings.max_key_batches
        if sum(not each.ended for each in batches) >= most or len(batches) >= MOST_BATCHES:
            message = f"This key has {most} batches that have not ended, or {MOST_BATCHES} in all."
            raise RateLimited(message, code="too_many_batches", retry_after=60.0)
        known = {self._vault.digest(each.id) for each in batches}
        for field in (await self._store.read(name)).keys() - known:
            await self._store.remove(name, field)
        # In this order: should the replica die in between, its batch is not one that nobody works on.
        value = orjson.dumps({"id": batch.id, "owner": batch.owner, "caller": _CALLER.dump_python(caller, mode="json")})
        text = f"{self._store.replica} {self._vault.seal(_OPEN, value)}"
        await self._store.add(_OPEN, self._vault.digest(batch.id), text)
        stored = await self._store.add(name, self._vault.digest(batch.id), self._sealed(batch), ttl_s=self._ttl_s)
        # That of an equal request with the same key, if it came sooner.
        return self._unsealed(batch.owner, stored) or batch

    async def find(self, owner: str, id_: str) -> Batch:
        """Raises FileNotFound."""
        return (await self._stored(owner, id_))[1]

    async def all(self, owner: str) -> list[Batch]:
        """An owner's batches, newest first."""
        batches: list[Batch] = []
        for number, sealed in enumerate((await self._store.read(self._vault.name("batches", owner))).values(), 1):
            if (batch := self._unsealed(owner, sealed)) is not None:
                batches.append(batch)
            if number % _OF_A_TURN == 0:
                await asyncio.sleep(0)
        return sorted(batches, key=lambda batch: (batch.created_at, batch.id), reverse=True)

    async def change(self, owner: str, id_: str, change: Callable[[Batch], Batch]) -> Batch:
        """Replace a batch by what a function makes of it. Returns the new one. Raises FileNotFound."""
        name, field = self._vault.name("batches", owner), self._vault.digest(id_)
        while True:
            old, batch = await self._stored(owner, id_)
            new = change(batch)
            if new == batch or await self._store.compare_and_set(name, field, old, self._sealed(new)):
                return new

    async def remove(self, batch: Batch) -> None:
        """Forget a batch that has ended."""
        await self._store.remove(self._vault.name("batches", batch.owner), self._vault.digest(batch.id))

    async def _stored(self, owner: str, id_: str) -> tuple[str, Batch]:
        sealed = await self._store.get(self._vault.name("batches", owner), self._vault.digest(id_))
        batch = None if sealed is None else self._unsealed(owner, sealed)
        if sealed is None or batch is None:
            raise FileNotFound(f"No batch has the id {id_[:100]!r}.", param="batch_id")
        return sealed, batch

    def _sealed(self, batch: Batch) -> str:
        return self._vault.seal(self._vault.name("batches", batch.owner), orjson.dumps(asdict(batch)))

    def _unsealed(self, owner: str, sealed: str) -> Batch | None:
        text = self._vault.unseal(self._vault.name("batches", owner), sealed)
        if text is None:
            return None
        values = orjson.loads(text)
        batch = known_fields(Batch, {**values, "errors": tuple(values["errors"])})
        kept_until = batch.expires_at + self._settings.file_ttl_s
        return batch if kept_until > self._clock() else None

    # ------------------------------------------------------------ owners

    async def free(self, known: Collection[str]) -> list[OpenBatch]:
        """Those that have not ended and that no other replica that runs owns, but for the known ones. Raises BatchesNeedState."""
        texts = await self._store.read(_OPEN)
        if not texts:
            return []
        await self._vault.open()
        skipped = {self._vault.digest(id_) for id_ in known}
        found, busy = [], dict[str, bool]()
        for text in (text for field, text in texts.items() if field not in skipped):
            replica, _, sealed = text.partition(" ")
            if replica not in busy:
                busy[replica] = replica not in ("", self._store.replica) and await self._store.alive(replica)
            value = None if busy[replica] else self._vault.unseal(_OPEN, sealed)
            if value is not None:
                fields = orjson.loads(value)
                caller = _CALLER.validate_python(fields["caller"])
                found.append(OpenBatch(fields["id"], fields["owner"], caller, replica, sealed))
        return found

    async def owns(self, batch: OpenBatch) -> bool:
        """Whether this replica still owns the batch."""
        text = await self._store.get(_OPEN, self._vault.digest(batch.id))
        return text is not None and text.startswith(f"{self._store.replica} ")

    async def take(self, batch: OpenBatch) -> bool:
        """Become the owner of a free batch. Returns whether this replica now is."""
        mine = self._store.replica
        return batch.replica == mine or await self._pass_on(batch, batch.replica, mine)

    async def give_up(self, batch: OpenBatch) -> None:
        """Let another replica own the batch at once."""
        await self._pass_on(batch, self._store.replica, "")

    async def _pass_on(self, batch: OpenBatch, old: str, new: str) -> bool:
        before, after = (f"{replica} {batch.sealed}" for replica in (old, new))
        return await self._store.compare_and_set(_OPEN, self._vault.digest(batch.id), before, after)

    async def close(self, batch: Batch) -> None:
        """Forget what only a batch that has not ended needs."""
        for name in (self._vault.name("batch-rows", batch.id), self._vault.name("batch-done", batch.id)):
            await self._store.remove(name)
        await self._store.remove(_OPEN, self._vault.digest(batch.id))

    # ------------------------------------------------------------ rows

    async def put_row(self, batch: Batch, line: int, row: bytes, done: Done) -> None:
        """Store the row of a line; the same for a line that has one already."""
        name = self._vault.name("batch-rows", batch.id)
        sealed = await computed(len(row), partial(self._vault.seal, name, row))
        await self._store.put(name, str(line), sealed, ttl_s=self._ttl_s)
        text = f"{int(done.ok)} {done.input_tokens} {done.output_tokens}"
        await self._store.put(self._vault.name("batch-done", batch.id), str(line), text, ttl_s=self._ttl_s)

    async def row(self, batch: Batch, line: int) -> bytes:
        """Raises FileNotFound: it is gone."""
        name = self._vault.name("batch-rows", batch.id)
        sealed = await self._store.get(name, str(line))
        row = None if sealed is None else await computed(len(sealed), partial(self._vault.unseal, name, sealed))
        if row is None:
            raise FileNotFound("A row of the batch is gone.")
        return row

    async def done(self, batch: Batch) -> dict[int, Done]:
        """The lines that have a row."""
        found = {}
        for line, text in (await self._store.read(self._vault.name("batch-done", batch.id))).items():
            ok, input_tokens, output_tokens = map(int, text.split())
            found[int(line)] = Done(bool(ok), input_tokens, output_tokens)
        return found

    # ------------------------------------------------------------ repeats

    async def noted(self, what: str) -> str | None:
        """What is remembered of a request."""
        name = self._vault.name("batch-key", what)
        return self._opened(name, await self._store.get(name, "value"))

    async def note(self, what: str, value: str, ttl_s: float) -> str | None:
        """Remember something of a request, unless something is remembered; returns what then is."""
        name = self._vault.name("batch-key", what)
        sealed = self._vault.seal(name, value.encode())
        return self._opened(name, await self._store.add(name, "value", sealed, ttl_s=ttl_s))

    async def note_latest(self, what: str, value: str, ttl_s: float) -> None:
        """Remember something of a request in place of what is remembered."""
        name = self._vault.name("batch-key", what)
        await self._store.put(name, "value", self._vault.seal(name, value.encode()), ttl_s=ttl_s)

    def _opened(self, name: str, sealed: str | None) -> str | None:
        value = None if sealed is None else self._vault.unseal(name, sealed)
        return None if value is None else value.decode()
