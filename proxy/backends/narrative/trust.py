"""Whether a source of news can be relied on: it owes word of every end that another source noticed first. Pure."""

from collections.abc import Callable
from typing import Final

_HIT: Final = 0.1
_MISS: Final = 0.2
_PASSING: Final = 0.002
_DEMOTED_BELOW: Final = 0.7
_PROMOTED_ABOVE: Final = 0.9
_MOST_OWED: Final = 1_000


class Trust:
    """Keeps the record of one source.

    Time is whatever the source counts in: seconds for one that is pushed, reads for one that is read.

    Args:
        start: how much trust it starts with, from 0 to 1.
        patience: how long after another source it may still bring its news.
        spacing: first words that come closer together count once. Misses are found slowly, by sampling; without this, many
            words would drown them.
        on_change: told when the source is demoted (False) or promoted (True).
    """

    def __init__(
        self, start: float, patience: float, spacing: float, on_change: Callable[[bool], None] = lambda _: None
    ) -> None:
        self._on_change = on_change
        self._score = start
        self._patience = patience
        self._spacing = spacing
        self._reliable = start > _PROMOTED_ABOVE
        self._last_kept = float("-inf")
        self._owed: dict[str, float] = {}

    @property
    def reliable(self) -> bool:
        return self._reliable

    def kept(self, now: float) -> None:
        """The source brought the first word of an end."""
        if now - self._last_kept >= self._spacing:
            self._last_kept = now
            self._judge(1.0, _HIT)

    def owe(self, job_id: str, now: float) -> None:
        """Another source brought the first word."""
        if len(self._owed) < _MOST_OWED:
            self._owed[job_id] = now + self._patience

    def showed(self, job_id: str) -> None:
        """The source brought word of an end that may be known already."""
        if self._owed.pop(job_id, None) is not None:
            self._judge(1.0, _HIT)

    def settle(self, now: float) -> None:
        """Words that are owed for too long will not come."""
        while self._owed and (first := next(iter(self._owed.items())))[1] <= now:
            del self._owed[first[0]]
            self._judge(0.0, _MISS)

    def soften(self) -> None:
        """Time passed: a source that had no chance to prove itself gets a new one in the end."""
        self._judge(1.0, _PASSING)

    def forgive(self) -> None:
        """The source is no longer followed closely: what it owes does not count."""
        self._owed.clear()

    def _judge(self, outcome: float, weight: float) -> None:
        self._score += weight * (outcome - self._score)
        before = self._reliable
        self._reliable = self._score > (_DEMOTED_BELOW if before else _PROMOTED_ABOVE)
        if self._reliable != before:
            self._on_change(self._reliable)
