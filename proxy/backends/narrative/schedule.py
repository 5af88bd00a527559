"""When to look at a single job again, for those who wait for one by themselves. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """Pauses between looks. Seconds."""

    first: float = 0.1
    factor: float = 1.5
    most: float = 2.0


def next_look(elapsed: float, schedule: Schedule) -> float:
    """Seconds from now until the next look at a job that was submitted `elapsed` seconds ago.

    `first`, then in proportion to the age, which is what a growing factor amounts to, at most `most`.
    """
    return min(max(schedule.first, elapsed * (schedule.factor - 1)), schedule.most)
