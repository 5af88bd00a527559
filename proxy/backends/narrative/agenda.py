"""Which entry is to be looked at when: a heap whose items go stale when an entry is planned anew or goes."""

import heapq
import itertools
import math

from proxy.backends.narrative.ledger import Entry, Phase


class Agenda:
    """Entries by the loop time of their next look; each has one time, the last one planned."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, Entry]] = []
        self._order = itertools.count()

    @property
    def next_at(self) -> float:
        """When `due` may have something, infinity for never."""
        return self._items[0][0] if self._items else math.inf

    def plan(self, entry: Entry, at: float) -> None:
        entry.look_at = at
        heapq.heappush(self._items, (at, next(self._order), entry))

    def due(self, now: float) -> list[Entry]:
        """The entries whose time has come; each is then without a time."""
        due = []
        while self._items and self._items[0][0] <= now:
            item = heapq.heappop(self._items)
            if _holds(item):
                item[2].look_at = math.inf
                due.append(item[2])
        return due

    def clear(self) -> None:
        """Forget all of them."""
        self._items.clear()

    def tidy(self, live: int) -> None:
        """Drop stale items once they outnumber the `live` entries by far."""
        if len(self._items) > 1000 + 4 * live:
            self._items = [item for item in self._items if _holds(item)]
            heapq.heapify(self._items)


def _holds(item: tuple[float, int, Entry]) -> bool:
    at, _, entry = item
    return entry.look_at == at and entry.phase is not Phase.GONE
