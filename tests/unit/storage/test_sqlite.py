"""Records in a file: durable, private to their owner, and the same for all processes of the machine."""

import asyncio
import stat
from pathlib import Path

import pytest

from proxy.errors import Overloaded
from proxy.storage import SqliteStore


async def test_what_is_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "new" / "records"
    first = SqliteStore(file)
    assert await first.compare_and_set("record", "b", None, "1")
    assert not await first.compare_and_set("record", "b", None, "2")
    await first.put("record", "a", "3")
    await first.put("other", "c", "4")
    await first.aclose()
    second = SqliteStore(file)
    assert await second.read("record") == {"a": "3", "b": "1"}
    assert await second.get("record", "c") is None
    assert await second.remove("record", "a")
    assert not await second.remove("record", "a")
    assert await second.get("record", "a") is None
    assert await second.remove("record")
    assert not await second.remove("record")
    assert await second.read("other") == {"c": "4"}
    await second.aclose()


async def test_the_file_is_created_by_the_first_write_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "records"
    records = SqliteStore(file)
    assert await records.get("record", "a") is None
    assert not file.parent.exists()
    await records.put("record", "a", "1")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    await records.aclose()


async def test_processes_see_each_others_records(tmp_path: Path) -> None:
    one, other = SqliteStore(tmp_path / "records"), SqliteStore(tmp_path / "records")
    assert await other.get("record", "a") is None
    await one.put("record", "a", "1")
    assert await other.get("record", "a") == "1"
    was_set = await asyncio.gather(*(store.compare_and_set("record", "b", None, "x") for store in (one, other)))
    assert sorted(was_set) == [False, True]
    swapped = await asyncio.gather(*(store.compare_and_set("record", "b", "x", "y") for store in (one, other)))
    assert sorted(swapped) == [False, True]
    await one.aclose()
    await other.aclose()


async def test_a_file_that_cannot_be_used_is_a_503_that_may_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "records").write_bytes(b"this is no database, and that is long enough to see" * 20)
    records = SqliteStore(tmp_path / "records")
    with pytest.raises(Overloaded) as caught:
        await records.get("record", "a")
    assert caught.value.code == "state_unavailable"
    assert caught.value.retry_after
    await records.aclose()
