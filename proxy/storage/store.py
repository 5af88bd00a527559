"""The protocol of all stores: records of text fields, and what replicas coordinate with: counters, leadership and messages.

What happens while a store cannot be reached is decided where it is opened (`proxy/storage/__init__.py`), not here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from proxy.errors import StoreUnavailable


def unavailable() -> StoreUnavailable:
    """The error of a store that cannot be reached, or that refused a call."""
    return StoreUnavailable("What is stored cannot be read at the moment.", retry_after=1.0)


class Records(Protocol):
    """Records by name, each a few fields of text, kept until they are removed. Every call may raise StoreUnavailable."""

    async def get(self, name: str, field: str) -> str | None:
        """One field; None when there is none."""

    async def read(self, name: str) -> Mapping[str, str]:
        """All fields of a record; empty when there is none."""

    async def put(self, name: str, field: str, value: str) -> None:
        """Set a field, whatever its value was."""

    async def compare_and_set(self, name: str, field: str, old: str | None, new: str) -> bool:
        """Set a field if its value still is `old`; with None, if it has none. Returns whether it was set. Atomic."""

    async def remove(self, name: str, field: str | None = None) -> bool:
        """Remove a field, or the whole record. Returns whether there was one."""


@dataclass(frozen=True, slots=True)
class Membership:
    """A replica's part in a group of so many members, this one included: whether it `leads`, and so acts for all."""

    leads: bool
    members: int


ALONE: Final = Membership(leads=True, members=1)
"""The membership of a replica that sees no other."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on the sum of what leases take of one counter.

    Attributes:
        counter: the counter's name. All leases of one counter have the same `ttl_s`.
        most: the sum that is never exceeded by acquiring.
        amount: what the new lease takes; 0 only asks whether the sum is within the bound.
        ttl_s: seconds after which the lease ends by itself.
    """

    counter: str
    most: int
    amount: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Level:
    """The state of a counter.

    Attributes:
        used: the sum of all leases.
        wait_s: seconds until the amount that was asked for fits, as far as leases end by themselves; 0 when it does.
        reset_s: seconds until the next lease ends; 0 when there is none.
    """

    used: int
    wait_s: float
    reset_s: float


Levels = tuple[bool, Sequence[Level]]
"""Whether a lease was acquired, and the counters of its limits after that, in their order."""


class Ledger(Records, Protocol):
    """Records that may expire, and which tell of the replicas that wrote them whether they still run. A replica is one process.

    `ttl_s` is the life of the whole record from this call on, in seconds. None leaves it as it is; a record without one is kept.
    """

    @property
    def replica(self) -> str:
        """The id of this process, new at each start."""

    @property
    def healthy(self) -> bool:
        """False while a shared store cannot be reached."""

    async def add(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> str:
        """Set a field that has no value yet. Returns the value that is then in force. Atomic."""

    async def put(self, name: str, field: str, value: str, *, ttl_s: float | None = None) -> None:
        """Set a field, whatever its value was."""

    async def alive(self, replica: str) -> bool:
        """Whether a replica still runs. One that was killed counts as alive for a few seconds."""


class Store(Ledger, Protocol):
    """A ledger, and what replicas coordinate with."""

    @property
    def shared(self) -> bool:
        """Whether other processes see what is written here."""

    async def acquire(self, lease: str, limits: Sequence[Limit]) -> Levels:
        """Take the amounts of all limits, or of none; `lease` is a unique id, under which they can be changed and given back. Atomic."""

    async def resize(self, counter: str, lease: str, amount: int, *, ttl_s: float | None = None) -> None:
        """Set what a lease takes of one counter, whatever its limit; 0 gives it back.

        A lease that is made by this call lives for `ttl_s` seconds; with None, one that has ended stays ended.
        """

    async def join(self, group: str, *, may_lead: bool = True) -> Membership:
        """Become, or remain, a member of a group; one of those who may lead does. The membership ends a few seconds after the last call."""

    async def leave(self, group: str) -> None:
        """End the membership, and let another lead at once."""

    async def publish(self, topic: str, message: str) -> None:
        """Send a message to all other replicas. Delivery is not guaranteed."""

    def subscribe(self, topic: str, on_message: Callable[[str], None]) -> None:
        """Have a quick function called with each message of other replicas; one subscriber a topic."""
