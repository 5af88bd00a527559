"""Background responses without a server: races of equal keys, and outages of the store. Whole ones are in `tests/wire` and `tests/faults`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.access.authentication import Caller
from proxy.api.http.requests import ApiServices
from proxy.api.openai.responses import routes
from proxy.api.openai.responses.background import Background, DecodedRequest
from proxy.api.openai.responses.routes import _events_of
from proxy.api.openai.responses.store import ResponseStore, StoredResponse
from proxy.errors import IdempotencyMismatch
from proxy.inference.idempotency import Idempotency, Terms
from proxy.inference.request import Rules
from proxy.settings import ResponsesSettings, Settings, StateSettings
from proxy.storage.cipher import Cipher
from tests.responses_folding import response_events
from tests.unit.api.openai.responses.test_store import Broken
from tests.unit.inference.fakes import ME, FakeBackend
from tests.waiting import until

KEYED = Terms(client="c", key="order-1")


class Away(Broken):
    """One that knows whether it is reached.

    Attributes:
        together: additions of which none returns before all were made: they are under way at the same time.
    """

    def __init__(self, *, together: int = 0) -> None:
        super().__init__()
        self._missing = together
        self._all_added = asyncio.Event()

    @property
    def healthy(self) -> bool:  # type: ignore[override]
        return not self.away

    async def get(self, name: str, field: str) -> str | None:
        return (await super().read(name)).get(field)

    async def add(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> str:
        known = (await super().read(name)).get(field)
        if known is None:
            await super().put(name, field, value, ttl_s=ttl_s)
        self._missing -= 1
        if self._missing <= 0:
            self._all_added.set()
        await self._all_added.wait()
        return known or value


class Replica:
    """One replica's background responses on a store that others may share."""

    def __init__(self, memory: Broken, folder: Path) -> None:
        self.memory, self.backend = memory, FakeBackend()
        self.store = ResponseStore(memory, Cipher(None, folder / "secret.key"), ResponsesSettings())
        layer = Idempotency(self.backend, memory, StateSettings())
        api = SimpleNamespace(settings=Settings(), rules=Rules(), backend=layer)
        self.background = Background(cast(ApiServices, api), self.store)

    async def asked(self, text: str = "Hello!", **fields: Any) -> DecodedRequest:
        raw = {"model": "first", "input": text, "background": True, **fields}
        return await self.background.decoded(raw, 100, ME)

    async def start(
        self, text: str = "Hello!", caller: Caller = ME, terms: Terms = KEYED, **fields: Any
    ) -> StoredResponse:
        return await self.background.start(await self.asked(text, **fields), caller, terms, "key")

    async def ended(self, stored: StoredResponse) -> dict[str, Any]:
        response = await self.background.ended(stored, ME, 30.0)
        assert response is not None
        return response


@asynccontextmanager
async def replica(folder: Path, memory: Broken | None = None) -> AsyncIterator[Replica]:
    made = Replica(Away() if memory is None else memory, folder)
    await made.store.open()
    try:
        yield made
    finally:
        await made.background.aclose()


async def test_of_two_bodies_with_one_key_at_once_one_is_refused_and_takes_nothing_from_the_other(
    tmp_path: Path,
) -> None:
    async with replica(tmp_path, Away(together=2)) as here:
        made = await asyncio.gather(here.start("One."), here.start("Two."), return_exceptions=True)
        refused = [each for each in made if isinstance(each, IdempotencyMismatch)]
        kept = [each for each in made if isinstance(each, StoredResponse)]
        assert (len(refused), len(kept)) == (1, 1)
        assert (await here.ended(kept[0]))["status"] == "completed"
        assert len(here.backend.runs) == 1


async def test_a_key_counts_in_one_data_plane(tmp_path: Path) -> None:
    async with replica(tmp_path) as here:
        one = await here.start()
        assert (await here.start()).id == one.id
        assert (await here.start(caller=replace(ME, data_plane_id="another"))).id != one.id
        await until(lambda: len(here.backend.runs) == 2)


@pytest.mark.parametrize("continues", [False, True])
async def test_an_outage_while_a_response_is_taken_over_does_not_end_it(tmp_path: Path, continues: bool) -> None:
    memory = Away()
    async with replica(tmp_path, memory) as one:
        first = await one.start(terms=Terms())
        await one.ended(first)
        one.backend.hold = asyncio.Event()
        fields = {"previous_response_id": first.response["id"]} if continues else {}
        stored = await one.start(**fields)
    async with replica(tmp_path, memory) as other:
        found = await other.store.get(stored.id, ME)
        assert found is not None
        await other.background.revived(found, ME)
        memory.away = True
        await until(lambda: memory.refused)
        memory.away = False
        assert (await other.ended(stored))["status"] == "completed"


async def test_a_stream_outlasts_an_outage_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with replica(tmp_path) as here:
        here.backend.hold = asyncio.Event()
        stored = await here.start()
        events = _events_of(here.background, stored, ME, 0.01, -1)
        data = b"".join([await anext(events) for _ in range(3)])
        here.memory.away = True
        assert await anext(events) == b": waiting\n"
        here.memory.away = False
        here.backend.hold.set()
        async for more in events:
            data += more
        assert response_events(data)[-1]["type"] == "response.completed"

        here.backend.hold.clear()
        stored = await here.start(terms=replace(KEYED, key="order-2"))
        monkeypatch.setattr(routes, "_STORE_AWAY_S", 0.0)
        here.memory.away = True
        lasting = [data async for data in _events_of(here.background, stored, ME, 0.01, -1)]
        assert response_events(b"".join(lasting))[-1]["type"] == "response.failed"
