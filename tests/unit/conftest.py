"""What the unit tests share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.state.records import SqliteRecords


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    """Records in a file of the test's own."""
    made = SqliteRecords(tmp_path / "records")
    yield made
    await made.aclose()
