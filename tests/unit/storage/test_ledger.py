"""A ledger in a file: records that expire, and processes that know of each other whether they run."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from proxy.storage import SqliteStore
from tests.waiting import until


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_records_expire_as_a_whole(tmp_path: Path) -> None:
    clock = Clock()
    ledger = SqliteStore(tmp_path / "ledger", ledger=True, clock=clock)
    await ledger.put("record", "a", "1", ttl_s=10)
    assert await ledger.add("record", "b", "2") == "2"
    assert await ledger.add("record", "b", "3") == "2"
    clock.now += 9
    assert await ledger.read("record") == {"a": "1", "b": "2"}
    await ledger.put("record", "a", "1", ttl_s=5)
    clock.now += 4
    assert await ledger.get("record", "b") == "2"
    clock.now += 1
    assert await ledger.get("record", "a") is None
    assert await ledger.read("record") == {}
    assert not await ledger.compare_and_set("record", "a", "1", "2")
    assert await ledger.add("record", "a", "3") == "3"
    clock.now += 1_000
    assert await ledger.read("record") == {"a": "3"}
    await ledger.aclose()


async def test_what_has_expired_is_removed_from_the_file(tmp_path: Path) -> None:
    clock = Clock()
    ledger = SqliteStore(tmp_path / "ledger", ledger=True, clock=clock)
    for number in range(20):
        await ledger.put(f"record{number}", "a", "1", ttl_s=10)
    clock.now += 100
    await ledger.put("other", "a", "1", ttl_s=10)
    with closing(sqlite3.connect(tmp_path / "ledger")) as file:
        assert file.execute("SELECT name FROM fields WHERE field = 'a'").fetchall() == [("other",)]
        assert file.execute("SELECT name FROM lives WHERE name NOT LIKE 'replica:%'").fetchall() == [("other",)]
    await ledger.aclose()


async def test_the_file_is_made_by_the_first_write(tmp_path: Path) -> None:
    ledger = SqliteStore(tmp_path / "ledger", ledger=True)
    assert await ledger.read("record") == {}
    assert not (tmp_path / "ledger").exists()
    await ledger.aclose()


async def test_processes_know_whether_others_run(tmp_path: Path) -> None:
    clock = Clock()
    one, other = (
        SqliteStore(tmp_path / "ledger", ledger=True, clock=clock),
        SqliteStore(tmp_path / "ledger", ledger=True, clock=clock),
    )
    assert await one.alive(one.replica)
    await one.put("record", "a", "1")
    await until(lambda: other.alive(one.replica))
    assert not await other.alive("nobody")
    await one.aclose()
    assert not await other.alive(one.replica)
    killed = SqliteStore(tmp_path / "ledger", ledger=True, clock=clock)
    await killed.put("record", "a", "1")
    await until(lambda: other.alive(killed.replica))
    assert killed._heartbeat is not None
    killed._heartbeat.cancel()
    clock.now += 6
    assert not await other.alive(killed.replica)
    await killed.aclose()
    await other.aclose()


async def test_a_file_that_several_set_up_at_once_serves_all(tmp_path: Path) -> None:
    for number in range(30):
        ledgers = [SqliteStore(tmp_path / str(number), ledger=True) for _ in range(6)]
        values = await asyncio.gather(*(ledger.add("r", "a", str(n)) for n, ledger in enumerate(ledgers)))
        assert len(set(values)) == 1
        for ledger in ledgers:
            await ledger.aclose()


async def test_of_several_that_set_a_field_one_does(tmp_path: Path) -> None:
    ledgers = [SqliteStore(tmp_path / "ledger", ledger=True) for _ in range(3)]
    values = await asyncio.gather(*(ledger.add("r", "a", str(n)) for n, ledger in enumerate(ledgers)))
    assert len(set(values)) == 1
    swapped = await asyncio.gather(*(ledger.compare_and_set("r", "a", values[0], "x") for ledger in ledgers))
    assert sorted(swapped) == [False, False, True]
    for ledger in ledgers:
        await ledger.aclose()
