"""Records in an SQLite file, which all processes of a machine share and which outlives them."""

import asyncio
import sqlite3
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import structlog

from proxy.storage.store import unavailable

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
log = structlog.get_logger(__name__)


class SqliteStore:
    """See `proxy.storage.store.Records`. The file (mode 0600) is created by the first write; all work runs in one thread."""

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

        def work() -> tuple[list[Any], int]:
            if statement.startswith("SELECT") and self._connection is None and not self._file.exists():
                return [], 0
            try:
                with self._connected() as connection:
                    cursor = connection.execute(statement, values)
                    return cursor.fetchall(), cursor.rowcount
            except (sqlite3.Error, OSError) as error:
                log.warning("the storage file cannot be used", error=type(error).__name__)
                raise unavailable() from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file.touch(mode=0o600)
            connection = sqlite3.connect(self._file, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
            try:
                connection.executescript(_SET_UP)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection
