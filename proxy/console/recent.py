"""The last requests, without their content: a bounded list in memory that the middleware fills."""

from collections import deque

from proxy.api.http.middleware import RequestRecord

MOST = 200


class RecentRequests:
    """The last so many requests of this process."""

    def __init__(self, most: int = MOST) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=most)

    def add(self, record: RequestRecord) -> None:
        """Put one in, and the oldest out."""
        self._records.append(record)

    def seen_by(self, owner: str | None) -> list[RequestRecord]:
        """Those that came with credentials of that digest, the newest first; all of them for None."""
        return [record for record in reversed(self._records) if owner is None or record.owner == owner]

    def has_job(self, job_id: str, owner: str | None) -> bool:
        """Whether one of these requests had that job submitted."""
        return any(job_id in record.jobs for record in self.seen_by(owner))
