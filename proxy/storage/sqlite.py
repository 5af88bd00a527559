"""Records in an SQLite file, which all processes of a machine share and which outlives them."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from proxy.storage.store import unavailable

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")
BUSY_TIMEOUT_S: Final = 5.0
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS fields (
    name TEXT NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    expires REAL,
    PRIMARY KEY (name, field)
) WITHOUT ROWID
"""
# A new field ends with its record.
_INSERT: Final = "INSERT OR IGNORE INTO fields VALUES (?, ?, ?, (SELECT max(expires) FROM fields WHERE name = ?))"
_REPLACE: Final = "REPLACE INTO fields VALUES (?, ?, ?, (SELECT max(expires) FROM fields WHERE name = ?))"
_UNEXPIRED: Final = "(expires IS NULL OR expires > ?)"
log = structlog.get_logger(__name__)


class SqliteStore:
    """See `proxy.storage.store.Records`. The file (mode 0600) is created by the first write; all work runs in one thread.

    Args:
        clock: seconds since 1970: other processes read the same times.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage")
        self._connection: sqlite3.Connection | None = None

    async def get(self, name: str, field: str) -> str | None:
        return (await self._select(f"name = ? AND field = ? AND {_UNEXPIRED}", name, field)).get(field)

    async def read(self, name: str) -> Mapping[str, str]:
        return await self._select(f"name = ? AND {_UNEXPIRED}", name)

    async def add(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> str:
        def add(connection: "sqlite3.Connection") -> str:
            connection.execute(_INSERT, (name, field, value, name))
            self._renew(connection, name, ttl_s)
            found = connection.execute("SELECT value FROM fields WHERE name = ? AND field = ?", (name, field))
            in_force: str = found.fetchone()[0]
            return in_force

        return await self._write(name, add)

    async def put(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> None:
        def put(connection: "sqlite3.Connection") -> None:
            connection.execute(_REPLACE, (name, field, value, name))
            self._renew(connection, name, ttl_s)

        await self._write(name, put)

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        def swap(connection: "sqlite3.Connection") -> bool:
            if old is None:
                return connection.execute(_INSERT, (name, field, new, name)).rowcount > 0
            update = "UPDATE fields SET value = ? WHERE name = ? AND field = ? AND value = ?"
            return connection.execute(update, (new, name, field, old)).rowcount > 0

        return await self._write(name, swap)

    async def remove(self, name: str, field: str | None = None) -> bool:
        def remove(connection: "sqlite3.Connection") -> bool:
            statement = "DELETE FROM fields WHERE name = ? AND (? IS NULL OR field = ?)"
            return connection.execute(statement, (name, field, field)).rowcount > 0

        return await self._write(name, remove)

    async def aclose(self) -> None:
        """Close the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _select(self, where: str, *values: str) -> dict[str, str]:
        def select() -> dict[str, str]:
            if self._connection is None and not self._file.exists():
                return {}
            rows = self._connected().execute(
                f"SELECT field, value FROM fields WHERE {where} ORDER BY field",  # noqa: S608 (constants only)
                (*values, self._clock()),
            )
            return dict(rows.fetchall())

        return await self._run(select)

    async def _write(self, name: str, work: Callable[["sqlite3.Connection"], T]) -> T:
        def write() -> T:
            with self._connected() as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("DELETE FROM fields WHERE name = ? AND expires <= ?", (name, self._clock()))
                return work(connection)

        return await self._run(write)

    def _renew(self, connection: "sqlite3.Connection", name: str, ttl_s: float | None) -> None:
        if ttl_s is not None:
            connection.execute("UPDATE fields SET expires = ? WHERE name = ?", (self._clock() + ttl_s, name))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._attempt, work)

    def _attempt(self, work: Callable[[], T]) -> T:
        import sqlite3  # noqa: PLC0415 (two megabytes that a server with a Redis never needs)

        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            log.warning("the storage file cannot be used", error=type(error).__name__)
            raise unavailable() from error

    def _connected(self) -> "sqlite3.Connection":
        import sqlite3  # noqa: PLC0415

        if self._connection is None:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file.touch(mode=0o600)
            with ExitStack() as stack:
                connection = stack.enter_context(
                    closing(sqlite3.connect(self._file, timeout=BUSY_TIMEOUT_S, check_same_thread=False))
                )
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    connection.execute(_TABLE)
                stack.pop_all()  # from here on `aclose` closes it
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
