"""Records in an SQLite file, which all processes of a machine share and which outlives them."""

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import structlog

from proxy.errors import StoreUnavailable
from proxy.storage.store import unavailable

T = TypeVar("T")
LEASE_S: Final = 5.0
"""How long a process that was killed counts as alive."""
_HEARTBEAT_S: Final = 1.0
_SWEEP_S: Final = 60.0
_BUSY_TIMEOUT_S: Final = 5.0
_SET_UP: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = {};
CREATE TABLE IF NOT EXISTS fields (
    name TEXT NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name, field)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lives (name TEXT NOT NULL PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
"""
_RECORD: Final = (
    "SELECT field, value FROM fields WHERE name = :name"
    " AND NOT EXISTS (SELECT 1 FROM lives WHERE lives.name = :name AND until <= :now)"
)
_INSERT: Final = "INSERT OR IGNORE INTO fields VALUES (:name, :field, :value)"
log = structlog.get_logger(__name__)


class SqliteStore:
    """See `proxy.storage.store.Ledger`. The file (mode 0600) is created by the first write; all work runs in one thread.

    Args:
        file: shared by all processes of a machine.
        ledger: other processes ask whether this one runs: from the first write on, a task records that once a second. A transaction then
            survives the death of the process, and not always that of the machine; otherwise it survives both.
        clock: seconds since 1970; the processes of a machine have the same.
    """

    healthy = True

    def __init__(self, file: Path, *, ledger: bool = False, clock: Callable[[], float] = time.time) -> None:
        self.replica = uuid4().hex
        self._file = file
        self._ledger = ledger
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage")
        self._connection: sqlite3.Connection | None = None
        self._swept_at = 0.0
        self._heartbeat: asyncio.Task[None] | None = None

    async def get(self, name: str, field: str) -> str | None:
        return (await self._fields(name, field)).get(field)

    async def read(self, name: str) -> Mapping[str, str]:
        return await self._fields(name, None)

    async def add(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> str:
        statements = (_INSERT, "SELECT value FROM fields WHERE name = :name AND field = :field")
        rows, _ = await self._write(name, statements, ttl_s, field=field, value=value)
        return str(rows[0][0])

    async def put(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> None:
        await self._write(name, ["REPLACE INTO fields VALUES (:name, :field, :value)"], ttl_s, field=field, value=value)

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        update = "UPDATE fields SET value = :value WHERE name = :name AND field = :field AND value = :old"
        _, changed = await self._write(name, [_INSERT if old is None else update], field=field, value=new, old=old)
        return changed > 0

    async def remove(self, name: str, field: str | None = None) -> bool:
        delete = "DELETE FROM fields WHERE name = :name AND (:field IS NULL OR field = :field)"
        _, changed = await self._write(name, [delete], field=field)
        return changed > 0

    async def alive(self, replica: str) -> bool:
        return replica == self.replica or await self.get(f"replica:{replica}", "runs") is not None

    async def aclose(self) -> None:
        """Close the file; other processes can take over at once."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.gather(self._heartbeat, return_exceptions=True)
            with suppress(StoreUnavailable):
                await self.remove(f"replica:{self.replica}")
        await asyncio.to_thread(self._thread.shutdown)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _keep_alive(self) -> None:
        while True:
            with suppress(StoreUnavailable):
                await self.put(f"replica:{self.replica}", "runs", "", ttl_s=LEASE_S)
            await asyncio.sleep(_HEARTBEAT_S)

    async def _fields(self, name: str, field: str | None) -> dict[str, str]:
        statement = _RECORD + (" ORDER BY field" if field is None else " AND field = :field")
        values = {"name": name, "field": field, "now": self._clock()}
        return await self._run(lambda connection: dict(connection.execute(statement, values).fetchall()), otherwise={})

    async def _write(
        self, name: str, statements: Sequence[str], ttl_s: float | None = None, **values: str | None
    ) -> tuple[list[Any], int]:
        """Run statements about one record in one transaction: the rows that the last one finds, and how many it changes."""

        def work(connection: sqlite3.Connection) -> tuple[list[Any], int]:
            now = self._clock()
            connection.execute("BEGIN IMMEDIATE")
            expired = connection.execute("SELECT name FROM lives WHERE name = ? AND until <= ?", (name, now)).fetchall()
            if now - self._swept_at >= _SWEEP_S:
                self._swept_at = now
                swept = connection.execute("SELECT name FROM lives WHERE until <= ? LIMIT 1000", (now,))
                expired += swept.fetchall()
            for each in expired:
                connection.execute("DELETE FROM fields WHERE name = ?", each)
                connection.execute("DELETE FROM lives WHERE name = ?", each)
            if ttl_s is not None:
                connection.execute("REPLACE INTO lives VALUES (?, ?)", (name, now + ttl_s))
            for statement in statements:
                cursor = connection.execute(statement, {"name": name, **values})
            return cursor.fetchall(), cursor.rowcount

        if self._ledger and self._heartbeat is None:
            self._heartbeat = asyncio.create_task(self._keep_alive())
        return await self._run(work)

    async def _run(self, work: Callable[[sqlite3.Connection], T], *, otherwise: T | None = None) -> T:
        """What some work in one transaction returns; `otherwise` if it only reads, and there is no file yet."""

        def transact() -> T:
            if otherwise is not None and self._connection is None and not self._file.exists():
                return otherwise
            try:
                self._connection = self._connection or self._connect()
                with self._connection:
                    return work(self._connection)
            except (sqlite3.Error, OSError) as error:
                log.warning("the storage file cannot be used", error=type(error).__name__)
                raise unavailable() from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, transact)

    def _connect(self) -> sqlite3.Connection:
        """Open the file and set it up. Of processes that change its journal mode at once, SQLite refuses some without waiting."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file.touch(mode=0o600)
        connection = sqlite3.connect(self._file, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
        until = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                connection.executescript(_SET_UP.format("NORMAL" if self._ledger else "FULL"))
                return connection
            except sqlite3.Error as error:
                busy = (
                    isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                )
                if not busy or time.monotonic() >= until:
                    connection.close()
                    raise
                time.sleep(random.uniform(0.005, 0.05))  # noqa: S311  jitter
