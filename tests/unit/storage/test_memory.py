"""State in memory: what is written is read, atomically, until it expires or must make room."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.storage import ALONE, MemoryStore


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_the_first_value_added_stays_in_force() -> None:
    store = MemoryStore()
    assert await store.add("r", "f", "first", ttl_s=1) == "first"
    assert await store.add("r", "f", "second", ttl_s=1) == "first"
    assert await store.read("r") == {"f": "first"}


async def test_a_value_is_set_only_if_it_is_the_expected_one() -> None:
    store = MemoryStore()
    await store.put("r", "f", "a", ttl_s=1)
    assert not await store.compare_and_set("r", "f", "b", "c")
    assert await store.compare_and_set("r", "f", "a", "c")
    assert not await store.compare_and_set("other", "f", "a", "c")
    assert await store.read("r") == {"f": "c"}


async def test_a_removed_field_leaves_the_others_and_the_last_one_takes_the_record_along() -> None:
    store = MemoryStore()
    await store.put("r", "f", "1", ttl_s=1)
    await store.put("r", "g", "2", ttl_s=1)
    await store.remove("r", "f")
    assert await store.read("r") == {"g": "2"}
    await store.remove("r", "g")
    await store.remove("r", "g")
    assert len(store) == 0


async def test_a_record_expires_and_each_write_renews_it() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await store.put("r", "f", "1", ttl_s=10)
    clock.now = 9
    await store.put("r", "g", "2", ttl_s=10)
    clock.now = 18
    assert await store.read("r") == {"f": "1", "g": "2"}
    assert await store.compare_and_set("r", "f", "1", "3")
    clock.now = 19
    assert await store.read("r") == {}
    assert await store.add("r", "f", "new", ttl_s=1) == "new"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xy"), st.text(max_size=2000)), max_size=60))
async def test_it_never_holds_more_than_it_may_and_forgets_the_oldest_first(
    writes: list[tuple[str, str, str]],
) -> None:
    """Trap: unbounded tables grew until the pod died."""
    store = MemoryStore(max_records=4, max_bytes=5_000)
    for name, field, value in writes:
        await store.put(name, field, value, ttl_s=10)
        assert (await store.read(name))[field] == value
        assert len(store) <= 4
        held = [await store.read(name) for name in "abcdef"]
        assert len(store) == 1 or sum(len(value) for fields in held for value in fields.values()) <= 5_000


async def test_only_this_process_is_alive_and_it_leads() -> None:
    store = MemoryStore()
    assert await store.alive(store.replica)
    assert not await store.alive(MemoryStore().replica)
    assert await store.join("feed") == ALONE
    await store.leave("feed")
    assert await store.join("feed") == ALONE


async def test_what_was_removed_makes_room() -> None:
    store = MemoryStore(max_bytes=3_000)
    for _ in range(10):
        await store.put("kept", "f", "x" * 1_000, ttl_s=9)
        await store.put("kept", "g", "y" * 1_000, ttl_s=9)
        await store.remove("kept", "g")
    await store.put("other", "f", "z" * 500, ttl_s=9)
    assert await store.read("kept") == {"f": "x" * 1_000}
    assert await store.read("other") == {"f": "z" * 500}
