"""A bounded number of slots for work, and a bounded queue for them that is fair between callers."""

import asyncio
import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from proxy.errors import Overloaded

_LONGEST_RETRY_AFTER: Final = 60.0
_SMOOTHING: Final = 0.2
_RETRY_ELSEWHERE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How much may be under way, and how long more is queued. Seconds."""

    most: int = 10_000
    """Slots."""
    most_waiting: int = 1_000
    """Callers that wait for a slot."""
    patience: float = 5.0
    """How long one waits at most."""
    retry_after: float = 2.0
    """The least that refused callers are asked to wait; more when the queue needs longer."""


class FairQueue:
    """Slots that are granted in turn, one caller after the other, and to each caller in the order of arrival.

    Args:
        options: the bounds.
        what: is under way, for error messages.
    """

    def __init__(self, options: QueueOptions, what: str) -> None:
        self._options = options
        self._what = what
        self._free = options.most
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self.waiting = 0
        self._draining = False
        self._granted_at = -math.inf
        self._interval = 0.0

    async def acquire(self, caller: str, deadline: float) -> None:
        """Take a slot, waiting for one at most until `deadline` (loop time).

        Raises:
            Overloaded: none became free in time, too many wait already, or the server is shutting down. Nothing was begun.
        """
        if self._free and not self._queues:
            self._free -= 1
            return
        if self._draining:
            raise _shutting_down()
        if self.waiting >= self._options.most_waiting:
            raise self._full()
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        self._queues.setdefault(caller, deque()).append(granted)
        self.waiting += 1
        self._grant()
        try:
            async with asyncio.timeout_at(min(loop.time() + self._options.patience, deadline)):
                await granted
        except TimeoutError:
            self._withdraw(caller, granted)
            raise self._full() from None
        except asyncio.CancelledError:
            self._withdraw(caller, granted)
            raise
        finally:
            self.waiting -= 1

    def release(self) -> None:
        """Give a slot back."""
        self._free += 1
        self._grant()

    def drain(self) -> None:
        """Refuse all who wait, and from now on all who would have to."""
        self._draining = True
        for queue in self._queues.values():
            for granted in queue:
                if not granted.done():
                    granted.set_exception(_shutting_down())
        self._queues.clear()

    def _grant(self) -> None:
        while self._free and self._queues:
            caller, queue = self._queues.popitem(last=False)
            granted = queue.popleft()
            if queue:
                self._queues[caller] = queue
            if not granted.done():
                self._free -= 1
                granted.set_result(None)
                self._measure()

    def _withdraw(self, caller: str, granted: asyncio.Future[None]) -> None:
        """A caller stops waiting, perhaps in the very moment in which it was granted a slot."""
        queue = self._queues.get(caller)
        if queue is not None and granted in queue:
            queue.remove(granted)
            if not queue:
                del self._queues[caller]
        elif granted.done() and not granted.cancelled() and granted.exception() is None:
            self.release()

    def _measure(self) -> None:
        now = asyncio.get_running_loop().time()
        if math.isfinite(self._granted_at):
            self._interval += _SMOOTHING * (now - self._granted_at - self._interval)
        self._granted_at = now

    def _full(self) -> Overloaded:
        needed = min(self.waiting * self._interval, _LONGEST_RETRY_AFTER)
        message = f"too many {self._what}; try again later"
        return Overloaded(message, retry_after=max(self._options.retry_after, needed))


def _shutting_down() -> Overloaded:
    return Overloaded("The server is shutting down.", retry_after=_RETRY_ELSEWHERE_S)
