"""A store within this process: nothing to install, bounded, gone with the process."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from uuid import uuid4

from proxy.storage.store import ALONE, Level, Levels, Limit, Membership


@dataclass(slots=True)
class _Record:
    expires: float = inf
    fields: dict[str, str] = field(default_factory=dict)
    size: int = 400  # bytes: about what it costs beside its text


@dataclass(kw_only=True, eq=False, repr=False)
class MemoryStore:
    """See `proxy.storage.store.Store`. Beyond `max_records`, or about `max_bytes`, it drops the record that was written longest ago.

    The counters of leases are bounded too. `replica` is the id of this process, if it has one already.
    """

    shared = False
    healthy = True

    max_records: int = 100_000
    max_bytes: int = 64 << 20
    max_counters: int = 100_000
    clock: Callable[[], float] = time.monotonic
    replica: str = field(default_factory=lambda: uuid4().hex)
    _records: OrderedDict[str, _Record] = field(default_factory=OrderedDict, init=False)
    _bytes: int = field(default=0, init=False)
    _counters: "OrderedDict[str, _Counter]" = field(default_factory=OrderedDict, init=False)

    def __len__(self) -> int:
        return len(self._records)

    async def get(self, name: str, field: str) -> str | None:
        record = self._live(name)
        return record.fields.get(field) if record else None

    async def read(self, name: str) -> Mapping[str, str]:
        record = self._live(name)
        return dict(record.fields) if record else {}

    async def add(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> str:
        known = await self.get(name, field)
        if known is None:
            await self.put(name, field, value, ttl_s=ttl_s)
        return value if known is None else known

    async def put(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> None:
        record = self._live(name)
        if record is None:
            record = self._records[name] = _Record()
            self._bytes += record.size
        self._records.move_to_end(name)
        if ttl_s is not None:
            record.expires = self.clock() + ttl_s
        more = len(value) - len(record.fields[field]) if field in record.fields else len(field) + len(value)
        record.fields[field] = value
        record.size += more
        self._bytes += more
        while len(self._records) > self.max_records or (self._bytes > self.max_bytes and len(self._records) > 1):
            self._drop(next(iter(self._records)))

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        if await self.get(name, field) != old:
            return False
        await self.put(name, field, new)
        return True

    async def remove(self, name: str, field: str | None = None) -> bool:
        record = self._live(name)
        if record is None or (field is not None and field not in record.fields):
            return False
        if field is None or len(record.fields) == 1:
            self._drop(name)
        else:
            less = len(field) + len(record.fields.pop(field))
            record.size -= less
            self._bytes -= less
        return True

    def _live(self, name: str) -> _Record | None:
        record = self._records.get(name)
        if record is not None and record.expires <= self.clock():
            self._drop(name)
            return None
        return record

    def _drop(self, name: str) -> None:
        self._bytes -= self._records.pop(name).size

    async def acquire(self, lease: str, limits: Sequence[Limit]) -> Levels:
        now = self.clock()
        counters = [self._counter(limit.counter, now) for limit in limits]
        waits = [counter.wait(limit, now) for counter, limit in zip(counters, limits, strict=True)]
        if not any(waits):
            for counter, limit in zip(counters, limits, strict=True):
                counter.set(lease, limit.amount, now + limit.ttl_s)
        levels = [Level(counter.used, wait, counter.reset(now)) for counter, wait in zip(counters, waits, strict=True)]
        self._drop_counters(len(limits), now)
        return not any(waits), levels

    async def resize(self, counter: str, lease: str, amount: int, *, ttl_s: float | None = None) -> None:
        now = self.clock()
        self._counter(counter, now).set(lease, amount, None if ttl_s is None else now + ttl_s)
        self._drop_counters(1, now)

    def _counter(self, name: str, now: float) -> "_Counter":
        counter = self._counters.setdefault(name, _Counter())
        self._counters.move_to_end(name)
        counter.expire(now)
        return counter

    def _drop_counters(self, used: int, now: float) -> None:
        """Drop counters without leases, and beyond the bound those used longest ago: up to one more than a call may have made."""
        for name in list(islice(self._counters, used + 1)):
            self._counters[name].expire(now)
            if self._counters[name].leases and len(self._counters) <= self.max_counters:
                return
            del self._counters[name]

    async def alive(self, replica: str) -> bool:
        return replica == self.replica

    async def join(self, group: str, *, may_lead: bool = True) -> Membership:
        return ALONE

    async def leave(self, group: str) -> None:
        return None

    async def publish(self, topic: str, message: str) -> None:
        return None

    def subscribe(self, topic: str, on_message: Callable[[str], None]) -> None:
        return None


@dataclass(slots=True)
class _Counter:
    """Leases of one counter in the order in which they end: id → end, amount."""

    leases: OrderedDict[str, tuple[float, int]] = field(default_factory=OrderedDict)
    used: int = 0

    def expire(self, now: float) -> None:
        while self.leases and self.reset(now) <= 0:
            self.used -= self.leases.popitem(last=False)[1][1]

    def reset(self, now: float) -> float:
        """Seconds until the next lease ends; 0 when there is none."""
        return next(iter(self.leases.values()))[0] - now if self.leases else 0.0

    def wait(self, limit: Limit, now: float) -> float:
        """Seconds until the amount fits; 0 when it does."""
        over, until = self.used + limit.amount - limit.most, now
        for end, amount in self.leases.values():
            if over <= 0:
                break
            over, until = over - amount, end
        return until - now

    def set(self, lease: str, amount: int, end: float | None) -> None:
        known_end, known = self.leases.get(lease, (None, 0))
        if (until := known_end or end) is None:
            return
        self.used += amount - known
        if amount:
            self.leases[lease] = (until, amount)  # which keeps its place
        else:
            self.leases.pop(lease, None)
