"""Which batches there are, and which of them this replica owns and works on."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

import structlog

from proxy.access.authentication import Caller
from proxy.batches.files import StoredFile
from proxy.batches.lines import BatchOptions, cancelled_at
from proxy.batches.records import Batch, OpenBatch
from proxy.batches.runner import MAX_STARTING, BatchRunner
from proxy.errors import BatchConflict, FileNotFound, IdempotencyMismatch, ProxyError, StoreUnavailable
from proxy.metrics import Metrics

_SCAN_S: Final = 1.0
_IDLE_SCAN_S: Final = 5.0
"""Where this replica works on no batch: how soon it takes over one of another that was killed."""
_AFTER_BUG_S: Final = 30.0
_REPEATED_S: Final = 60.0
"""How long an SDK's retry finds the batch that its first try made."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What a client asks for. `total` is the number of lines where all of them are known to be right; None: they are to be checked."""

    id_prefix: str
    endpoint: str
    file: StoredFile
    metadata: Mapping[str, str] | None = None
    output_ttl_s: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that makes a batch: whose it is, and how a repeat of it is recognized.

    Attributes:
        owner, caller: whose the batch will be, and with whose credentials it runs.
        digest: of the request.
        key: the idempotency key, remembered for `key_ttl_s`.
        is_retry: the client's library says that it repeats a request.
    """

    owner: str
    caller: Caller
    digest: str
    key: str | None
    is_retry: bool
    key_ttl_s: float


class Batches:
    """The batches: their `files`, `records` of what is stored, and those that this replica owns and works on."""

    def __init__(self, options: BatchOptions, metrics: Metrics) -> None:
        self._options, self._metrics = options, metrics
        self.files, self.records = options.files, options.records
        self._runners: dict[str, BatchRunner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._being_made: set[str] = set()
        self._draining = False
        self._starting = asyncio.Semaphore(MAX_STARTING)
        self._scan_now = asyncio.Event()
        metrics.watch("proxy_batches_running", "Batches that this replica works on.", lambda: len(self._tasks))

    async def open(self) -> None:
        """Before any other call. Raises BatchesNeedState."""
        await self._options.vault.open()

    def drain(self) -> None:
        """Begin no more lines: the process is about to stop."""
        self._draining = True
        for runner in self._runners.values():
            runner.draining = True

    # ------------------------------------------------------------ for APIs

    async def repeated(self, asked: Asked) -> Batch | None:
        """The batch that an equal request made. Raises IdempotencyMismatch: its key was used with another request."""
        owner, id_ = asked.owner, None
        if asked.key is not None:
            noted = await self.records.noted(f"{owner}\0key\0{asked.key}") or ""
            id_, _, digest = noted.partition(" ")
            if digest not in ("", asked.digest):
                message = "This idempotency key was used with another request body."
                raise IdempotencyMismatch(message, param="Idempotency-Key")
        elif asked.is_retry:
            id_ = await self.records.noted(f"{owner}\0equal\0{asked.digest}")
        try:
            return await self.records.find(owner, id_) if id_ else None
        except FileNotFound:
            return None

    async def create(self, new: NewBatch, asked: Asked) -> Batch:
        """Make a batch and begin to work on it. Raises ProxyError."""
        options, now, owner = self._options, self._options.clock(), asked.owner
        batch = Batch(
            id=f"{new.id_prefix}{uuid4().hex}",
            owner=owner,
            endpoint=new.endpoint,
            input_file_id=new.file.id,
            status="validating" if new.total is None else "in_progress",
            created_at=now,
            expires_at=int(now + options.settings.window_s),
            output_ttl_s=new.output_ttl_s or options.settings.file_ttl_s,
            input_pieces=new.file.pieces,
            metadata=new.metadata,
            total=new.total or 0,
            in_progress_at=None if new.total is None else int(now),
        )
        if asked.key is not None:
            text = f"{batch.id} {asked.digest}"
            noted = await self.records.note(f"{owner}\0key\0{asked.key}", text, asked.key_ttl_s)
            if noted not in (text, None):  # another request with this key came first, or made no batch
                if (found := await self.repeated(asked)) is not None:
                    return found
                batch = replace(batch, id=noted.partition(" ")[0])
        await options.files.use(new.file, batch.id, options.settings.window_s)
        self._being_made.add(batch.id)
        try:
            batch = await self.records.add(batch, asked.caller)
        except ProxyError:
            await options.files.leave(new.file.id, batch.id)
            raise
        finally:
            self._being_made.discard(batch.id)
        if asked.key is None:
            await self.records.note_latest(f"{owner}\0equal\0{asked.digest}", batch.id, _REPEATED_S)
        self._scan_now.set()
        return batch

    async def cancel(self, owner: str, id_: str) -> Batch:
        """Submit no more of a batch. Raises FileNotFound, BatchConflict: it has ended."""
        now = int(self._options.clock())

        def cancelling(batch: Batch) -> Batch:
            if batch.ended or batch.status == "finalizing":
                raise BatchConflict(f"The batch cannot be cancelled: it is {batch.status}.", param="batch_id")
            return cancelled_at(batch, now)

        batch = await self.records.change(owner, id_, cancelling)
        if runner := self._runners.get(id_):
            runner.stopping = True
        return batch

    # ------------------------------------------------------------ ownership

    async def run(self) -> None:
        """Own batches and work on them, until cancelled."""
        problem: str | None = None
        try:
            while True:
                try:
                    await self._scan()
                    problem = None
                except ProxyError as error:
                    if error.code != problem:
                        log.warning("batches cannot be read", code=error.code)
                    problem = error.code
                self._scan_now.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_SCAN_S if self._tasks or self._not_before else _IDLE_SCAN_S):
                        await self._scan_now.wait()
        finally:  # stop working, and let other replicas go on
            given_up = [runner.batch for runner in self._runners.values()]
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(StoreUnavailable):
                for batch in given_up:
                    await self.records.give_up(batch)

    async def _scan(self) -> None:
        """Begin to work on batches that nobody works on, those of owners with the fewest first."""
        options = self._options
        room = options.settings.max_running - len(self._tasks)
        if self._draining or room <= 0 or not self.records.healthy:
            return
        found = await self.records.free(self._tasks.keys() | self._being_made)
        now = time.monotonic()
        self._not_before = {id_: until for id_, until in self._not_before.items() if until > now}
        waiting = [each for each in found if each.id not in self._not_before]
        while waiting and len(self._tasks) < options.settings.max_running:
            owners = [runner.batch.owner for runner in self._runners.values()]
            batch = min(waiting, key=lambda each: owners.count(each.owner))
            waiting.remove(batch)
            if await self.records.take(batch):
                if batch.replica not in ("", self._options.lines.replica):
                    self._metrics.batches_taken_over.inc()
                    log.info("a batch is taken over", batch=batch.id)
                self._begin(batch)

    def _begin(self, batch: OpenBatch) -> None:
        runner = self._runners[batch.id] = BatchRunner(self._options, batch, self._starting, self._metrics)
        task = self._tasks[batch.id] = asyncio.create_task(runner.run())

        def ended(_: object) -> None:
            del self._tasks[batch.id], self._runners[batch.id]
            if not task.cancelled() and (error := task.exception()) is not None:
                known = isinstance(error, ProxyError)
                self._not_before[batch.id] = time.monotonic() + (_SCAN_S if known else _AFTER_BUG_S)
                write = log.warning if known else log.error
                write("the work on a batch was interrupted", batch=batch.id, exc_info=None if known else error)
            self._scan_now.set()

        task.add_done_callback(ended)


@asynccontextmanager
async def running_batches(options: BatchOptions, metrics: Metrics) -> AsyncIterator[Batches]:
    """The batches, worked on until the block ends."""
    batches = Batches(options, metrics)
    task = asyncio.create_task(batches.run())

    def ended(_: object) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("batches are not worked on any more", exc_info=error)

    task.add_done_callback(ended)
    try:
        yield batches
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
