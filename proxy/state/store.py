"""The one protocol of all stores: records of text fields that expire, who is alive, one leader a role, and news.

A store never raises: a shared one that is away lets this replica go on by itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Standing:
    """A replica's part in a role.

    Args:
        leads: it is the one that acts for all.
        members: how many take part, this one included.
    """

    leads: bool
    members: int

    @property
    def serves(self) -> bool:
        """Whether others count on it."""
        return self.leads and self.members > 1


BY_ITSELF = Standing(leads=True, members=1)
"""The part of a replica that sees no other."""


class Store(Protocol):
    """Names, fields and values are text. `ttl_s` is the record's life from this call on, in seconds."""

    @property
    def replica(self) -> str:
        """The id of this process, new at each start."""

    @property
    def shared(self) -> bool:
        """Whether other processes see what is written here."""

    @property
    def healthy(self) -> bool:
        """False while a shared store is away."""

    async def read(self, name: str) -> Mapping[str, str]:
        """All fields of a record; empty when there is none."""

    async def add(self, name: str, field: str, value: str, *, ttl_s: float) -> str:
        """Set a field that has no value yet. Returns the value that is then in force. Atomic."""

    async def put(self, name: str, field: str, value: str, *, ttl_s: float) -> None:
        """Set a field."""

    async def swap(self, name: str, field: str, old: str, new: str) -> bool:
        """Set a field if its value still is `old`. Returns whether it was. Atomic."""

    async def remove(self, name: str, field: str | None = None) -> None:
        """Remove a field, or the whole record."""

    async def alive(self, replica: str) -> bool:
        """Whether a replica still runs. A killed one counts as alive for a few seconds."""

    async def join(self, role: str, *, may_lead: bool = True) -> Standing:
        """Take part in a role; of those who do and may lead, one does. Asked again every second or two; over a few seconds after the
        last time."""

    async def leave(self, role: str) -> None:
        """Take part no more, and let another lead at once."""

    async def publish(self, topic: str, message: str) -> None:
        """Tell all other replicas."""

    def listen(self, topic: str, heard: Callable[[str], None]) -> None:
        """Have `heard` called with what other replicas publish; one listener a topic. It must be quick."""
