"""Records: durable, private, and remembered for a moment only."""

import asyncio
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.errors import Overloaded
from proxy.state.records import RememberedRecords, SqliteRecords


async def test_what_is_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "new" / "records"
    first = SqliteRecords(file)
    assert await first.add("kind", "b", b"1")
    assert not await first.add("kind", "b", b"2")
    await first.put("kind", "a", b"3")
    await first.put("other", "c", b"4")
    await first.aclose()
    second = SqliteRecords(file)
    assert await second.all("kind") == {"a": b"3", "b": b"1"}
    assert await second.get("kind", "c") is None
    assert await second.remove("kind", "a")
    assert not await second.remove("kind", "a")
    assert await second.get("kind", "a") is None
    await second.aclose()


async def test_the_file_is_made_by_the_first_write_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "records"
    records = SqliteRecords(file)
    assert await records.get("kind", "a") is None
    assert not file.parent.exists()
    await records.put("kind", "a", b"1")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    await records.aclose()


async def test_processes_see_each_others_records(tmp_path: Path) -> None:
    one, other = SqliteRecords(tmp_path / "records"), SqliteRecords(tmp_path / "records")
    assert await other.get("kind", "a") is None
    await one.put("kind", "a", b"1")
    assert await other.get("kind", "a") == b"1"
    added = await asyncio.gather(*(store.add("kind", "b", b"x") for store in (one, other)))
    assert sorted(added) == [False, True]
    await one.aclose()
    await other.aclose()


async def test_a_file_that_cannot_be_used_is_a_503_that_may_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "records").write_bytes(b"this is no database, and that is long enough to see" * 20)
    records = SqliteRecords(tmp_path / "records")
    with pytest.raises(Overloaded) as caught:
        await records.get("kind", "a")
    assert caught.value.code == "state_unavailable"
    assert caught.value.retry_after
    await records.aclose()


class Stub:
    """Records in a dict that can be away."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.away = False
        self.reads = 0

    async def get(self, kind: str, name: str) -> bytes | None:
        self.reads += 1
        if self.away:
            raise Overloaded("away")
        return self.values.get(name)

    async def all(self, kind: str) -> Mapping[str, bytes]:
        await self.get(kind, "")
        return dict(self.values)

    async def add(self, kind: str, name: str, value: bytes) -> bool:
        self.values[name] = value
        return True

    async def put(self, kind: str, name: str, value: bytes) -> None:
        self.values[name] = value

    async def remove(self, kind: str, name: str) -> bool:
        return self.values.pop(name, None) is not None

    async def aclose(self) -> None: ...


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_a_value_is_read_again_within_a_second_so_that_a_revoked_key_stops_working(
    stub: Stub, clock: Clock
) -> None:
    records = RememberedRecords(stub, clock=clock)
    stub.values["a"] = b"1"
    for _ in range(5):
        assert await records.get("kind", "a") == b"1"
    assert stub.reads == 1
    stub.values["a"] = b"revoked"
    clock.now = 1.0
    assert await records.get("kind", "a") == b"revoked"


async def test_a_name_that_is_not_there_is_looked_up_each_time_so_that_a_new_key_works_at_once(
    stub: Stub, clock: Clock
) -> None:
    records = RememberedRecords(stub, clock=clock)
    assert await records.get("kind", "a") is None
    stub.values["a"] = b"1"
    assert await records.get("kind", "a") == b"1"


async def test_a_change_of_our_own_is_seen_at_once(stub: Stub, clock: Clock) -> None:
    records = RememberedRecords(stub, clock=clock)
    for value in (b"1", b"2"):
        await records.put("kind", "a", value)
        assert await records.get("kind", "a") == value
        assert await records.all("kind") == {"a": value}
    await records.remove("kind", "a")
    assert await records.get("kind", "a") is None
    assert await records.all("kind") == {}


async def test_while_the_store_is_away_what_was_known_stays_in_force_for_a_while(stub: Stub, clock: Clock) -> None:
    records = RememberedRecords(stub, clock=clock, keep_s=600)
    stub.values["a"] = b"1"
    await records.get("kind", "a")
    stub.away = True
    clock.now = 599
    assert await records.get("kind", "a") == b"1"
    with pytest.raises(Overloaded):
        await records.get("kind", "unknown")
    clock.now = 601
    with pytest.raises(Overloaded):
        await records.get("kind", "a")


async def test_the_memory_is_bounded(stub: Stub, clock: Clock) -> None:
    records = RememberedRecords(stub, clock=clock, most=10)
    for number in range(100):
        stub.values[str(number)] = b"1"
        await records.get("kind", str(number))
    assert len(records._known) == 10
