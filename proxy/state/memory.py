"""State within this process: nothing to install, gone with the process, bounded."""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

from proxy.state.store import BY_ITSELF, Standing

MOST_RECORDS: Final = 100_000
MOST_BYTES: Final = 64 * 1024 * 1024
_OVERHEAD: Final = 400
"""Bytes a record and its fields cost beside their text, about."""


@dataclass(slots=True)
class _Record:
    expires: float
    fields: dict[str, str] = field(default_factory=dict)
    size: int = _OVERHEAD


class MemoryStore:
    """See `proxy.state.store.Store`. Beyond its bounds the record that was written longest ago is forgotten.

    Args:
        most_records: how many are kept.
        most_bytes: how much they may hold together, about.
        clock: seconds; any origin.
    """

    shared = False
    healthy = True

    def __init__(
        self,
        *,
        most_records: int = MOST_RECORDS,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.replica = uuid4().hex
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._bytes = 0
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._clock = clock

    def __len__(self) -> int:
        return len(self._records)

    async def read(self, name: str) -> Mapping[str, str]:
        record = self._live(name)
        return dict(record.fields) if record else {}

    async def add(self, name: str, field: str, value: str, *, ttl_s: float) -> str:
        record = self._live(name)
        known = record.fields.get(field) if record else None
        if known is not None:
            return known
        self._set(name, field, value, ttl_s)
        return value

    async def put(self, name: str, field: str, value: str, *, ttl_s: float) -> None:
        self._set(name, field, value, ttl_s)

    async def swap(self, name: str, field: str, old: str, new: str) -> bool:
        record = self._live(name)
        if record is None or record.fields.get(field) != old:
            return False
        self._set(name, field, new, record.expires - self._clock())
        return True

    async def remove(self, name: str, field: str | None = None) -> None:
        record = self._live(name)
        if record is None:
            return
        if field is not None:
            self._resize(record, -_size(field, record.fields.pop(field, None)))
        if field is None or not record.fields:
            self._forget(name)

    async def alive(self, replica: str) -> bool:
        return replica == self.replica

    async def join(self, role: str, *, may_lead: bool = True) -> Standing:
        return BY_ITSELF

    async def leave(self, role: str) -> None:
        return None

    async def publish(self, topic: str, message: str) -> None:
        return None

    def listen(self, topic: str, heard: Callable[[str], None]) -> None:
        return None

    def _live(self, name: str) -> _Record | None:
        record = self._records.get(name)
        if record is not None and record.expires <= self._clock():
            self._forget(name)
            return None
        return record

    def _set(self, name: str, field: str, value: str, ttl_s: float) -> None:
        record = self._live(name)
        if record is None:
            record = self._records[name] = _Record(0.0)
            self._bytes += record.size
        self._records.move_to_end(name)
        record.expires = self._clock() + ttl_s
        self._resize(record, _size(field, value) - _size(field, record.fields.get(field)))
        record.fields[field] = value
        while len(self._records) > self._most_records or (self._bytes > self._most_bytes and len(self._records) > 1):
            self._forget(next(iter(self._records)))

    def _resize(self, record: _Record, by: int) -> None:
        record.size += by
        self._bytes += by

    def _forget(self, name: str) -> None:
        self._bytes -= self._records.pop(name).size


def _size(field: str, value: str | None) -> int:
    return 0 if value is None else len(field) + len(value)
