"""Query and page of `GET /jobs` (contract narrative.md, GET /jobs)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from proxy.backends.narrative.types import JobState
from proxy.sandbox.jobs import JOB_TYPE, Job
from proxy.sandbox.refusal import Refusal

Order = Literal["created_at_asc", "created_at_desc", "updated_at_asc", "updated_at_desc"]

MOST_PER_PAGE = 500
_USUAL_PER_PAGE = 50


@dataclass(frozen=True)
class JobQuery:
    """What is asked for; None takes all."""

    type: str | None = None
    state: str | None = None
    data_plane_id: str | None = None
    per_page: int = _USUAL_PER_PAGE
    offset: int = 0
    order_by: Order = "created_at_desc"

    @property
    def newest_first(self) -> bool:
        return self.order_by.endswith("_desc")

    @property
    def by_update(self) -> bool:
        return self.order_by.startswith("updated_at")

    @property
    def of_our_type(self) -> bool:
        """Whether jobs of the only type there is are asked for; spelled with `_` or `-`."""
        return self.type is None or self.type.replace("-", "_") == JOB_TYPE

    def takes(self, job: Job, now: float) -> bool:
        """Whether a job is asked for, as it is at a time."""
        return (self.state is None or job.state_at(now) == self.state) and (
            self.data_plane_id is None or job.data_plane_id == self.data_plane_id
        )


@dataclass(frozen=True)
class JobPage:
    """Jobs of one page, and how many there are in all."""

    jobs: Sequence[Job]
    total: int

    def counts(self, query: JobQuery) -> dict[str, int]:
        """`current_page` (from 1), `total_pages`, `total_records`."""
        return {
            "current_page": query.offset // query.per_page + 1,
            "total_pages": -(-self.total // query.per_page),
            "total_records": self.total,
        }


EMPTY_PAGE = JobPage((), 0)


def read_query(params: Mapping[str, str]) -> JobQuery:
    """The query from URL parameters; unknown ones are ignored.

    Raises:
        Refusal: 400 that names the parameter.
    """
    order: Any = params.get("order_by", "created_at_desc")
    if order not in get_args(Order):
        raise Refusal(400, f"order_by: must be one of {', '.join(get_args(Order))}")
    state = params.get("state")
    if state is not None and state not in list(JobState):
        raise Refusal(400, f"state: must be one of {', '.join(JobState)}")
    per_page = _whole(params, "per_page", _USUAL_PER_PAGE)
    if not 1 <= per_page <= MOST_PER_PAGE:
        raise Refusal(400, f"per_page: must be 1 to {MOST_PER_PAGE}")
    plane = params.get("data_plane_id")
    return JobQuery(
        type=params.get("type"),
        state=state,
        data_plane_id=plane.lower() if plane is not None else None,
        per_page=per_page,
        offset=_whole(params, "offset", 0),
        order_by=order,
    )


def _whole(params: Mapping[str, str], name: str, usual: int) -> int:
    text = params.get(name)
    if text is None:
        return usual
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise Refusal(400, f"{name}: must be a whole number")
    return int(text)


def slow_page(jobs: Iterator[Job], query: JobQuery, now: float) -> JobPage:
    """A page by looking at every job.

    Args:
        jobs: all jobs, in the order of their creation.
        query: what is asked for.
        now: the time to judge states by.
    """
    found = [job for job in jobs if query.takes(job, now)]
    if query.by_update:
        found.sort(key=lambda job: (job.updated_at(now), job.number), reverse=query.newest_first)
    elif query.newest_first:
        found.reverse()
    return JobPage(found[query.offset : query.offset + query.per_page], len(found))
