"""What happened, for whoever counts or logs it: plain facts, no prompt, no answer, no key."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UpstreamCalled:
    """One HTTP request ended. `status` is None when no answer came; `operation` is submit, read_job, list_jobs or webhooks."""

    operation: str
    status: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Repeated:
    """A call is about to be repeated after `pause` seconds."""

    operation: str
    pause: float


@dataclass(frozen=True, slots=True)
class Queued:
    """A submission is about to be sent, after it waited here for `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job is in flight. `adopted`: its submission had an unknown outcome, and it was found by its tag."""

    job_id: str
    model: str
    seconds: float
    adopted: bool


@dataclass(frozen=True, slots=True)
class Resubmitted:
    """A submission with an unknown outcome is repeated. `sure`: the job was surely not there."""

    model: str
    sure: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a job was noticed.

    Args:
        source: who brought the news: look, sweep, feed, webhook or submit.
        seconds: from submission to notice.
        delay: from the end, by Narrative's clock, to notice, by ours; None when Narrative did not say.
    """

    job_id: str
    model: str
    state: str
    source: str
    seconds: float
    delay: float | None


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Nobody waits for the job any more; it is left to end by itself. `job_id` is None when it never became known."""

    job_id: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A submission was turned away because too much is in flight."""

    in_flight: int


@dataclass(frozen=True, slots=True)
class SourceTrusted:
    """A source of news (feed or webhook) was demoted, or promoted again."""

    source: str
    reliable: bool


Event = UpstreamCalled | Repeated | Queued | Submitted | Resubmitted | Ended | Abandoned | Refused | SourceTrusted
Observer = Callable[[Event], None]


def ignore(_: Event) -> None:
    """The observer of those who do not care."""
