"""Keys: shown once, kept as hashes, refused once revoked or expired."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.access.keys import KEY_PREFIX, Keys
from proxy.errors import StoreUnavailable
from proxy.storage import MemoryStore, SqliteStore


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(records: SqliteStore, clock: Clock) -> Keys:
    return Keys(records, clock=clock)


async def test_a_key_is_found_by_itself_and_nothing_else(keys: Keys) -> None:
    made, secret = await keys.create("app")
    assert await keys.find(secret) == made
    for wrong in (made.id, made.name, secret + "x", secret[:-1], KEY_PREFIX, ""):
        assert await keys.find(wrong) is None


async def test_only_a_hash_of_it_is_stored(keys: Keys, tmp_path: Path) -> None:
    _, secret = await keys.create("app")
    assert secret.startswith(KEY_PREFIX)
    assert len(secret) > 40
    stored = b"".join(file.read_bytes() for file in list(tmp_path.glob("*")))  # noqa: ASYNC240
    assert b"app" in stored
    assert secret.removeprefix(KEY_PREFIX).encode() not in stored


async def test_an_expired_key_does_not_work_any_more(keys: Keys, clock: Clock) -> None:
    _, secret = await keys.create("app", expires_at=1_010)
    assert await keys.find(secret)
    clock.now = 1_010
    assert await keys.find(secret) is None


@pytest.mark.parametrize("by", ["id", "name"])
async def test_a_revoked_key_does_not_work_any_more_and_stays_on_the_list(keys: Keys, by: str) -> None:
    made, secret = await keys.create("app")
    _, other = await keys.create("other")
    assert [key.id for key in await keys.revoke(getattr(made, by))] == [made.id]
    assert await keys.find(secret) is None
    assert await keys.find(other)
    assert await keys.revoke("app") == []
    assert {key.name: key.revoked_at for key in await keys.all()} == {"app": 1_000, "other": None}


async def test_all_keys_of_a_name_are_revoked_together(keys: Keys) -> None:
    await keys.create("app")
    await keys.create("app")
    assert len(await keys.revoke("app")) == 2


async def test_while_the_store_is_away_nobody_is_told_that_there_are_no_keys(clock: Clock) -> None:
    class Away(MemoryStore):
        async def read(self, name: str) -> Mapping[str, str]:
            raise StoreUnavailable("away")

    keys = Keys(Away(), clock=clock)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await keys.exist()


async def test_whether_keys_exist_is_read_once_a_second_and_a_key_of_another_process_is_noticed(clock: Clock) -> None:
    reads = 0

    class Counting(MemoryStore):
        async def read(self, name: str) -> Mapping[str, str]:
            nonlocal reads
            reads += 1
            return await super().read(name)

    records = Counting()
    keys, another_process = Keys(records, clock=clock), Keys(records, clock=clock)
    assert [await keys.exist() for _ in range(5)] == [False] * 5
    assert reads == 1
    await another_process.create("app")
    clock.now += 1.0
    assert await keys.exist()
    await records.remove("keys")
    clock.now += 1.0
    assert await keys.exist()
