"""The last requests, without their content: a bounded list in memory, filled by a middleware."""

import hashlib
import time
from collections import deque
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST = 200
_OWN = ("/console", "/metrics", "/healthz", "/readyz")


@dataclass(slots=True)
class Entry:
    """One request, from its arrival on.

    Attributes:
        at: when it arrived, in seconds since 1970.
        route: as it is written in the code, never what the client wrote; "" until its answer begins, as are the rest.
        status: 0 until then.
        model: what the name of the model resolved to, "" where none did.
        ms: how long it took; None while it is under way.
        jobs: ids of the jobs that were submitted for it.
        owner: digest of the key it came with.
    """

    at: float
    method: str
    owner: str
    route: str = ""
    status: int = 0
    model: str = ""
    request_id: str = ""
    jobs: tuple[str, ...] = ()
    ms: float | None = None


class RecentRequests:
    """The last so many requests of this process."""

    def __init__(self, most: int = MOST) -> None:
        self._entries: deque[Entry] = deque(maxlen=most)

    def add(self, entry: Entry) -> None:
        """Put one in, and the oldest out."""
        self._entries.append(entry)

    def seen_by(self, owner: str | None) -> list[Entry]:
        """Those that came with a key of that digest, the newest first; all of them for None."""
        return [entry for entry in reversed(self._entries) if owner is None or entry.owner == owner]

    def has_job(self, job_id: str, owner: str | None) -> bool:
        """Whether one of these requests had that job submitted."""
        return any(job_id in entry.jobs for entry in self.seen_by(owner))


class RecordRequests:
    """Plain-ASGI middleware that notes each request when it arrives, when its answer begins, and at its end."""

    def __init__(self, app: ASGIApp, recent: RecentRequests) -> None:
        self.app = app
        self._recent = recent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "OPTIONS" or scope["path"].startswith(_OWN):
            await self.app(scope, receive, send)
            return
        entry = Entry(time.time(), scope["method"], owner_of(Headers(scope=scope)))
        self._recent.add(entry)
        started = time.perf_counter()

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = Headers(raw=message["headers"])
                entry.route = getattr(scope.get("route"), "path", "unknown")
                entry.status = message["status"]
                entry.model = headers.get("x-proxy-model", "")
                entry.request_id = headers.get("x-request-id", "")
                entry.jobs = tuple(filter(None, headers.get("x-narrative-job-id", "").split(", ")))
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        finally:
            entry.ms = round((time.perf_counter() - started) * 1000, 1)


def owner_of(headers: Headers) -> str:
    """What tells keys apart, and tells nothing of them."""
    return hashlib.sha256(headers.get("authorization", "").encode("utf-8", "surrogateescape")).hexdigest()
