"""Webhook subscriptions, and the deliveries that tell them of changes."""

import asyncio
import contextlib
import heapq
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from proxy.sandbox.faults import Fault, Faults
from proxy.sandbox.http import LOOPBACK, SandboxError, SandboxOptions, first_error
from proxy.sandbox.jobs import JOB_TYPE, NEVER, JobStore, SandboxJob

_MAX_SUBSCRIPTIONS = 1_000
_MAX_SCHEDULED = 100_000


class SubscriptionBody(BaseModel):
    """The body of `POST /webhooks`. An absent filter accepts everything."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    type: Literal["webhook_subscription_jobs"]
    url: str
    name: str | None = None
    job_types: list[str] | None = None
    states: list[str] | None = None
    job_ids: list[str] | None = None


@dataclass
class Subscription:
    """A subscription; an archived one receives nothing any more."""

    id: str
    secret: str
    body: SubscriptionBody
    status: Literal["active", "archived"] = "active"

    def accepts(self, job: SandboxJob, state: str) -> bool:
        """Whether a job's change to a state is to be delivered."""
        types = {name.replace("-", "_") for name in self.body.job_types or (JOB_TYPE,)}
        return (
            self.status == "active"
            and JOB_TYPE in types
            and (not self.body.states or state in self.body.states)
            and (not self.body.job_ids or job.id in self.body.job_ids)
        )

    def record(self) -> dict[str, Any]:
        """As the API shows it."""
        return {"id": self.id, "secret": self.secret, "status": self.status, **self.body.model_dump(exclude_none=True)}


class WebhookDeliveries:
    """The subscriptions of one sandbox, and what delivers to them: one task follows the clock, a task each carries a delivery.

    There are at most 1,000 active subscriptions, and as many archived ones are remembered.
    """

    def __init__(self, options: SandboxOptions, store: JobStore, faults: Faults) -> None:
        self._subscriptions: dict[str, Subscription] = {}
        self._options = options
        self._store = store
        self._faults = faults
        self._due: list[tuple[float, int, SandboxJob]] = []
        self._scheduled = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(64)
        self._tasks: set[asyncio.Task[None]] = set()
        store.on_change = self._job_changed

    def create(self, body: bytes) -> Subscription:
        """Reads a subscription and adds it.
        Raises SandboxError: 400, the body is wrong or deliveries may not go there.
        """
        try:
            parsed = SubscriptionBody.model_validate_json(body)
        except ValidationError as fault:
            raise SandboxError(400, first_error(fault)) from fault
        self._check_url(parsed.url)
        if len(self._active()) >= _MAX_SUBSCRIPTIONS:
            raise SandboxError(400, f"There are {_MAX_SUBSCRIPTIONS} subscriptions already")
        subscription = Subscription(str(uuid.uuid4()), str(uuid.uuid4()), parsed)
        self._subscriptions[subscription.id] = subscription
        if len(self._subscriptions) > 2 * _MAX_SUBSCRIPTIONS:
            del self._subscriptions[next(each.id for each in self.all() if each.status == "archived")]
        # It covers jobs that have not ended.
        now, scheduled = self._store.clock(), {job.id for _, _, job in self._due}
        for job in self._store.jobs():
            if job.id not in scheduled:
                self._schedule(job, job.next_change(now))
        return subscription

    def get(self, subscription_id: str) -> Subscription:
        """Raises SandboxError: 404."""
        subscription = self._subscriptions.get(subscription_id)
        if subscription is None:
            raise SandboxError(404, f"Webhook {subscription_id} was not found")
        return subscription

    def all(self) -> list[Subscription]:
        """In the order of their creation, archived ones included."""
        return list(self._subscriptions.values())

    def _active(self) -> list[Subscription]:
        return [each for each in self.all() if each.status == "active"]

    def _check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError as fault:
            raise SandboxError(400, "url: is not a URL") from fault
        if parts.scheme != "https" and not (parts.scheme == "http" and host in LOOPBACK):
            raise SandboxError(400, "url: must be https")
        if host not in self._options.webhook_hosts:
            raise SandboxError(400, f"url: deliveries go to {', '.join(sorted(self._options.webhook_hosts))} only")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Delivers while the block runs; unfinished deliveries are dropped at its end."""
        self._loop = asyncio.get_running_loop()
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as client:
            self._start(self._follow(client))
            try:
                yield
            finally:
                tasks = list(self._tasks)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._loop = None

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _job_changed(self, job: SandboxJob) -> None:
        if self._active():
            self._schedule(job, job.updated_at(self._store.clock()))

    def _schedule(self, job: SandboxJob, at: float) -> None:
        if at == NEVER or len(self._due) >= _MAX_SCHEDULED:
            return
        self._scheduled += 1
        heapq.heappush(self._due, (at, self._scheduled, job))
        if self._loop is not None:
            # A test may end a job from another thread than the server's.
            self._loop.call_soon_threadsafe(self._wake.set)

    async def _follow(self, client: aiohttp.ClientSession) -> None:
        while True:
            self._wake.clear()
            now = self._store.clock()
            while self._due and self._due[0][0] <= now:
                at, _, job = heapq.heappop(self._due)
                # A job that was ended early leaves the moments behind that were planned for it.
                if job.updated_at(at) == at:
                    state = job.state_at(at)
                    for subscription in self._active():
                        if subscription.accepts(job, state):
                            fault = self._faults.pick("deliveries", job.id)
                            self._start(self._deliver(client, subscription, job, at, fault))
                    self._schedule(job, job.next_change(at))
            with contextlib.suppress(TimeoutError):
                # `wait_for` of Python 3.11 can lose a cancellation that comes together with what it waits for.
                async with asyncio.timeout(self._due[0][0] - now if self._due else None):
                    await self._wake.wait()

    async def _deliver(
        self, client: aiohttp.ClientSession, subscription: Subscription, job: SandboxJob, at: float, fault: Fault | None
    ) -> None:
        event = {
            "id": str(uuid.uuid4()),
            "type": f"job.{job.state_at(at)}",
            "created_at": datetime.fromtimestamp(at, UTC).isoformat(),
            "data": orjson.Fragment(job.record(at, with_result=self._options.webhook_results)),
        }
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())}
        if self._options.webhook_secret == "header":  # noqa: S105 - how the secret travels
            headers["X-Narrative-Webhook-Secret"] = subscription.secret
        elif self._options.webhook_secret == "bearer":  # noqa: S105
            headers["Authorization"] = f"Bearer {subscription.secret}"
        kind = fault.kind if fault else None
        if fault and kind == "late":
            await asyncio.sleep(fault.delay_s)
        for _ in range({"twice": 2, "lost": 0}.get(kind or "", 1)):
            await self._post(client, subscription.body.url, orjson.dumps(event), headers)

    async def _post(self, client: aiohttp.ClientSession, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Tries until it is answered with 2xx or the tries are used up; all have the same idempotency key."""
        for attempt in range(self._options.webhook_attempts):
            if attempt:
                await asyncio.sleep(self._options.webhook_retry_s * 2 ** (attempt - 1))
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._slots, client.post(url, data=body, headers=headers, allow_redirects=False) as response:
                    if 200 <= response.status < 300:
                        return
