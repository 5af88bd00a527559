"""Records in an SQLite file, which all processes of a machine share and which outlives them."""

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Mapping
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
_SWEPT: Final = 1_000
"""Expired records that are removed at a time."""
_BUSY_TIMEOUT_S: Final = 5.0
_SET_UP: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS fields (
    name TEXT NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name, field)
) WITHOUT ROWID;
"""
_EXPIRING: Final = """
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS lives (name TEXT NOT NULL PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
"""
log = structlog.get_logger(__name__)


class SqliteStore:
    """See `proxy.storage.store.Records`. The file (mode 0600) is created by the first write; all work runs in one thread."""

    _set_up = _SET_UP

    def __init__(self, file: Path) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage")
        self._connection: sqlite3.Connection | None = None

    async def get(self, name: str, field: str) -> str | None:
        rows, _ = await self._run("SELECT value FROM fields WHERE name = ? AND field = ?", name, field)
        return rows[0][0] if rows else None

    async def read(self, name: str) -> Mapping[str, str]:
        return dict((await self._run("SELECT field, value FROM fields WHERE name = ? ORDER BY field", name))[0])

    async def put(self, name: str, field: str, value: str) -> None:
        await self._run("REPLACE INTO fields VALUES (?, ?, ?)", name, field, value)

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        if old is None:
            _, changed = await self._run("INSERT OR IGNORE INTO fields VALUES (?, ?, ?)", name, field, new)
        else:
            update = "UPDATE fields SET value = ? WHERE name = ? AND field = ? AND value = ?"
            _, changed = await self._run(update, new, name, field, old)
        return changed > 0

    async def remove(self, name: str, field: str | None = None) -> bool:
        _, changed = await self._run("DELETE FROM fields WHERE name = ?1 AND (?2 IS NULL OR field = ?2)", name, field)
        return changed > 0

    async def aclose(self) -> None:
        """Close the file."""
        await asyncio.to_thread(self._thread.shutdown)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self, statement: str, *values: str | None) -> tuple[list[Any], int]:
        """The rows that a statement finds, and how many it changed."""

        def work(connection: sqlite3.Connection) -> tuple[list[Any], int]:
            cursor = connection.execute(statement, values)
            return cursor.fetchall(), cursor.rowcount

        if not statement.startswith("SELECT"):
            return await self._transact(work)
        return await self._transact(work, otherwise=([], 0))

    async def _transact(self, work: Callable[[sqlite3.Connection], T], *, otherwise: T | None = None) -> T:
        """What some work in one transaction returns; `otherwise` if it only reads, and there is no file yet."""

        def transact() -> T:
            if otherwise is not None and self._connection is None and not self._file.exists():
                return otherwise
            try:
                with self._connected() as connection:
                    return work(connection)
            except (sqlite3.Error, OSError) as error:
                log.warning("the storage file cannot be used", error=type(error).__name__)
                raise unavailable() from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, transact)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file.touch(mode=0o600)
            connection = sqlite3.connect(self._file, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Set the file up. Of processes that change its journal mode at once, SQLite refuses some without waiting."""
        until = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                connection.executescript(self._set_up)
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                    raise
                time.sleep(random.uniform(0.005, 0.05))  # noqa: S311  jitter


class SqliteLedger(SqliteStore):
    """See `proxy.storage.store.Ledger`: records that may expire, for all processes of a machine.

    A transaction survives the death of the process, and not always that of the machine. From the first write on, a task records once a
    second that this process runs.

    Args:
        clock: seconds since 1970; the processes of a machine have the same.
    """

    _set_up = _SET_UP + _EXPIRING
    healthy = True

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        super().__init__(file)
        self.replica = uuid4().hex
        self._clock = clock
        self._swept_at = 0.0
        self._heartbeat: asyncio.Task[None] | None = None

    async def get(self, name: str, field: str) -> str | None:
        return (await self._fields(name, field)).get(field)

    async def read(self, name: str) -> Mapping[str, str]:
        return await self._fields(name, None)

    async def add(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> str:
        def work(connection: sqlite3.Connection) -> str:
            self._begin(connection, name, ttl_s)
            connection.execute("INSERT OR IGNORE INTO fields VALUES (?, ?, ?)", (name, field, value))
            select = "SELECT value FROM fields WHERE name = ? AND field = ?"
            return str(connection.execute(select, (name, field)).fetchone()[0])

        return await self._write(work)

    async def put(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> None:
        def work(connection: sqlite3.Connection) -> None:
            self._begin(connection, name, ttl_s)
            connection.execute("REPLACE INTO fields VALUES (?, ?, ?)", (name, field, value))

        await self._write(work)

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            self._begin(connection, name, None)
            if old is None:
                insert = "INSERT OR IGNORE INTO fields VALUES (?, ?, ?)"
                return connection.execute(insert, (name, field, new)).rowcount > 0
            update = "UPDATE fields SET value = ? WHERE name = ? AND field = ? AND value = ?"
            return connection.execute(update, (new, name, field, old)).rowcount > 0

        return await self._write(work)

    async def alive(self, replica: str) -> bool:
        return replica == self.replica or await self.get(f"replica:{replica}", "runs") is not None

    async def aclose(self) -> None:
        """Close the file; other processes can take over at once."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.gather(self._heartbeat, return_exceptions=True)
            with suppress(StoreUnavailable):
                await self.remove(f"replica:{self.replica}")
        await super().aclose()

    async def _fields(self, name: str, field: str | None) -> dict[str, str]:
        statement = (
            "SELECT field, value FROM fields WHERE name = ?1 AND (?2 IS NULL OR field = ?2) AND NOT EXISTS"
            " (SELECT 1 FROM lives WHERE lives.name = ?1 AND until <= ?3) ORDER BY field"
        )
        now = self._clock()
        return await self._transact(
            lambda connection: dict(connection.execute(statement, (name, field, now)).fetchall()), otherwise={}
        )

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._heartbeat is None:
            self._heartbeat = asyncio.create_task(self._keep_alive())
        return await self._transact(work)

    def _begin(self, connection: sqlite3.Connection, name: str, ttl_s: float | None) -> None:
        """Take what has expired out of the way, and set the record's life."""
        now = self._clock()
        connection.execute("BEGIN IMMEDIATE")
        expired = connection.execute("SELECT name FROM lives WHERE name = ? AND until <= ?", (name, now)).fetchall()
        if now - self._swept_at >= _SWEEP_S:
            self._swept_at = now
            expired += connection.execute("SELECT name FROM lives WHERE until <= ? LIMIT ?", (now, _SWEPT)).fetchall()
        for each in expired:
            connection.execute("DELETE FROM fields WHERE name = ?", each)
            connection.execute("DELETE FROM lives WHERE name = ?", each)
        if ttl_s is not None:
            connection.execute("REPLACE INTO lives VALUES (?, ?)", (name, now + ttl_s))

    async def _keep_alive(self) -> None:
        while True:
            with suppress(StoreUnavailable):
                await self.put(f"replica:{self.replica}", "runs", "", ttl_s=LEASE_S)
            await asyncio.sleep(_HEARTBEAT_S)
