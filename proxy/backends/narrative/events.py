"""What the job engine reports to metrics and logs: plain facts without prompts, answers or keys."""

from collections.abc import Callable
from typing import NamedTuple


class UpstreamCalled(NamedTuple):
    """One HTTP request ended. `status` is None when no answer came; `operation` is submit, read_job, list_jobs or webhooks."""

    operation: str
    status: int | None
    seconds: float


class Retried(NamedTuple):
    """A call is about to be retried after `pause` seconds."""

    operation: str
    pause: float


class Queued(NamedTuple):
    """A submission is about to be sent, after it waited here for `seconds`."""

    seconds: float


class Submitted(NamedTuple):
    """A job is in flight. `adopted`: its submission had an unknown outcome, and it was found by its tag."""

    job_id: str
    model: str
    seconds: float
    adopted: bool


class Resubmitted(NamedTuple):
    """A submission with an unknown outcome is repeated. `sure`: the job was surely not there."""

    model: str
    sure: bool


class JobEnded(NamedTuple):
    """The end of a job was noticed.

    Args:
        source: what showed it first: `read` (the job itself), `list` or `webhook`.
        seconds: from submission to notice.
        delay: from the end, by Narrative's clock, to notice, by ours; None when Narrative did not say.
    """

    job_id: str
    model: str
    state: str
    source: str
    seconds: float
    delay: float | None


class Abandoned(NamedTuple):
    """Nobody waits for the job any more; it is left to end by itself. `job_id` is None when it never became known."""

    job_id: str | None


class Refused(NamedTuple):
    """A submission was refused because too much is in flight."""

    in_flight: int


class Unreadable(NamedTuple):
    """The record of a job that is waited for could not be read."""

    job_id: str


class ReliabilityChanged(NamedTuple):
    """The list or the webhooks began or ceased to show every end that other sources noticed first."""

    source: str
    reliable: bool


Event = (
    UpstreamCalled | Retried | Queued | Submitted | Resubmitted | JobEnded | Abandoned | Refused | Unreadable
    | ReliabilityChanged
)  # fmt: skip
Observer = Callable[[Event], None]


def ignore(_: Event) -> None:
    """The observer that does nothing."""
