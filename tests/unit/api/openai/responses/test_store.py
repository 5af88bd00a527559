"""Stored responses: sealed by their id and caller, bounded, and chained. Redis is used in `tests/faults`."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.access.authentication import Caller
from proxy.api.openai.responses.store import ResponseStore, StoredResponse, response_id
from proxy.errors import InvalidRequest, Overloaded, ResponseNotFound
from proxy.settings import ResponsesSettings
from proxy.storage import MemoryStore
from proxy.storage.cipher import Cipher
from proxy.storage.store import unavailable
from tests.waiting import OtherTurns

ME, OTHER = Caller(None, "plane", id="me"), Caller(None, "plane", id="other")
SECRET = "A very secret question."
ID = "0" * 32


class Broken(MemoryStore):
    """A store that cannot be reached while `away`, and counts what it `refused`."""

    away = False
    refused = 0

    async def read(self, name: str) -> Mapping[str, str]:
        self._check()
        return await super().read(name)

    async def put(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> None:
        self._check()
        await super().put(name, field, value, ttl_s=ttl_s)

    def _check(self) -> None:
        if self.away:
            self.refused += 1
            raise unavailable()


@pytest.fixture
def memory() -> Broken:
    return Broken()


@pytest.fixture
def make(memory: Broken, tmp_path: Path) -> Any:
    async def opened(passphrase: str | None = None, store: MemoryStore = memory, **settings: Any) -> ResponseStore:
        made = ResponseStore(store, Cipher(passphrase, tmp_path / "secret.key"), ResponsesSettings(**settings))
        await made.open()
        return made

    return opened


def stored(id_: str = ID, previous: str | None = None, **fields: Any) -> StoredResponse:
    item = {"type": "message", "role": "user", "content": SECRET}
    output = {"type": "message", "id": f"msg_{id_}0", "role": "assistant", "content": []}
    link = previous and f"resp_{previous}"
    response = {"id": f"resp_{id_}", "status": "completed", "output": [output], "previous_response_id": link}
    response |= {"tools": [], "instructions": None, "text": {}}
    values: dict[str, Any] = {"id": id_, "response": response, "input": [item], **fields}
    return StoredResponse(**values)


async def everything(memory: MemoryStore) -> str:
    return json.dumps([[name, dict(await memory.read(name))] for name in list(memory._records)])


async def test_who_knows_the_id_and_has_the_key_reads_what_was_stored(make: Any) -> None:
    store: ResponseStore = await make()
    assert await store.put(stored(), ME)
    found = await store.find(f"resp_{ID}", ME)
    assert (found.response, found.input) == (stored().response, stored().input)


@pytest.mark.parametrize("id_", [f"resp_{'1' * 32}", ID, "resp_", "", "resp_\ud800"])
async def test_other_ids_lead_nowhere(make: Any, id_: str) -> None:
    store: ResponseStore = await make()
    await store.put(stored(), ME)
    with pytest.raises(ResponseNotFound):
        await store.find(id_, ME)


async def test_another_key_gets_nothing(make: Any) -> None:
    store: ResponseStore = await make()
    await store.put(stored(), ME)
    with pytest.raises(ResponseNotFound) as caught:
        await store.find(f"resp_{ID}", OTHER)
    assert (caught.value.status, caught.value.param) == (404, "response_id")


async def test_the_store_shows_neither_content_nor_id(make: Any, memory: Broken) -> None:
    store: ResponseStore = await make()
    await store.put(stored(), ME)
    text = await everything(memory)
    assert "response:" in text
    assert SECRET not in text
    assert ID not in text


async def test_processes_with_one_passphrase_or_one_file_share_what_is_stored(make: Any, tmp_path: Path) -> None:
    for passphrase in ("one", None):
        await (await make(passphrase)).put(stored(), ME)
        assert await (await make(passphrase)).get(ID, ME)
    assert await (await make("another")).get(ID, ME) is None


async def test_a_changed_record_is_not_read(make: Any, memory: Broken) -> None:
    store: ResponseStore = await make()
    await store.put(stored(), ME)
    (name,) = memory._records
    await memory.put(name, "data", "AAAA" + str(await memory.get(name, "data"))[4:])
    assert await store.get(ID, ME) is None
    await memory.put(name, "data", "not base64")
    assert await store.get(ID, ME) is None


async def test_reasoning_is_sealed_for_its_caller_and_always_to_the_same(make: Any) -> None:
    store: ResponseStore = await make("one")
    sealed = store.seal(ME, "because \ud83d")
    assert sealed == (await make("one")).seal(ME, "because \ud83d")
    assert "because" not in sealed
    assert store.unseal(ME, sealed) == "because \ud83d"
    assert store.unseal(OTHER, sealed) is None
    assert store.unseal(ME, sealed[:-8] + "AAAAAAA=") is None
    assert (await make("another")).unseal(ME, sealed) is None


async def test_without_a_secret_nothing_is_stored(memory: Broken, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = ResponseStore(memory, Cipher(None, tmp_path / "file" / "secret.key"), ResponsesSettings())
    await store.open()
    assert not store.available
    assert not await store.put(stored(), ME)
    assert await store.get(ID, ME) is None
    assert (store.seal(ME, "x"), store.unseal(ME, "x")) == ("", None)


async def test_a_life_of_zero_seconds_stores_nothing(make: Any, memory: Broken) -> None:
    store: ResponseStore = await make(store_ttl_s=0)
    assert not store.available
    assert not await store.put(stored(), ME)
    assert len(memory) == 0


async def test_records_live_on_while_they_are_used(make: Any) -> None:
    now = 0.0
    store: ResponseStore = await make(store=MemoryStore(clock=lambda: now), store_ttl_s=10)
    await store.put(stored(), ME)
    for now in (8.0, 16.0, 24.0):  # noqa: B007
        assert await store.get(ID, ME)
    now = 35.0
    assert await store.get(ID, ME) is None


def big(size: int = 5_000) -> list[dict[str, str]]:
    return [{"role": "user", "content": "".join(f"{number} " for number in range(size))}]


async def test_of_a_large_record_only_the_output_is_kept(make: Any) -> None:
    store: ResponseStore = await make(max_record_bytes=2_000)
    await store.put(stored(input=big()), ME)
    found = await store.find(f"resp_{ID}", ME)
    assert found.input is None
    assert found.response["output"] == stored().response["output"]
    known = await store.known(None, [f"msg_{ID}0"], ME)
    assert list(known.items) == [f"msg_{ID}0"]
    with pytest.raises(InvalidRequest, match="too large") as caught:
        await store.known(f"resp_{ID}", [], ME)
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")


async def test_of_a_response_with_large_tools_only_the_output_is_kept(make: Any) -> None:
    store: ResponseStore = await make(max_record_bytes=2_000)
    one = stored()
    await store.put(replace(one, response={**one.response, "instructions": big()[0]["content"]}), ME)
    found = await store.find(f"resp_{ID}", ME)
    assert (found.response["instructions"], len(found.response["output"])) == (None, 1)


async def test_a_request_that_is_not_answered_is_kept_whatever_its_size(make: Any) -> None:
    store: ResponseStore = await make(max_record_bytes=2_000)
    await store.put(stored(request={"body": big(40_000)}), ME, open_=True)
    found = await store.find(f"resp_{ID}", ME)
    assert found.request == {"body": big(40_000)}
    assert found.by == store.replica


async def test_records_in_memory_are_bounded(make: Any) -> None:
    store: ResponseStore = await make(store=MemoryStore(max_bytes=4_000))
    for number in range(20):
        await store.put(stored(f"{number:032}"), ME)
    assert await store.get(f"{0:032}", ME) is None
    assert await store.get(f"{19:032}", ME)


# ---------------------------------------------------------------- chains and references


async def test_a_chain_is_read_from_its_beginning(make: Any) -> None:
    store: ResponseStore = await make()
    before = None
    for number in range(3):
        id_ = f"{number:032}"
        await store.put(stored(id_, before, input=[{"role": "user", "content": f"Question {number}"}]), ME)
        before = id_
    known = await store.known(f"resp_{2:032}", [], ME)
    assert [item.get("content") or item["id"] for item in known.history] == [
        text for number in range(3) for text in (f"Question {number}", f"msg_{number:032}0")
    ]
    assert known.bytes > 300


@pytest.mark.parametrize(
    ("limits", "name"), [({"max_chain": 2}, "max_chain"), ({"max_chain_bytes": 1_000}, "max_chain_bytes")]
)
async def test_a_chain_is_bounded(make: Any, limits: dict[str, int], name: str) -> None:
    store: ResponseStore = await make(**limits)
    before = None
    for number in range(5):
        await store.put(stored(f"{number:032}", before), ME)
        before = f"{number:032}"
    with pytest.raises(InvalidRequest, match=name):
        await store.known(f"resp_{4:032}", [], ME)


async def test_the_items_of_a_chain_are_bounded(make: Any) -> None:
    store: ResponseStore = await make()
    many = [{"role": "user", "content": ""}] * 60_000
    for previous, id_ in ((None, "1" * 32), ("1" * 32, "2" * 32)):
        await store.put(stored(id_, previous, input=many, size=2_000_000), ME)
    assert len((await store.known(f"resp_{'1' * 32}", [], ME)).history) == 60_001
    with pytest.raises(InvalidRequest, match="100000 items"):
        await store.known(f"resp_{'2' * 32}", [], ME)


@pytest.mark.parametrize("status", ["failed", "cancelled", "queued", "in_progress"])
async def test_a_response_without_output_cannot_be_continued(make: Any, status: str) -> None:
    store: ResponseStore = await make()
    one = stored()
    await store.put(replace(one, response={**one.response, "status": status}), ME)
    for previous, caller in ((f"resp_{ID}", ME), ("resp_unknown", ME), ("x", ME), (f"resp_{ID}", OTHER)):
        with pytest.raises(InvalidRequest) as caught:
            await store.known(previous, [], caller)
        assert (caught.value.status, caught.value.code) == (400, "previous_response_not_found")


async def test_references_find_items_of_input_and_output(make: Any) -> None:
    store: ResponseStore = await make()
    await store.put(stored(), ME)
    wanted = [f"msg_{ID}0", f"msg_{ID}i0", f"msg_{ID}7", "msg_elsewhere", f"msg_{'1' * 32}0"]
    known = await store.known(None, wanted, ME)
    assert list(known.items) == wanted[:2]
    assert (await store.known(None, wanted, OTHER)).items == {}


async def test_integers_of_any_size_are_kept(make: Any) -> None:
    store: ResponseStore = await make()
    arguments = {"type": "function_call", "call_id": "c", "name": "f", "arguments": {"n": 2**70 + 1}}
    await store.put(stored(input=[arguments]), ME)
    assert (await store.find(f"resp_{ID}", ME)).input == [arguments]


async def test_a_clients_own_ids_of_items_stand_for_no_others(make: Any) -> None:
    store: ResponseStore = await make()
    items = [{"role": "user", "content": "a", "id": f"msg_{ID}i1"}, {"role": "user", "content": "b"}]
    await store.put(stored(input=items), ME)
    known = await store.known(None, [f"msg_{ID}i0", f"msg_{ID}i1", f"fc_{ID}i1", f"msg_{ID}i000001"], ME)
    assert [(id_, item["content"]) for id_, item in known.items.items()] == [
        (f"msg_{ID}i1", [{"type": "input_text", "text": "b"}])
    ]


async def test_what_is_large_is_read_in_a_thread_however_small_it_was_packed(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    to_thread = asyncio.to_thread

    async def noted(work: Any, *arguments: Any) -> Any:
        threads.append(getattr(work, "func", work).__name__)
        return await to_thread(work, *arguments)

    store: ResponseStore = await make()
    large = [{"role": "user", "content": "x"}] * 5_000
    await store.put(stored(input=large, size=200_000), ME)
    await store.put(stored("1" * 32, input=large[:3]), ME)
    monkeypatch.setattr(asyncio, "to_thread", noted)
    assert (await store.find(f"resp_{ID}", ME)).input == large
    assert threads == ["_unpack"]
    references = [f"msg_{ID}i4999", f"msg_{ID}i5000", f"msg_{'1' * 32}i2"]
    assert list((await store.known(None, references, ME)).items) == [references[0], references[2]]
    assert threads == ["_unpack", "_unpack", "_referred"]


async def test_others_get_their_turn_between_the_responses_that_one_request_needs(make: Any) -> None:
    turns = OtherTurns()

    class Stepping(MemoryStore):
        async def read(self, name: str) -> Mapping[str, str]:
            turns.step()
            return await super().read(name)

    store: ResponseStore = await make(store=Stepping())
    ids = [f"{number:032x}" for number in range(50)]
    for previous, id_ in zip([None, *ids], ids, strict=False):
        await store.put(stored(id_, previous), ME)
    before = turns.count
    await store.known(f"resp_{ids[-1]}", [], ME)
    assert turns.count - before >= 50
    before = turns.count
    await store.known(None, [f"msg_{id_}0" for id_ in ids], ME)
    assert turns.count - before >= 50


@pytest.mark.parametrize("field", ["tools", "text", "tool_choice", "instructions", "prompt_cache_key", "user"])
async def test_whatever_is_large_of_a_request_the_record_is_not(make: Any, memory: Broken, field: str) -> None:
    store: ResponseStore = await make(max_record_bytes=2_000)
    one = stored()
    await store.put(replace(one, response={**one.response, field: "x" * 3_000_000}), ME)
    assert (await store.find(f"resp_{ID}", ME)).response["output"] == one.response["output"]
    assert len(await everything(memory)) < 5_000


async def test_references_are_bounded(make: Any) -> None:
    store: ResponseStore = await make(max_chain_bytes=100)
    await store.put(stored(), ME)
    with pytest.raises(InvalidRequest, match="1000 responses"):
        await store.known(None, [f"msg_{number:032}0" for number in range(1_001)], ME)


# ---------------------------------------------------------------- outages and races


async def test_while_the_store_is_away_nothing_is_stored_and_reading_is_a_503(make: Any, memory: Broken) -> None:
    store: ResponseStore = await make()
    await store.put(stored(), ME)
    memory.away = True
    assert not await store.put(stored(), ME)
    with pytest.raises(Overloaded) as caught:
        await store.find(f"resp_{ID}", ME)
    assert (caught.value.status, caught.value.code) == (503, "state_unavailable")
    assert caught.value.retry_after
    with pytest.raises(Overloaded):
        await store.known(f"resp_{ID}", [], ME)


async def test_of_two_who_end_a_response_one_does(make: Any) -> None:
    store: ResponseStore = await make()
    await store.put(stored(request={}), ME, open_=True)
    read = await store.find(f"resp_{ID}", ME)
    assert await store.replace(read, replace(read, response={"status": "cancelled"}, request=None), ME)
    assert not await store.replace(read, replace(read, response={"status": "completed"}), ME)
    assert (await store.find(f"resp_{ID}", ME)).response == {"status": "cancelled"}


async def test_only_what_a_killed_replica_left_is_taken_over(make: Any, memory: Broken) -> None:
    store: ResponseStore = await make()
    await store.put(stored(request={}), ME, open_=True)
    read = await store.find(f"resp_{ID}", ME)
    assert await store.take_over(read)
    killed = replace(read, by="killed")
    assert not await store.take_over(killed)
    (name,) = memory._records
    await memory.put(name, "by", "killed")
    assert await store.take_over(killed)
    assert (await store.find(f"resp_{ID}", ME)).by == store.replica


def test_ids_cannot_be_derived_without_the_clients_key() -> None:
    assert response_id("key", "place") == response_id("key", "place")
    assert len({response_id(key, place) for key in ("a", "b", "") for place in ("x", "y")}) == 6
    assert len(response_id("key", "place")) == 32
