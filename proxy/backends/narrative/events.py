"""The options of the job engine, and the events that it reports to metrics and logs, which hold no prompts, answers or keys."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True)
class JobsOptions:
    """How jobs are run. Times are seconds.

    Args:
        max_in_flight: jobs under way.
        max_queued: submissions that wait for a place, each `queue_timeout` at most.
        queue_retry_after: the least that refused callers are asked to wait; more when the queue needs longer.
        max_submissions: being sent at one time.
        lookups: pauses before each reading of the list of jobs for a lost answer. Their sum is how far the list may lag, and how late a
            submission may still take effect, before its job counts as not there.
        attempts: submissions of one request at most.
        in_doubt: what to do when nobody can tell whether the job exists: say so, or submit again and perhaps pay twice.
        reads_per_second: what an account may cost while jobs are in flight. Reading a job that is said to have ended, and one read of
            each submitted job, come on top.
        lost_after: a job that Narrative does not know, or does not show us, is given up this long after its submission.
        unreadable_after: how long a record that cannot be read is read again before the wait ends with an error.
        result_lag: how long a completed job without a result is read again before it is taken as it is.
        closing_grace: what submissions on their way are given at the end, so that their jobs are recorded.
    """

    max_in_flight: int = 10_000
    max_queued: int = 1_000
    queue_timeout: float = 5.0
    queue_retry_after: float = 2.0
    max_submissions: int = 32
    lookups: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    attempts: int = 3
    in_doubt: Literal["error", "resubmit"] = "error"
    reads_per_second: float = 10.0
    lost_after: float = 10.0
    unreadable_after: float = 5.0
    result_lag: float = 3.0
    closing_grace: float = 5.0


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

    model: str
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


class EndedElsewhere(NamedTuple):
    """A webhook reached this replica about a job that is not watched here."""

    job_id: str


class Abandoned(NamedTuple):
    """Nobody waits for the job any more; it is left to end by itself. `job_id` is None when it never became known."""

    job_id: str | None


class Refused(NamedTuple):
    """A submission was refused because too much is in flight."""


class Unreadable(NamedTuple):
    """The record of a job that is waited for could not be read."""

    job_id: str


class ReliabilityChanged(NamedTuple):
    """The list or the webhooks began or ceased to show every end that other sources noticed first."""

    source: str
    reliable: bool


Event = (
    UpstreamCalled | Retried | Queued | Submitted | Resubmitted | JobEnded | EndedElsewhere | Abandoned | Refused
    | Unreadable | ReliabilityChanged
)  # fmt: skip
Observer = Callable[[Event], None]


def ignore(_: Event) -> None:
    """The observer that does nothing."""
