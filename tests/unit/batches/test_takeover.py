"""A replica dies at each of the writes that a batch takes; the next one ends the batch, with one row and one job for each line."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from proxy.access.authentication import Caller
from proxy.batches import engine, runner
from proxy.batches.engine import Asked, Batches, NewBatch, running_batches
from proxy.batches.files import FileStore, Vault
from proxy.batches.lines import BatchOptions, Line, LineRequest
from proxy.batches.records import Batch, BatchRecords
from proxy.errors import PaidFailure, ProxyError, StoreUnavailable
from proxy.inference.backend import Report, RunOptions
from proxy.inference.request import JsonObject, Request
from proxy.inference.result import Choice, Result, Usage
from proxy.metrics import Metrics
from proxy.settings import BatchSettings
from proxy.storage import MemoryStore
from proxy.storage.cipher import Cipher
from tests.waiting import until

OWNER, CALLER = "caller_1", Caller(None, None, id="caller_1")
LINES = 6
FAILING = "c3"


class Shared:
    """A store that replicas share, and those of them that run."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.running: set[str] = set()


async def others_run() -> None:
    """What a store or an upstream across a network does before it answers: the other replicas go on."""
    await asyncio.sleep(0)


class Replica:
    """One replica's access to the store. After so many writes it is dead: nothing it does has an effect any more."""

    shared, healthy = True, True

    def __init__(self, shared: Shared, name: str, writes: int | None = None) -> None:
        self.replica, self._shared, self._left = name, shared, writes
        self.writes = 0
        self.dead, self._buried = asyncio.Event(), asyncio.Event()
        shared.running.add(name)

    def bury(self) -> None:
        self._shared.running.discard(self.replica)
        self._buried.set()

    async def _alive(self, *, write: bool = True) -> MemoryStore:
        await others_run()
        if write and self._left is not None and self.writes >= self._left:
            self.dead.set()
        if self.dead.is_set():
            await self._buried.wait()
            raise StoreUnavailable("dead")
        self.writes += write
        return self._shared.store

    async def get(self, name: str, field: str) -> str | None:
        return await (await self._alive(write=False)).get(name, field)

    async def read(self, name: str) -> Mapping[str, str]:
        return await (await self._alive(write=False)).read(name)

    async def add(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> str:
        return await (await self._alive()).add(name, field, value, ttl_s=ttl_s)

    async def put(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> None:
        await (await self._alive()).put(name, field, value, ttl_s=ttl_s)

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        return await (await self._alive()).compare_and_set(name, field, old, new)

    async def remove(self, name: str, field: str | None = None) -> bool:
        return await (await self._alive()).remove(name, field)

    async def alive(self, replica: str) -> bool:
        return replica in self._shared.running


class Upstream:
    """A backend whose jobs are known by the seeds of their records; one line's job fails."""

    def __init__(self) -> None:
        self.jobs: dict[UUID, str] = {}

    async def start(self, request: Request, caller: Caller, options: RunOptions) -> "UpstreamRun":
        assert caller == CALLER
        assert options.record is not None
        assert options.record.keep_failed
        self.jobs[options.record.seed] = request.model
        await others_run()
        return UpstreamRun(request.model)


class UpstreamRun:
    report = Report()

    def __init__(self, model: str) -> None:
        self._model = model

    async def result(self) -> Result:
        await others_run()
        if self._model == FAILING:
            raise PaidFailure("It failed.", code="narrative_job_failed")
        return Result("id", 0, "", (Choice(self._model),), Usage(2, 3, 5))

    def events(self) -> Any:
        raise NotImplementedError

    def close(self, *, delivered: bool) -> None:
        assert delivered


class Api:
    one_file = False

    async def decode(self, body: JsonObject, size: int, caller: Caller, line: Line) -> LineRequest:
        async def answer(result: Result) -> bytes:
            return str(result.choices[0].text).encode()

        return LineRequest(Request(model=line.custom_id, messages=()), answer)

    def answered(self, line: Line, body: bytes) -> bytes:
        return json.dumps([line.custom_id, body.decode()]).encode()

    def failed(self, line: Line, error: ProxyError) -> bytes:
        return json.dumps([line.custom_id, error.code]).encode()

    def unsent(self, line: Line, *, cancelled: bool) -> bytes | None:
        return None


def options_of(replica: Replica, upstream: Upstream, folder: Path) -> BatchOptions:
    settings, vault = BatchSettings(), Vault(Cipher(None, folder / "secret.key"))

    async def current(caller: Caller) -> Caller | None:
        return caller

    return BatchOptions(
        settings=settings,
        files=FileStore(replica, vault, settings),
        records=BatchRecords(replica, vault, settings),
        vault=vault,
        backend=upstream,
        lines=replica,
        apis={"/": Api()},
        parse=json.loads,
        max_line_bytes=1_000,
        room=lambda: True,
        current=current,
    )


async def begin(batches: Batches) -> Batch:
    await batches.open()
    async with batches.files.upload(OWNER, 3600) as writer:
        for number in range(LINES):
            line = {"custom_id": f"c{number}", "method": "POST", "url": "/", "body": {}}
            await writer.write(json.dumps(line).encode() + b"\n")
        file = await writer.finish("a.jsonl")
    return await batches.create(NewBatch("batch_", "/", file), Asked(OWNER, CALLER, "", None, False, 60))


async def ended(batches: Batches, id_: str) -> Batch:
    async def has_ended() -> bool:
        return (await batches.records.find(OWNER, id_)).ended and not await batches.records.free([])

    await until(has_ended)
    return await batches.records.find(OWNER, id_)


async def content(batches: Batches, file_id: str | None) -> list[Any]:
    assert file_id is not None
    file = await batches.files.find(OWNER, file_id)
    text = b"".join([piece async for piece in batches.files.pieces(file.id, file.pieces)])
    return [json.loads(row) for row in text.splitlines()]


@pytest.mark.parametrize("writes", range(5))
async def test_a_replica_dies_while_it_makes_a_batch(tmp_path: Path, writes: int) -> None:
    shared, upstream = Shared(), Upstream()
    first = Replica(shared, "first")
    options = options_of(first, upstream, tmp_path)
    await options.vault.open()
    batches = Batches(options, Metrics())
    async with batches.files.upload(OWNER, 3600) as writer:
        await writer.write(b'{"custom_id": "c0", "method": "POST", "url": "/", "body": {}}')
        file = await writer.finish("a.jsonl")
    asked = Asked(OWNER, CALLER, "", "a key", False, 60)
    first._left = first.writes + writes
    making = asyncio.create_task(batches.create(NewBatch("batch_", "/", file), asked))
    dead = asyncio.create_task(first.dead.wait())
    await asyncio.wait({making, dead}, return_when=asyncio.FIRST_COMPLETED)
    first.bury()
    await asyncio.gather(making, return_exceptions=True)
    dead.cancel()
    second = Replica(shared, "second")
    async with running_batches(options_of(second, upstream, tmp_path), Metrics()) as batches:
        await batches.open()
        batch = await batches.repeated(asked) or await batches.create(NewBatch("batch_", "/", file), asked)
        batch = await ended(batches, batch.id)
        assert (batch.status, batch.completed) == ("completed", 1)
        assert [each.id for each in await batches.records.all(OWNER)] == [batch.id]
    assert len(upstream.jobs) == 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_SCAN_S", 0.002)
    monkeypatch.setattr(runner, "_SYNC_S", 0.002)


async def whole(folder: Path, writes: int | None, cancel: bool) -> int:
    """Run a batch on a replica that dies after so many writes, and end it on another. Returns how many the first one made."""
    shared, upstream = Shared(), Upstream()
    first = Replica(shared, "first")
    async with running_batches(options_of(first, upstream, folder), Metrics()) as batches:
        batch = await begin(batches)
        if cancel:
            await batches.cancel(OWNER, batch.id)
        made = first.writes
        first._left = None if writes is None else made + writes
        dead, done = asyncio.create_task(first.dead.wait()), asyncio.create_task(ended(batches, batch.id))
        await asyncio.wait({dead, done}, return_when=asyncio.FIRST_COMPLETED)
        first.bury()
        for task in (dead, done):
            task.cancel()
        await asyncio.gather(dead, done, return_exceptions=True)
    second = Replica(shared, "second")
    async with running_batches(options_of(second, upstream, folder), Metrics()) as batches:
        await batches.open()
        batch = await ended(batches, batch.id)
        assert batch.status == ("cancelled" if cancel else "completed")
        if not cancel:
            good = {f"c{number}" for number in range(LINES)} - {FAILING}
            assert sorted(await content(batches, batch.output_file_id)) == sorted([id_, id_] for id_ in good)
            assert await content(batches, batch.error_file_id) == [[FAILING, "narrative_job_failed"]]
            assert (batch.total, batch.completed, batch.failed) == (LINES, LINES - 1, 1)
            assert (batch.input_tokens, batch.output_tokens) == (2 * (LINES - 1), 3 * (LINES - 1))
            assert sorted(upstream.jobs.values()) == [f"c{number}" for number in range(LINES)]
        else:
            assert batch.completed + batch.failed == len(upstream.jobs)
        await batches.files.remove(OWNER, await batches.files.find(OWNER, batch.input_file_id))
        left = {name.split(":")[0] for name in shared.store._records}
        assert left <= {"batch-files", "batch-file", "batches", "batch-key"}, left
    return first.writes - made


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("cancel", [False, True], ids=["to its end", "cancelled"])
async def test_a_replica_dies_at_each_of_its_writes(tmp_path: Path, cancel: bool) -> None:
    writes = await whole(tmp_path, None, cancel)
    assert writes > (5 if cancel else 3 * LINES)
    for number in range(writes):
        await whole(tmp_path, number, cancel)
