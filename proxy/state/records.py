"""Records that outlive a restart: keys and named endpoints, a few small values by kind and name.

On one machine they live in an SQLite file that all its processes share; with a Redis they live there, for all replicas.
"""

import asyncio
import sqlite3
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

from proxy.errors import Overloaded

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Records(Protocol):
    """Values by kind and name. Every call raises Overloaded (`state_unavailable`) when the store cannot be reached."""

    async def get(self, kind: str, name: str) -> bytes | None:
        """One value, None when there is none."""

    async def all(self, kind: str) -> Mapping[str, bytes]:
        """Every value of a kind, by name, in the order of names."""

    async def add(self, kind: str, name: str, value: bytes) -> bool:
        """Store a new value; False, and nothing stored, when there is one of that name."""

    async def put(self, kind: str, name: str, value: bytes) -> None:
        """Store a value in place of whatever there was."""

    async def remove(self, kind: str, name: str) -> bool:
        """Remove a value; False when there was none."""

    async def aclose(self) -> None:
        """Let go of files and connections."""


@asynccontextmanager
async def open_records(folder: Path, redis_url: str | None, prefix: str) -> AsyncIterator["RememberedRecords"]:
    """The records of a Redis where there is one, else of `records.sqlite3` in a folder; with a short memory, closed at the end.

    Nothing is opened before its first use.

    Args:
        prefix: start of every name in Redis.
    """
    file = folder / "records.sqlite3"
    records = RememberedRecords(SqliteRecords(file) if redis_url is None else RedisRecords(redis_url, prefix))
    try:
        yield records
    finally:
        await records.aclose()


_TABLE = """
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID
"""


class SqliteRecords:
    """Records in an SQLite file (mode 0600), made at the first write. One thread of its own keeps the event loop free."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="records")
        self._connection: sqlite3.Connection | None = None

    async def get(self, kind: str, name: str) -> bytes | None:
        rows = await self._read("SELECT name, value FROM records WHERE kind = ? AND name = ?", kind, name)
        return rows.get(name)

    async def all(self, kind: str) -> Mapping[str, bytes]:
        return await self._read("SELECT name, value FROM records WHERE kind = ? ORDER BY name", kind)

    async def add(self, kind: str, name: str, value: bytes) -> bool:
        return await self._write("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", kind, name, value) > 0

    async def put(self, kind: str, name: str, value: bytes) -> None:
        await self._write("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", kind, name, value)

    async def remove(self, kind: str, name: str) -> bool:
        return await self._write("DELETE FROM records WHERE kind = ? AND name = ?", kind, name) > 0

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _read(self, query: str, *values: str) -> dict[str, bytes]:
        def read() -> dict[str, bytes]:
            connection = self._connected() if self._file.exists() else None
            return {} if connection is None else dict(connection.execute(query, values).fetchall())

        return await self._run(read)

    async def _write(self, statement: str, *values: str | bytes) -> int:
        def write() -> int:
            with self._connected() as connection:
                return connection.execute(statement, values).rowcount

        return await self._run(write)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            raise _unavailable(error) from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file.touch(mode=0o600)
            with ExitStack() as stack:
                connection = stack.enter_context(
                    closing(sqlite3.connect(self._file, timeout=5.0, check_same_thread=False))
                )
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    connection.execute(_TABLE)
                stack.pop_all()  # all is well: it stays open
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class RedisRecords:
    """Records in hashes of a Redis, one a kind. They last as long as that Redis keeps its data."""

    def __init__(self, url: str, prefix: str) -> None:
        self._prefix = prefix
        pool = BlockingConnectionPool.from_url(
            url, max_connections=16, timeout=5, socket_connect_timeout=1.0, socket_timeout=2.0
        )
        self._redis: Any = Redis.from_pool(pool)

    async def get(self, kind: str, name: str) -> bytes | None:
        value: bytes | None = await self._run(lambda: self._redis.hget(self._hash(kind), name))
        return value

    async def all(self, kind: str) -> Mapping[str, bytes]:
        found: dict[bytes, bytes] = await self._run(lambda: self._redis.hgetall(self._hash(kind)))
        return {name.decode(): value for name, value in sorted(found.items())}

    async def add(self, kind: str, name: str, value: bytes) -> bool:
        return bool(await self._run(lambda: self._redis.hsetnx(self._hash(kind), name, value)))

    async def put(self, kind: str, name: str, value: bytes) -> None:
        await self._run(lambda: self._redis.hset(self._hash(kind), name, value))

    async def remove(self, kind: str, name: str) -> bool:
        return bool(await self._run(lambda: self._redis.hdel(self._hash(kind), name)))

    async def aclose(self) -> None:
        await self._redis.aclose()

    def _hash(self, kind: str) -> str:
        return f"{self._prefix}records:{kind}"

    async def _run(self, call: Callable[[], Any]) -> Any:
        try:
            return await call()
        except (RedisError, OSError) as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> Overloaded:
    log.warning("records unavailable", error=type(error).__name__)
    return Overloaded(
        "Keys and named endpoints cannot be read at the moment.", code="state_unavailable", retry_after=1.0
    )


class RememberedRecords:
    """Records with a short memory in front, so that a busy server reads each only now and then.

    Another process's change is seen after `remember_s` seconds at most. While the store cannot be reached, what was known of it stays
    in force for `keep_s` seconds. That a name is absent is never remembered: a new key works at once.
    """

    def __init__(
        self,
        records: Records,
        *,
        remember_s: float = 0.5,
        keep_s: float = 600.0,
        most: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = records
        self._remember_s = remember_s
        self._keep_s = keep_s
        self._most = most
        self._clock = clock
        self._known: OrderedDict[tuple[str, str | None], tuple[float, Any]] = OrderedDict()

    async def get(self, kind: str, name: str) -> bytes | None:
        value: bytes | None = await self._remembered((kind, name), lambda: self._records.get(kind, name))
        return value

    async def all(self, kind: str) -> Mapping[str, bytes]:
        found: Mapping[str, bytes] = await self._remembered((kind, None), lambda: self._records.all(kind))
        return found

    async def add(self, kind: str, name: str, value: bytes) -> bool:
        try:
            return await self._records.add(kind, name, value)
        finally:
            self._forget(kind, name)

    async def put(self, kind: str, name: str, value: bytes) -> None:
        try:
            await self._records.put(kind, name, value)
        finally:
            self._forget(kind, name)

    async def remove(self, kind: str, name: str) -> bool:
        try:
            return await self._records.remove(kind, name)
        finally:
            self._forget(kind, name)

    async def aclose(self) -> None:
        await self._records.aclose()

    def _forget(self, kind: str, name: str) -> None:
        self._known.pop((kind, name), None)
        self._known.pop((kind, None), None)

    async def _remembered(self, what: tuple[str, str | None], read: Callable[[], Any]) -> Any:
        now = self._clock()
        at, value = self._known.get(what, (-self._keep_s, None))
        if value is not None and now < at + self._remember_s:
            return value
        try:
            fresh = await read()
        except Overloaded:
            if value is not None and now < at + self._keep_s:
                return value
            raise
        self._known.pop(what, None)
        if fresh is not None:
            self._known[what] = (now, fresh)
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return fresh
