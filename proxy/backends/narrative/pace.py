"""How fast to read what, decided from a few numbers. Pure, and within the budget by construction.

| situation | looks at single jobs | feed |
|---|---|---|
| nothing can be done yet | none | none |
| a few jobs | all of them, in turn | none |
| many jobs | a slow sweep of late ones | three states, fast |
| many jobs, feed proved unreliable | all of them, in turn | slower |
| webhooks proved reliable | a slow sweep of late ones | a glance now and then |

Replicas that follow the same account share one budget: one of them reads the feed for all, even for a few jobs, and each has its part
of the looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from proxy.backends.narrative.types import JobState
from proxy.storage import ALONE, Membership

FEW: Final = 2
"""Jobs up to which looking at each is no dearer than the feed."""
_SHORTEST_LOOK: Final = 0.2
_GRACE_OF_SILENCE: Final = 2.0
_SLOWEST: Final = 10.0
_USED: Final = 0.9
"""Part of the budget that is planned with; the rest is for second pages and repeats."""


class Mode(Enum):
    REST = auto()
    LOOKS = auto()
    FEED = auto()
    LOOKS_AND_FEED = auto()
    PUSH = auto()


@dataclass(frozen=True, slots=True)
class Load:
    """What is in flight.

    Args:
        active: jobs that can plausibly be done.
        late: those of them that take longer than jobs of their model do.
        silence: seconds since the last news of an end, or since the first job came.
        feed_reliable, push_reliable: whether the feed and webhooks keep their word.
        standing: this replica's part among those that follow the account's jobs; the one that leads reads the feed.
    """

    active: int
    late: int
    silence: float
    feed_reliable: bool
    push_reliable: bool
    standing: Membership = ALONE


@dataclass(frozen=True, slots=True)
class Pace:
    """What to read. Gaps in seconds.

    Args:
        look_gap: between two looks at the same job, where all are looked at in turn.
        sweep_rate: looks a second at late jobs, where they are swept.
        feed_gaps: between two reads of each state's feed; empty when this replica reads none.
    """

    mode: Mode
    look_gap: float
    sweep_rate: float
    feed_gaps: Mapping[str, float]

    @property
    def looks_at_all(self) -> bool:
        return self.mode in {Mode.LOOKS, Mode.LOOKS_AND_FEED}


# Parts of the rate: completed, failed, cancelled. What is left over is for the sweep.
_FEED: Final = {JobState.COMPLETED: 0.55, JobState.FAILED: 0.15, JobState.CANCELLED: 0.03}
_DEMOTED_FEED: Final = {JobState.COMPLETED: 0.25, JobState.FAILED: 0.05, JobState.CANCELLED: 0.02}
_GLANCE: Final = {JobState.COMPLETED: 0.05, JobState.FAILED: 0.03, JobState.CANCELLED: 0.01}


def pace(load: Load, rate: float) -> Pace:
    """What to read and how often, for `rate` reads a second."""
    mode = _mode(load)
    standing = load.standing
    outliers_only = load.active == load.late and not standing.leads_others
    slow = min(max(load.silence / _GRACE_OF_SILENCE, 1.0), _SLOWEST) if outliers_only else 1.0
    parts = {Mode.FEED: _FEED, Mode.LOOKS_AND_FEED: _DEMOTED_FEED, Mode.PUSH: _GLANCE}.get(mode, {})
    left = rate * (_USED - sum(parts.values())) / standing.members
    look_gap = max(_SHORTEST_LOOK, load.active / left) * slow
    feed_gaps = {str(state): slow / (rate * part) for state, part in parts.items()} if standing.leads else {}
    return Pace(mode, look_gap, left / slow, feed_gaps)


def _mode(load: Load) -> Mode:
    if load.active == 0 and not load.standing.leads_others:
        return Mode.REST
    if load.push_reliable:
        return Mode.PUSH
    if load.active <= FEW and load.standing.members == 1:
        return Mode.LOOKS
    return Mode.FEED if load.feed_reliable else Mode.LOOKS_AND_FEED
