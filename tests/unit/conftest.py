"""What the unit tests share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.storage import SqliteStore


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Records in a file of the test's own."""
    made = SqliteStore(tmp_path / "records")
    yield made
    await made.aclose()
