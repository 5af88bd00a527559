"""Records in an SQLite file, which all processes of a machine share and which outlives them."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import structlog

from proxy.storage.store import unavailable

T = TypeVar("T")
_BUSY_TIMEOUT_S: Final = 5.0
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS fields (
    name TEXT NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name, field)
) WITHOUT ROWID
"""
log = structlog.get_logger(__name__)


class SqliteStore:
    """See `proxy.storage.store.Records`. The file (mode 0600) is created by the first write; all work runs in one thread."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storage")
        self._connection: sqlite3.Connection | None = None

    async def get(self, name: str, field: str) -> str | None:
        rows = await self._read("SELECT field, value FROM fields WHERE name = ? AND field = ?", name, field)
        return rows.get(field)

    async def read(self, name: str) -> Mapping[str, str]:
        return await self._read("SELECT field, value FROM fields WHERE name = ? ORDER BY field", name)

    async def put(self, name: str, field: str, value: str) -> None:
        await self._write("REPLACE INTO fields VALUES (?, ?, ?)", name, field, value)

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        if old is None:
            return await self._write("INSERT OR IGNORE INTO fields VALUES (?, ?, ?)", name, field, new) > 0
        update = "UPDATE fields SET value = ? WHERE name = ? AND field = ? AND value = ?"
        return await self._write(update, new, name, field, old) > 0

    async def remove(self, name: str, field: str | None = None) -> bool:
        statement = "DELETE FROM fields WHERE name = ?1 AND (?2 IS NULL OR field = ?2)"
        return await self._write(statement, name, field) > 0

    async def aclose(self) -> None:
        """Close the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _read(self, query: str, *values: str) -> dict[str, str]:
        def read() -> dict[str, str]:
            if self._connection is None and not self._file.exists():
                return {}
            return dict(self._connected().execute(query, values).fetchall())

        return await self._run(read)

    async def _write(self, statement: str, *values: str | None) -> int:
        """Returns how many rows it changed."""

        def write() -> int:
            with self._connected() as connection:
                return connection.execute(statement, values).rowcount

        return await self._run(write)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._attempt, work)

    def _attempt(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            log.warning("the storage file cannot be used", error=type(error).__name__)
            raise unavailable() from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file.touch(mode=0o600)
            connection = sqlite3.connect(self._file, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    connection.execute(_TABLE)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
