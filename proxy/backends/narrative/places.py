"""A bounded number of places, and a bounded wait for one."""

import asyncio
from dataclasses import dataclass

from proxy.errors import Overloaded


@dataclass(frozen=True, slots=True)
class PlaceOptions:
    """How much may be in flight. Seconds."""

    most: int = 10_000
    """Jobs in flight."""
    most_waiting: int = 1_000
    """Submissions that wait for a place."""
    patience: float = 5.0
    """How long one waits."""
    retry_after: float = 2.0
    """What those who find no place are told."""


class Places:
    """Places for jobs in flight, given out in the order of arrival."""

    def __init__(self, options: PlaceOptions) -> None:
        self._options = options
        self._free = asyncio.Semaphore(options.most)
        self._waiting = 0

    @property
    def waiting(self) -> int:
        return self._waiting

    async def take(self, deadline: float) -> None:
        """Take a place, waiting for one at most until `deadline` (loop time).

        Raises:
            Overloaded: none came free in time, or too many wait already.
        """
        if self._free.locked() and self._waiting >= self._options.most_waiting:
            raise self._full()
        patience = min(self._options.patience, deadline - asyncio.get_running_loop().time())
        self._waiting += 1
        try:
            async with asyncio.timeout(patience):
                await self._free.acquire()
        except TimeoutError:
            raise self._full() from None
        finally:
            self._waiting -= 1

    def give_back(self) -> None:
        self._free.release()

    def _full(self) -> Overloaded:
        return Overloaded("too many jobs are in flight; try again later", retry_after=self._options.retry_after)
