"""How many reads a second an account may cost: a token bucket that gives way to 429s and outages. Pure: time comes in."""

from typing import Final

_SHORTEST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_SLOWEST: Final = 0.05
"""Part of the rate that is left after many 429s."""
_RECOVERY: Final = 0.05
"""Part of the full rate that comes back each second after a 429."""


class Budget:
    """Reads allowed over time.

    Args:
        rate: reads a second.
        burst: reads that may come at once after a rest.
        now: loop time.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._full = rate
        self._part = 1.0
        self.share = 1.0
        """Part of the rate that is this replica's."""
        self._burst = burst
        self._tokens = burst
        self._seen = now
        self._paused_until = now
        self._failures = 0

    @property
    def whole(self) -> float:
        """Reads a second at present, of all replicas."""
        return self._full * self._part

    @property
    def rate(self) -> float:
        """Reads a second at present, of this one."""
        return self.whole * self.share

    def ready_at(self, now: float) -> float:
        """When the next read may start: `now` or later."""
        self._refill(now)
        missing = 1.0 - self._tokens
        return max(now, self._paused_until, now + missing / self.rate if missing > 0 else now)

    def paused_until(self, now: float) -> float:
        """When a read that is owed at any price may start: `now`, or later after a 429 or in an outage."""
        return max(now, self._paused_until)

    def take(self, now: float) -> None:
        """A read starts. It may start before its time; the next ones then start later."""
        self._refill(now)
        self._tokens = max(self._tokens - 1.0, -self._full)

    def limited(self, started: float, now: float, retry_after: float) -> None:
        """A read that started at `started` was answered 429: pause, then go slower for a while."""
        if started >= self._paused_until:
            self._part = max(self._part / 2, _SLOWEST)
        self._paused_until = max(self._paused_until, now + retry_after)

    def failed(self, started: float, now: float) -> None:
        """A read failed for a reason that is not the job's: pause, longer each time."""
        if started < self._paused_until:
            return
        pause = min(_SHORTEST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        self._failures += 1
        self._paused_until = now + pause

    def succeeded(self) -> None:
        """A read was answered."""
        self._failures = 0

    def _refill(self, now: float) -> None:
        passed = max(now - self._seen, 0.0)
        self._seen = now
        self._tokens = min(self._tokens + passed * self.rate, self._burst)
        if now > self._paused_until:
            self._part = min(self._part + passed * _RECOVERY, 1.0)
