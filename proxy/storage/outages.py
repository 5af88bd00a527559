"""What happens while a store cannot be reached: its user serves on by itself, or with what it has read lately."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from proxy.errors import StoreUnavailable
from proxy.storage.memory import MemoryStore
from proxy.storage.store import ALONE, Levels, Limit, Membership, Records, Store

T = TypeVar("T")
MIRRORED_S: Final = 600.0
"""How long a replica remembers by itself what it wrote."""


class FailOpen:
    """A store that never raises: during an outage this replica serves on with what it wrote itself lately, which is kept in memory too."""

    shared = True

    def __init__(self, store: Store) -> None:
        self._store = store
        self.replica = store.replica
        self._mirror = MemoryStore(replica=store.replica)

    @property
    def healthy(self) -> bool:
        return self._store.healthy

    async def get(self, name: str, field: str) -> str | None:
        return await _either(self._store.get(name, field), lambda: self._mirror.get(name, field))

    async def read(self, name: str) -> Mapping[str, str]:
        return await _either(self._store.read(name), lambda: self._mirror.read(name))

    async def add(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> str:
        """What this replica knows is offered to the store first: it may have come back empty."""
        kept_s = min(ttl_s or MIRRORED_S, MIRRORED_S)
        known = await self._mirror.add(name, field, value, ttl_s=kept_s)
        found = await _unless_away(self._store.add(name, field, known, ttl_s=ttl_s), known)
        if found != known:
            await self._mirror.put(name, field, found, ttl_s=kept_s)
        return found

    async def put(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> None:
        await self._mirror.put(name, field, value, ttl_s=min(ttl_s or MIRRORED_S, MIRRORED_S))
        await _unless_away(self._store.put(name, field, value, ttl_s=ttl_s), None)

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        was_set = await _either(
            self._store.compare_and_set(name, field, old, new),
            lambda: self._mirror.compare_and_set(name, field, old, new),
        )
        if was_set:
            await self._mirror.put(name, field, new, ttl_s=MIRRORED_S)
        return was_set

    async def remove(self, name: str, field: str | None = None) -> bool:
        known = await self._mirror.remove(name, field)
        return await _unless_away(self._store.remove(name, field), known)

    async def acquire(self, lease: str, limits: Sequence[Limit]) -> Levels:
        return await _either(self._store.acquire(lease, limits), lambda: self._mirror.acquire(lease, limits))

    async def resize(self, counter: str, lease: str, amount: int, *, ttl_s: float | None = None) -> None:
        await self._mirror.resize(counter, lease, amount)  # if it was acquired during an outage
        await _unless_away(self._store.resize(counter, lease, amount, ttl_s=ttl_s), None)

    async def alive(self, replica: str) -> bool:
        """While the store cannot be asked, another replica may well be alive."""
        return bool(replica) and await _unless_away(self._store.alive(replica), True)

    async def join(self, group: str, *, may_lead: bool = True) -> Membership:
        return await _unless_away(self._store.join(group, may_lead=may_lead), ALONE)

    async def leave(self, group: str) -> None:
        await _unless_away(self._store.leave(group), None)

    async def publish(self, topic: str, message: str) -> None:
        await _unless_away(self._store.publish(topic, message), None)

    def subscribe(self, topic: str, on_message: Callable[[str], None]) -> None:
        self._store.subscribe(topic, on_message)


@dataclass(slots=True, eq=False, repr=False)
class FailClosed:
    """Records that raise during an outage, but for what was read of them lately.

    A short cache lets a busy server read each only now and then: another process's change is seen after `cached_s` seconds at most. During
    an outage what was read stays in force for `kept_s` seconds. That a field is absent is never cached: a new key works at once.
    """

    records: Records
    cached_s: float = 0.5
    kept_s: float = 600.0
    max_entries: int = 10_000
    clock: Callable[[], float] = time.monotonic
    _cache: OrderedDict[tuple[str, str | None], tuple[float, Any]] = field(default_factory=OrderedDict)

    async def get(self, name: str, field: str) -> str | None:
        return await self._cached((name, field), lambda: self.records.get(name, field))

    async def read(self, name: str) -> Mapping[str, str]:
        return await self._cached((name, None), lambda: self.records.read(name))

    async def put(self, name: str, field: str, value: str) -> None:
        await self._changing(name, field, self.records.put(name, field, value))

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        return await self._changing(name, field, self.records.compare_and_set(name, field, old, new))

    async def remove(self, name: str, field: str | None = None) -> bool:
        return await self._changing(name, field, self.records.remove(name, field))

    async def _changing(self, name: str, field: str | None, write: Awaitable[T]) -> T:
        try:
            return await write
        finally:
            for key in [key for key in self._cache if key[0] == name and field in (None, key[1])]:
                del self._cache[key]
            self._cache.pop((name, None), None)

    async def _cached(self, key: tuple[str, str | None], read: Callable[[], Awaitable[T]]) -> T:
        now = self.clock()
        value: T | None
        at, value = self._cache.get(key, (-self.kept_s, None))
        if value is not None and now < at + self.cached_s:
            return value
        try:
            fresh = await read()
        except StoreUnavailable:
            if value is not None and now < at + self.kept_s:
                return value
            raise
        self._cache.pop(key, None)
        if fresh is not None:
            self._cache[key] = (now, fresh)
            if len(self._cache) > self.max_entries:
                self._cache.popitem(last=False)
        return fresh


async def _either(call: Awaitable[T], fallback: Callable[[], Awaitable[T]]) -> T:
    try:
        return await call
    except StoreUnavailable:
        return await fallback()


async def _unless_away(call: Awaitable[T], otherwise: T) -> T:
    try:
        return await call
    except StoreUnavailable:
        return otherwise
