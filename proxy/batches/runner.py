"""Works on one batch, from the check of its lines to its result files. Each line becomes one request, with the record of one request.

    validating    every line is read, and no job is submitted
    in_progress   lines become requests; each row is stored when its request has ended
    finalizing    the rows become files

The record of a line's submissions derives from the batch and the line's `custom_id`, and keeps failed jobs too. So the next owner of
the batch finds the job of every line that has one, and a line is paid once.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from proxy.access.authentication import Caller
from proxy.batches.files import FileWriter, computed
from proxy.batches.lines import (
    BatchOptions,
    Line,
    Pace,
    cancelled_at,
    check_lines,
    line_of,
    may_be_repeated,
    problem,
    record_name,
)
from proxy.batches.records import Batch, Done, OpenBatch
from proxy.errors import FileNotFound, InternalError, ProxyError, StoreUnavailable
from proxy.inference.backend import Record, RunOptions
from proxy.inference.request import JsonObject
from proxy.metrics import Metrics

_SYNC_S: Final = 1.0
_KEY_ROUNDS: Final = 10
"""Rounds of `_SYNC_S` between two checks that the key has not been revoked."""
_ROOM_S: Final = 0.05
MAX_STARTING: Final = 16
"""Lines that a replica submits at a time; of one batch half as many."""
_MAX_BYTES: Final = 16 << 20
"""Bytes of the lines of one batch that are worked on at a time, unless a single one has more."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class BatchRunner:
    """One batch that this replica owns. While `stopping` no line without a job is begun any more, while `draining` nothing is."""

    def __init__(self, options: BatchOptions, batch: OpenBatch, starting: asyncio.Semaphore, metrics: Metrics) -> None:
        self._metrics = metrics
        self.batch = batch
        self.stopping = self.draining = False
        self._options, self._caller = options, batch.caller
        self._done: dict[int, Done] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._pace = Pace(options.settings.max_in_flight)
        self._starting, self._starting_here = starting, asyncio.Semaphore(MAX_STARTING // 2)
        self._free = asyncio.Event()

    async def run(self) -> None:
        """Work on the batch until it has ended, or another replica owns it."""
        records = self._options.records
        try:
            batch = await records.find(self.batch.owner, self.batch.id)
            if batch.status == "validating":
                errors, total = await check_lines(self._options, batch)
                if errors:
                    await self._end("failed", errors=tuple(errors))
                    return
                fields: dict[str, Any] = {"in_progress_at": self._now(), "total": total}

                def validated(batch: Batch) -> Batch:
                    status = batch.status if batch.status != "validating" else "in_progress"
                    return replace(batch, status=status, **fields)

                batch = await self._change(validated)
            if not batch.ended:
                await self._work(batch)
                return
        except FileNotFound as error:
            log.error("a batch failed, since its content is gone", batch=self.batch.id)
            await self._end("failed", errors=(problem("input_file_gone", error.message),))
            return
        await self._close(batch)  # its owner died in the middle of that

    async def _change(self, change: Callable[[Batch], Batch]) -> Batch:
        return await self._options.records.change(self.batch.owner, self.batch.id, change)

    def _now(self) -> int:
        return int(self._options.clock())

    # ------------------------------------------------------------ ends

    async def _end(self, status: str, **fields: Any) -> None:
        fields |= {"status": status, f"{status}_at": self._now()}
        try:
            batch = await self._change(lambda batch: batch if batch.ended else replace(batch, **fields))
        except FileNotFound:  # the batch itself is gone
            batch = Batch(self.batch.id, self.batch.owner, "", "", "failed", 0, 0, 0)
        self._metrics.batches_ended.labels(batch.status).inc()
        log.info("a batch ended", batch=batch.id, status=batch.status, completed=batch.completed, failed=batch.failed)
        await self._close(batch)

    async def _close(self, batch: Batch) -> None:
        await self._options.files.leave(batch.input_file_id, batch.id)
        await self._options.records.close(batch)

    # ------------------------------------------------------------ lines

    async def _work(self, batch: Batch) -> None:
        self._done = await self._options.records.done(batch)
        self.stopping |= batch.cancelling_at is not None
        left_s = batch.expires_at - self._options.clock()
        if left_s > 0 and batch.status != "finalizing":
            syncing = asyncio.create_task(self._keep_in_step())
            work = asyncio.create_task(self._all_lines(batch))
            try:
                await asyncio.wait({syncing, work}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                for task in (syncing, work):
                    if task.done():
                        task.result()
                if syncing.done() or (self.draining and len(self._done) < batch.total):
                    return  # another replica owns the batch, or will
            finally:
                doomed = [syncing, work, *self._tasks]
                for task in doomed:
                    task.cancel()
                await asyncio.gather(*doomed, return_exceptions=True)
        if await self._options.records.owns(self.batch):
            await self._finalize()

    async def _keep_in_step(self) -> None:
        """Store the counts, and learn of a cancellation, of a revoked key, and of another owner: then it returns."""
        records, rounds = self._options.records, 0
        while True:
            await asyncio.sleep(_SYNC_S)
            rounds += 1
            try:
                if not await records.owns(self.batch):
                    log.warning("another replica owns the batch", batch=self.batch.id)
                    return
                batch = await self._change(self._with_counts)
                caller: Caller | None = self._caller
                if rounds % _KEY_ROUNDS == 1:
                    caller = await self._options.current(self.batch.caller)
            except StoreUnavailable:
                continue
            if caller is None and batch.cancelling_at is None:
                log.warning("a batch is cancelled, since its key was revoked", batch=batch.id)
                batch = await self._change(partial(cancelled_at, now=self._now()))
            self._caller = caller or self._caller
            self.stopping |= batch.cancelling_at is not None

    def _with_counts(self, batch: Batch) -> Batch:
        """The batch with the counts and the usage of its rows."""
        ok = sent = received = 0
        for each in self._done.values():
            ok, sent, received = ok + each.ok, sent + each.input_tokens, received + each.output_tokens
        failed = len(self._done) - ok
        return replace(batch, completed=ok, failed=failed, input_tokens=sent, output_tokens=received)

    async def _all_lines(self, batch: Batch) -> None:
        """Have each line answered that has no row."""
        options = self._options
        async for lines in options.input_lines(batch):
            for number, text in lines:
                if number in self._done or text is None:
                    continue
                while len(self._tasks) >= self._pace.width or (self._tasks and self._bytes + len(text) > _MAX_BYTES):
                    self._free.clear()
                    await self._free.wait()
                value = await self._parsed(text)
                line = line_of(batch, number, value)
                if self.draining or (self.stopping and not await self._has_job(line)):
                    continue
                self._spawn(batch, line, len(text), self._line(batch, line, value["body"], len(text)))
        while self._tasks:
            self._free.clear()
            await self._free.wait()

    async def _parsed(self, text: bytes) -> JsonObject:
        return await computed(len(text), partial(self._options.parse, text))

    def _spawn(self, batch: Batch, line: Line, size: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        self._bytes += size

        def ended(_: object) -> None:
            self._tasks.remove(task)
            self._bytes -= size
            self._free.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a line of a batch failed", batch=batch.id, line=line.number, exc_info=error)
                failure = InternalError("The server had an error while answering.")
                row = self._options.apis[batch.endpoint].failed(line, failure)
                self._spawn(batch, line, 0, self._store(batch, line, row, Done(ok=False)))

        task.add_done_callback(ended)

    async def _has_job(self, line: Line) -> bool:
        return bool(await _lasting(lambda: self._options.lines.read(record_name(line))))

    async def _line(self, batch: Batch, line: Line, body: JsonObject, size: int) -> None:
        """Have a line answered, and store its row, unless the batch is stopped before there is a job. What costs nothing to repeat is
        repeated."""
        options, api = self._options, self._options.apis[batch.endpoint]
        ttl_s = options.settings.window_s + options.settings.file_ttl_s
        record = Record(record_name(line), line.id, ttl_s, keep_failed=True)
        tries, decoded = 0, None
        while True:
            try:
                async with self._starting_here, self._starting:
                    while not (options.room() and options.records.healthy) and not self.draining:  # noqa: ASYNC110
                        await asyncio.sleep(_ROOM_S)
                    if self.draining or (self.stopping and not await self._has_job(line)):
                        return
                    if decoded is None:
                        decoded = await api.decode(body, size, self._caller, line)
                    run = await options.backend.start(decoded.request, self._caller, RunOptions(record=record))
                try:
                    result = await run.result()
                finally:
                    run.close(delivered=True)
                row = api.answered(line, await decoded.answer(result))
                done = Done(True, result.usage.input_tokens, result.usage.output_tokens)
                self._pace.answered()
                break
            except ProxyError as error:
                about = {"batch": batch.id, "line": line.number, "code": error.code}
                if not may_be_repeated(error):
                    log.info("a line of a batch failed", **about, job=error.job_id)
                    row, done = api.failed(line, error), Done(ok=False)
                    break
                tries += 1
                pause = self._pace.pause(error, tries)
                log.info("a line of a batch is tried again", **about, s=pause)
                await asyncio.sleep(pause)
        await self._store(batch, line, row, done)

    async def _store(self, batch: Batch, line: Line, row: bytes, done: Done) -> None:
        """Store a row; then the jobs of the line need not be known any more."""
        await _lasting(lambda: self._options.records.put_row(batch, line.number, row, done))
        if line.number not in self._done:
            self._metrics.batch_lines.labels("answer" if done.ok else "error").inc()
        self._done[line.number] = done
        await _lasting(lambda: self._options.lines.remove(record_name(line)))

    # ------------------------------------------------------------ results

    async def _finalize(self) -> None:
        """Write the result files, which have the same ids should this be begun again, and end the batch."""
        now = self._now()

        def finalizing(batch: Batch) -> Batch:
            status = batch.status if batch.cancelling_at or batch.ended else "finalizing"
            return replace(self._with_counts(batch), status=status, finalizing_at=batch.finalizing_at or now)

        batch = await self._change(finalizing)
        options, api, done, owner = self._options, self._options.apis[batch.endpoint], self._done, batch.owner
        files = {
            part: FileWriter(options.files, owner, f"file-{options.vault.derived(batch.id, part)}", batch.output_ttl_s)
            for part in ("output", "error")
        }
        async for number, unsent in self._rows(batch):
            if unsent is None:
                row: bytes | None = await options.records.row(batch, number)
            else:
                row = api.unsent(unsent, cancelled=batch.cancelling_at is not None)
            if row is not None:
                ok = api.one_file or (unsent is None and done[number].ok)
                await files["output" if ok else "error"].write(row + b"\n")
        status = "cancelled" if batch.cancelling_at else "expired" if batch.total > len(done) else "completed"
        ids = {
            f"{part}_file_id": (await file.finish(f"{batch.id}_{part}.jsonl")).id
            for part, file in files.items()
            if file.size
        }
        await self._end(status, **ids)

    async def _rows(self, batch: Batch) -> AsyncIterator[tuple[int, Line | None]]:
        """The numbers of the lines, with the lines that have no row."""
        if len(self._done) >= batch.total:
            for number in sorted(self._done):
                yield number, None
            return
        async for lines in self._options.input_lines(batch):
            for number, text in lines:
                if number in self._done:
                    yield number, None
                elif text is not None:
                    yield number, line_of(batch, number, await self._parsed(text))


async def _lasting(call: Callable[[], Awaitable[T]]) -> T:
    """What a call to the store returns, which is repeated until the store is reached."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(_SYNC_S)
